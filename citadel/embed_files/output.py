"""The file of vectors while it grows: whole parts, and beside it a note of which, so that the next run goes on.

X.jsonl.unfinished holds the lines, X.jsonl.progress one line a written part. What lies
beyond the last noted end is cut off; a part whose texts have changed since, and all after it, are written anew.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import orjson

from citadel.embed_files.inputs import Unusable


class _Note(NamedTuple):
    """A written part: its key, where its lines end, how many of them hold an error."""

    key: str
    end: int
    failed: int


class Output:
    """Use it as a context manager. Raises Unusable where the finished file exists already."""

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        if path.exists() and not overwrite:
            raise Unusable(f"{path} exists already: choose another name, or --overwrite.")
        self._path = path
        self._lines_path = path.with_name(path.name + ".unfinished")
        self._notes_path = path.with_name(path.name + ".progress")
        self._notes = self._read_notes()
        self._place = 0
        self._lines: IO[bytes]

    def __enter__(self) -> Self:
        self._lines_path.touch()
        self._lines = self._lines_path.open("r+b")
        size = self._lines.seek(0, os.SEEK_END)
        while self._notes and self._notes[-1].end > size:
            self._notes.pop()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def passed(self, key: str) -> bool:
        """Whether the next part is written already; then it is passed over."""
        if self._place < len(self._notes) and self._notes[self._place].key == key:
            self._place += 1
            return True
        return False

    def write(self, key: str, lines: Iterable[dict[str, Any]]) -> None:
        """Write the next part, and only then note it. What `lines` raises leaves the part to be written again."""
        del self._notes[self._place :]
        self._lines.seek(self._end())
        self._lines.truncate()
        failed = 0
        for line in lines:
            failed += "error" in line
            self._lines.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._lines.flush()
        os.fsync(self._lines.fileno())
        self._notes.append(_Note(key, self._lines.tell(), failed))
        self._place += 1
        self._write_notes()

    def finish(self) -> int:
        """Give the file its name; return how many of its lines hold an error."""
        del self._notes[self._place :]
        self._lines.truncate(self._end())
        os.replace(self._lines_path, self._path)
        self._notes_path.unlink(missing_ok=True)
        return sum(note.failed for note in self._notes)

    def _end(self) -> int:
        return self._notes[-1].end if self._notes else 0

    def _read_notes(self) -> list[_Note]:
        try:
            return [_Note(*orjson.loads(line)) for line in self._notes_path.read_bytes().splitlines()]
        except (OSError, ValueError, TypeError):
            return []

    def _write_notes(self) -> None:
        new = self._notes_path.with_name(self._notes_path.name + ".new")
        new.write_bytes(b"".join(orjson.dumps(list(note), option=orjson.OPT_APPEND_NEWLINE) for note in self._notes))
        os.replace(new, self._notes_path)
