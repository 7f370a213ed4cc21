"""Record answers of a running OpenAI-like server.

    python -m tests.wire.record http://127.0.0.1:8000 NAME "server and version"

Writes tests/wire/openai/NAME-*.json. What an answer means stays to be judged by whoever records it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import requests

TEXTS = ["how much protein per day", "Wie viel Eiweiß am Tag?"]
CALLS: dict[str, tuple[str, str, Any, str]] = {
    "two-texts": (
        "POST",
        "/v1/embeddings",
        {"model": "e5-query", "input": TEXTS, "encoding_format": "float"},
        "vectors",
    ),
    "base64": ("POST", "/v1/embeddings", {"model": "e5-query", "input": TEXTS, "encoding_format": "base64"}, "vectors"),
    "empty-input": ("POST", "/v1/embeddings", {"model": "e5-query", "input": []}, "TextRejected"),
    "not-strings": ("POST", "/v1/embeddings", {"model": "e5-query", "input": [1]}, "TextRejected"),
    "unknown-route": ("POST", "/v2/embeddings", {"model": "e5-query", "input": TEXTS}, "UpstreamFailed"),
    "health": ("GET", "/health", None, "healthy"),
    "models": ("GET", "/v1/models", None, "healthy"),
}


def record(base_url: str, name: str, origin: str) -> None:
    """Make every call and write it down."""
    for call, (method, path, body, means) in CALLS.items():
        answer = requests.request(method, base_url + path, json=body, timeout=30)
        headers = {key.lower(): value for key, value in answer.headers.items()}
        exchange = {
            "origin": f"recorded from {origin}",
            "means": means,
            "request": {"method": method, "path": path, "body": body},
            "response": {"status": answer.status_code, "headers": headers, "body": answer.text},
        }
        target = Path(__file__).parent / "openai" / f"{name}-{call}.json"
        target.write_text(json.dumps(exchange, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(*sys.argv[1:4])
