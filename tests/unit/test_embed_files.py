"""`citadel-embed` without a server: what it reads, and what it has written when it is stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from citadel.embed_files.inputs import Part, Row, Unusable, parts, rows
from citadel.embed_files.output import Output


def test_csv_and_json_lines_are_read_in_order_with_their_rows(tmp_path: Path) -> None:
    table, lines = tmp_path / "a.csv", tmp_path / "b.JSONL"
    table.write_bytes('\ufeffid,text\r\n1,one\r\n2,"two, with\na break"\r\n'.encode())
    lines.write_text('{"text": "three", "id": 3}\n\n{"text": "vier é"}\n')

    found = list(rows([table, lines], "text"))

    assert [(row.number, row.text) for row in found] == [
        (1, "one"),
        (2, "two, with\na break"),
        (1, "three"),
        (2, "vier é"),
    ]
    assert {row.file for row in found} == {str(table), str(lines)}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"id,texts\n1,x\n", "has no column “text”; it has: id, texts"),
        ("a.csv", b"", "has no column “text”; it has: none"),
        ("a.csv", b"id,text\n1,x\n2\n", "row 2: “text” holds no text"),
        ("a.csv", b"text\n\xff\n", "cannot be read"),
        ("a.jsonl", b'{"text": "x"}\n{\n', "line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n["x"]\n', "line 3: no object with “text”"),
        ("a.jsonl", b'{"text": 7}\n', "row 1: “text” holds no text"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_place(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unusable, match=words.replace("“", ".").replace("”", ".")):
        list(rows([path], "text"))


def test_parts_are_the_same_in_each_run_and_long_texts_make_them_shorter(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} " + "x" * 9 * 2**20 * (n == 3)}) + "\n" for n in range(7)))

    found = list(parts([path], "text", size=3))

    assert [len(part.rows) for part in found] == [3, 3, 1]
    assert [p.key("m") for p in found] == [p.key("m") for p in parts([path], "text", size=3)]
    assert found[0].key("m") != found[0].key("n")
    assert found[0].body().splitlines()[1] == b'{"text": "1 "}'
    assert all(len(part.key("m")) <= 255 for part in found)


def a_part(text: str) -> Part:
    return Part(rows=[Row(file="a", number=1, text=text)])


def line(text: str, **more: Any) -> dict[str, Any]:
    return {"row": text, **more}


def texts(path: Path) -> list[str]:
    return [json.loads(each)["row"] for each in path.read_text().splitlines()]


def test_the_next_run_goes_on_after_the_last_whole_part(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    with Output(out) as first:
        first.write("one", [line("1"), line("2", error={})])
        first.write("two", [line("3")])
        with pytest.raises(RuntimeError):
            first.write("three", broken(line("4")))
    assert not out.exists()

    with Output(out) as second:
        assert [second.passed(key) for key in ("one", "two", "three")] == [True, True, False]
        second.write("three", [line("4"), line("5")])
        assert second.finish() == 1

    assert texts(out) == ["1", "2", "3", "4", "5"]
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(Unusable, match="--overwrite"):
        Output(out)


def broken(first: dict[str, Any]) -> Any:
    yield first
    raise RuntimeError


def test_a_part_that_has_changed_and_all_after_it_are_written_anew(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    with Output(out) as first:
        for key in ("one", "two", "three"):
            first.write(key, [line(key)])
    with Output(out) as second:
        assert second.passed("one")
        assert not second.passed("zwei")
        second.write("zwei", [line("zwei")])
        assert second.finish() == 0
    assert texts(out) == ["one", "zwei"]


def test_notes_that_say_more_than_there_is_do_not_count(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    with Output(out) as first:
        first.write("one", [line("one")])
        first.write("two", [line("two")])
    unfinished = tmp_path / "x.jsonl.unfinished"
    unfinished.write_bytes(unfinished.read_bytes()[:-1])
    with Output(out) as second:
        assert second.passed("one")
        assert not second.passed("two")
    (tmp_path / "x.jsonl.progress").write_text("not a note\n")
    with Output(out) as third:
        assert not third.passed("one")
