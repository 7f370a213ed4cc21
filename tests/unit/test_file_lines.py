"""A batch file's lines: what each asks for, and each way in which one can be wrong, with its number."""

import io
from typing import Any

import pytest

from batches import file_lines
from batches.file_lines import Group, Line, Scan, Wrong
from batches.models import FileBatch
from tests.made_files import a_line

GOOD = a_line("good", "text")


def scan(*lines: bytes, judge: Any = lambda group: None) -> Scan:
    return file_lines.scan(io.BytesIO(b"".join(lines)), judge)


def faults(*lines: bytes, **options: Any) -> list[tuple[str, str | None, int | None]]:
    return [(w.code, w.param, w.line) for w in scan(*lines, **options).errors]


def test_lines_are_sorted_by_what_the_queue_must_know_of_their_texts() -> None:
    lines = [
        a_line("1", "a"),
        a_line("2", ["b", "c"], model="n"),
        a_line("3", "d", body={"encoding_format": "base64", "user": "ann"}),
        a_line("4", "e", body={"dimensions": 4}),
        a_line("5", "f", body={"input_type": "query"}),
        a_line("6", "g", body={"dimensions": None, "encoding_format": None}),
    ]

    found = scan(*lines)
    read = list(file_lines.right(io.BytesIO(b"".join(lines))))

    assert (found.lines, found.texts, found.errors) == (6, 7, [])
    plain, shorter, query = Group("m", None, ""), Group("m", 4, ""), Group("m", None, "query")
    assert found.groups == {plain: 3, Group("n", None, ""): 2, shorter: 1, query: 1}
    assert found.by_model() == {"m": 5, "n": 2}
    assert [line.base64 for line in read] == [False, False, True, False, False, False]
    assert list(file_lines.texts_of(io.BytesIO(b"".join(lines)), plain)) == ["a", "d", "g"]


def test_blank_lines_and_a_byte_order_mark_count_for_their_number_alone() -> None:
    lines = b"\xef\xbb\xbf" + GOOD + b"\n  \r\n" + a_line("other", "text").rstrip(b"\n")

    assert [line.number for line in file_lines.right(io.BytesIO(lines))] == [1, 4]


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}\n', "invalid_json_line", None),
        (a_line("", "text"), "invalid_custom_id", "custom_id"),
        (a_line("x" * 513, "text"), "invalid_custom_id", "custom_id"),
        (a_line(7, "text"), "invalid_custom_id", "custom_id"),
        (a_line("x", "text", method="GET"), "invalid_method", "method"),
        (a_line("x", "text", url="/v1/completions"), "invalid_url", "url"),
        (a_line("x", "text", more=1), "invalid_request", "more"),
        (a_line("x", "text", body={"dimension": 4}), "invalid_request", "body.dimension"),
        (a_line("x", ["text", ""]), "invalid_request", "body.input.1"),
        (a_line("x", [1, 2]), "invalid_request", "body.input"),
        (b'{"custom_id": "x", "method": "POST", "url": "/v1/embeddings"}\n', "invalid_request", "body"),
        (b'{"custom_id": "x", "method": "POST", "url": "/v1/embeddings", "body": []}\n', "invalid_request", "body"),
        (GOOD, "duplicate_custom_id", "custom_id"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_and_field(line: bytes, code: str, param: str | None) -> None:
    assert faults(GOOD, b"\n", line, a_line("last", "text")) == [(code, param, 3)]


def test_each_line_of_a_group_that_cannot_be_served_is_wrong_and_it_is_asked_about_once() -> None:
    asked = []

    def judge(group: Group) -> None:
        asked.append(group.model)
        if group.model == "nobody":
            raise Wrong("model_not_found", "No such model.", param="body.model")

    found = faults(a_line("1", "a", model="nobody"), GOOD, a_line("2", "b", model="nobody"), judge=judge)

    assert found == [("model_not_found", "body.model", 1), ("model_not_found", "body.model", 3)]
    assert asked == ["nobody", "m"]


def test_the_bounds_of_a_file_end_its_reading(settings: Any) -> None:
    settings.OPENAI_BATCH_MAX_LINES, settings.MAX_BATCH_TEXTS, settings.OPENAI_BATCH_MAX_GROUPS = 3, 5, 2
    settings.MAX_JSON_BODY_BYTES = 2000
    four = [a_line(str(n), "text") for n in range(4)]

    assert faults(*four[:3]) == []
    assert faults(*four, b"{\n") == [("too_many_lines", None, 4)]
    assert faults(four[0], a_line("x", ["a"] * 5), b"{\n") == [("too_many_texts", None, 2)]
    sizes = [a_line(str(n), "text", body={"dimensions": n}) for n in (1, 2, 3)]
    assert faults(*sizes) == [("too_many_groups", None, 3)]
    assert faults(four[0], a_line("x", "y" * 4000), b"{\n") == [("line_too_long", None, 2)]
    assert faults(b"\n\n") == [("empty_file", None, None)]


def test_only_the_first_hundred_faults_are_told_and_none_holds_what_postgresql_cannot() -> None:
    found = scan(*[b"{\n"] * 150).errors
    (twice,) = scan(a_line("a\0b", "text"), a_line("a\0b", "text")).errors

    assert [w.line for w in found] == list(range(1, 101))
    assert "\0" not in twice.document()["message"]


def test_a_line_knows_all_of_its_request() -> None:
    (line,) = file_lines.right(io.BytesIO(a_line("x", ["a", "b"], body={"input_type": "passage", "dimensions": 2})))

    assert line == Line(number=1, custom_id="x", group=Group("m", 2, "passage"), texts=["a", "b"], base64=False)


def test_every_state_has_its_transitions_and_those_of_openai_are_all_there() -> None:
    openais = ["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]

    assert set(FileBatch.State.values) == set(openais) == set(FileBatch.TRANSITIONS)
    ends = {state for state, after in FileBatch.TRANSITIONS.items() if not after}
    assert ends == {"failed", "cancelled"}
    assert not set(FileBatch.ACTIVE) & {"completed", "failed", "expired", "cancelled"}
