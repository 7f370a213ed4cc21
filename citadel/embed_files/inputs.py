"""The texts of CSV files and files of JSON lines, cut into parts that are the same in each run."""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# A part is one batch of the server. The larger, the fewer requests; the smaller, the less an interruption costs, and
# the less is in memory.
PART_TEXTS: Final = 10_000
PART_CHARACTERS: Final = 16 * 2**20
JSON_ENDINGS: Final = (".jsonl", ".ndjson")


class Unusable(Exception):
    """An input or an answer that cannot be worked with; the words are for whoever called."""


class BrokenOff(Unusable):
    """An answer that ended before its end: asked for again, it may come whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One text, and where it stands: `number` counts the rows of its file from 1, without a CSV's head."""

    file: str
    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows that are sent together."""

    rows: Sequence[Row]

    def body(self) -> bytes:
        """Return the lines to send."""
        return b"".join(json.dumps({"text": row.text}).encode() + b"\n" for row in self.rows)  # whatever it holds

    def key(self, *asked: str) -> str:
        """Return an Idempotency-Key that stands for these very texts, and for what else is asked of the server."""
        digest = hashlib.sha256(json.dumps(asked).encode() + b"\n" + self.body())
        return f"embed-{digest.hexdigest()}"


def rows(paths: Sequence[Path], column: str) -> Iterator[Row]:
    """Yield the texts of all files, in order. Raises Unusable at the first row that has none."""
    # A field of a CSV may be as long as a text may be.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    for path in paths:
        texts = _json_texts(path, column) if path.suffix.lower() in JSON_ENDINGS else _csv_texts(path, column)
        try:
            for number, text in enumerate(texts, 1):
                if not isinstance(text, str) or not text:
                    raise Unusable(f"{path}, row {number}: “{column}” holds no text.")
                yield Row(file=str(path), number=number, text=text)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise Unusable(f"{path} cannot be read: {error}") from error


def parts(paths: Sequence[Path], column: str, *, size: int = PART_TEXTS) -> Iterator[Part]:
    """Yield all texts in parts of at most `size`, one in memory at a time. Raises Unusable."""
    held: list[Row] = []
    characters = 0
    for row in rows(paths, column):
        if held and (len(held) == size or characters + len(row.text) > PART_CHARACTERS):
            yield Part(rows=held)
            held, characters = [], 0
        held.append(row)
        characters += len(row.text)
    if held:
        yield Part(rows=held)


def _csv_texts(path: Path, column: str) -> Iterator[str | None]:
    # utf-8-sig: spreadsheets begin their files with a byte order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if column not in (reader.fieldnames or ()):
            raise Unusable(f"{path} has no column “{column}”; it has: {', '.join(reader.fieldnames or ()) or 'none'}.")
        for record in reader:
            yield record[column]


def _json_texts(path: Path, column: str) -> Iterator[object]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise Unusable(f"{path}, line {number}: not valid JSON ({error}).") from error
            if not isinstance(record, dict) or column not in record:
                raise Unusable(f"{path}, line {number}: no object with “{column}”.")
            yield record[column]
