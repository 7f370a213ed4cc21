"""What a right answer is. Each function returns what is wrong, "code: detail", or "" if nothing is."""

from collections.abc import Mapping
from typing import Any

from citadel.pattern_test.client import Answer, is_vector
from citadel.pattern_test.rows import Row

ENDED = ("completed", "failed", "cancelled", "expired")


def live(answer: Answer, row: Row) -> str:
    """A live answer: a vector, by the model and the pattern that were asked for."""
    if answer.error:
        return answer.error
    found = answer.json
    if not is_vector(found.get("embedding")):
        return "malformed: no vector of finite numbers in “embedding”"
    return _named(found, row, {"processing_mode": "real_time"} if row.pattern == "hybrid" else {})


def queued(answer: Answer, row: Row) -> str:
    """A queued answer: a batch id, a place in the queue, a time."""
    if answer.error:
        return answer.error
    found = answer.json
    missing = [name for name in ("batch_id", "queue_position", "estimated_completion") if not found.get(name)]
    if missing:
        return f"malformed: {', '.join(missing)} missing"
    return _named(found, row, {"status": "queued", **({"processing_mode": "bulk"} if row.pattern == "hybrid" else {})})


def _named(found: Mapping[str, Any], row: Row, more: Mapping[str, str]) -> str:
    expected = {"model": row.model, "pattern": row.pattern, **more}
    wrong = [f"{k} is {found.get(k)!r}, not {v!r}" for k, v in expected.items() if found.get(k) != v]
    return f"malformed: {'; '.join(wrong)}" if wrong else ""


def results(answer: Answer, *, texts: int) -> str:
    """A completed batch's results: a vector for each text, in order, all of one length."""
    if answer.error:
        return answer.error
    rows = answer.json.get("results")
    if not isinstance(rows, list) or [r.get("index") for r in rows] != list(range(texts)):
        return f"malformed: the results are not those of texts 0 to {texts - 1}, in order"
    for row in rows:
        if not is_vector(row.get("embedding")):
            error = row.get("error") or {}
            return f"{error.get('code', 'malformed')}: text {row['index']}: {error.get('detail', 'no vector')}"
    lengths = {len(row["embedding"]) for row in rows}
    return "" if len(lengths) == 1 else f"malformed: vectors of different lengths: {sorted(lengths)}"
