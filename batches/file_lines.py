"""A batch file, line by line: what each line asks for, or why it cannot be taken.

{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "a text"}}

Lines are sorted into groups by what the queue must know of a text (the model, the length of its vectors, its prefix);
each group becomes a batch of the queue. That sorting depends on the lines alone, so that whoever writes the output
finds the same groups again, however the configuration has changed since.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

import orjson
from django.conf import settings

from integrations.errors import InvalidRequest
from integrations.openai_door import requests

ENDPOINT: Final = "/v1/embeddings"
METHOD: Final = "POST"
LONGEST_ID: Final = 512
# A file of 50,000 wrong lines is not answered with 50,000 complaints.
MOST_ERRORS: Final = 100
_FIELDS: Final = ("custom_id", "method", "url", "body")
_MARK: Final = b"\xef\xbb\xbf"  # some editors begin a file with it


class Group(NamedTuple):
    """What the texts of one batch of the queue have in common, as the lines say it."""

    model: str
    dimensions: int | None
    input_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request of a file. `base64`: how it wants its vectors."""

    number: int  # from 1
    custom_id: str
    group: Group
    texts: Sequence[str]
    base64: bool


class Wrong(Exception):
    """Why a line, or with `line` None the whole file, cannot be taken."""

    def __init__(self, code: str, message: str, *, param: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param, self.line = code, message, param, line

    def document(self) -> dict[str, Any]:
        """Return it as OpenAI shows the errors of a batch, fit for PostgreSQL, whose JSON has no NUL."""
        param = self.param and self.param.replace("\0", "?")
        return {"code": self.code, "message": self.message.replace("\0", "?"), "param": param, "line": self.line}


@dataclass(slots=True, kw_only=True)
class Scan:
    """What one pass over a file has found."""

    lines: int = 0
    texts: int = 0
    groups: dict[Group, int] = field(default_factory=dict)  # with the number of their texts
    errors: list[Wrong] = field(default_factory=list)

    def by_model(self) -> dict[str, int]:
        """Return the number of texts for each model."""
        found: dict[str, int] = {}
        for group, texts in self.groups.items():
            found[group.model] = found.get(group.model, 0) + texts
        return found


def scan(stream: IO[bytes], judge: Callable[[Group], None]) -> Scan:
    """Look at every line; `judge` is asked once about each group and raises Wrong for one that cannot be served."""
    found, seen = Scan(), set[bytes]()
    verdicts: dict[Group, Wrong | None] = {}
    for each in read(stream):
        found.lines += 1
        wrong = each if isinstance(each, Wrong) else _wrong_among(each, found, seen, verdicts, judge)
        if wrong is not None:
            found.errors.append(wrong)
            if len(found.errors) == MOST_ERRORS or wrong.code in _ENDS:
                break
    if not found.lines:
        found.errors.append(Wrong("empty_file", "The file has no lines."))
    return found


_ENDS: Final = ("too_many_lines", "too_many_texts", "too_many_groups", "line_too_long")


def _wrong_among(
    line: Line, found: Scan, seen: set[bytes], verdicts: dict[Group, Wrong | None], judge: Callable[[Group], None]
) -> Wrong | None:
    """What is wrong with a line beside those before it."""
    found.texts += len(line.texts)
    if found.lines > settings.OPENAI_BATCH_MAX_LINES:
        most = settings.OPENAI_BATCH_MAX_LINES
        return Wrong("too_many_lines", f"At most {most} lines in one file.", line=line.number)
    if found.texts > settings.MAX_BATCH_TEXTS:
        return Wrong("too_many_texts", f"At most {settings.MAX_BATCH_TEXTS} texts in one file.", line=line.number)
    # 16 bytes each instead of the names themselves, which may be long.
    digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
    if digest in seen:
        message = f"The custom_id “{line.custom_id[:64]}” stands on a line before."
        return Wrong("duplicate_custom_id", message, param="custom_id", line=line.number)
    seen.add(digest)
    if line.group not in verdicts:
        if len(verdicts) >= settings.OPENAI_BATCH_MAX_GROUPS:
            most = settings.OPENAI_BATCH_MAX_GROUPS
            message = f"At most {most} different models, dimensions and input types in one file."
            return Wrong("too_many_groups", message, line=line.number)
        verdicts[line.group] = _verdict(line.group, judge)
    found.groups[line.group] = found.groups.get(line.group, 0) + len(line.texts)
    verdict = verdicts[line.group]
    return verdict and Wrong(verdict.code, verdict.message, param=verdict.param, line=line.number)


def _verdict(group: Group, judge: Callable[[Group], None]) -> Wrong | None:
    try:
        judge(group)
    except Wrong as wrong:
        return wrong
    return None


def texts_of(stream: IO[bytes], group: Group) -> Iterator[str]:
    """Yield the texts of one group of a file that was found right. Raises Wrong, should it not be."""
    for line in right(stream):
        if line.group == group:
            yield from line.texts


def right(stream: IO[bytes]) -> Iterator[Line]:
    """Yield the lines of a file that was found right. Raises Wrong, should it not be."""
    for line in read(stream):
        if isinstance(line, Wrong):
            raise line
        yield line


def read(stream: IO[bytes]) -> Iterator[Line | Wrong]:
    """Yield what each line asks for, or why it cannot be taken; blank lines count for their number alone."""
    # One line is one request's body, and some room for what stands around it.
    longest = settings.MAX_JSON_BODY_BYTES + 1024
    number = 0
    while raw := stream.readline(longest + 1):
        number += 1
        if len(raw) > longest:
            yield Wrong("line_too_long", f"At most {longest} bytes in a line.", line=number)
            return
        raw = raw.removeprefix(_MARK) if number == 1 else raw
        if raw.isspace() or not raw:
            continue
        try:
            yield _line(raw, number)
        except Wrong as wrong:
            yield wrong


def _line(raw: bytes, number: int) -> Line:
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Wrong("invalid_json_line", f"Not valid JSON: {error.msg}.", line=number) from None
    if type(data) is not dict:
        raise Wrong("invalid_json_line", "Each line is a JSON object.", line=number)
    _check_envelope(data, number)
    try:
        asked = requests.checked(data["body"])
        if asked.request.tokens:
            raise InvalidRequest(errors={"input": [requests.TOKENS]})  # the queue stores texts, for any model's servers
    except InvalidRequest as error:
        name, messages = next(iter((error.errors or {"": [error.detail]}).items()))
        param = "body" if name in ("", "body") else f"body.{name}"
        raise Wrong("invalid_request", messages[0], param=param, line=number) from None
    request = asked.request
    return Line(
        number=number,
        custom_id=data["custom_id"],
        group=Group(asked.model, request.dimensions, request.input_type),
        texts=request.texts,
        base64=asked.base64,
    )


def _check_envelope(data: dict[str, Any], number: int) -> None:
    """What stands around the body. Raises Wrong."""
    custom_id = data.get("custom_id")
    if type(custom_id) is not str or not 0 < len(custom_id) <= LONGEST_ID:
        message = f"custom_id must be a string of 1 to {LONGEST_ID} characters."
        raise Wrong("invalid_custom_id", message, param="custom_id", line=number)
    if data.get("method") != METHOD:
        raise Wrong("invalid_method", f"method must be {METHOD}.", param="method", line=number)
    if data.get("url") != ENDPOINT:
        raise Wrong("invalid_url", f"url must be the batch's endpoint, {ENDPOINT}.", param="url", line=number)
    if "body" not in data:
        raise Wrong("invalid_request", "body is missing.", param="body", line=number)
    if unknown := next((name for name in data if name not in _FIELDS), None):
        name = unknown[:64].encode("utf-8", "replace").decode()
        raise Wrong("invalid_request", f"Unknown field “{name}”.", param=name, line=number)
