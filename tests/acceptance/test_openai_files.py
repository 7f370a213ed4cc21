"""Large files through a real web process: streamed, in bounded memory, and refused before they are taken in."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.made_openai import a_key
from tests.processes import Process, Stack, wait_until

SIZE = 200 * 2**20
# What the process may grow by while 200 MB pass through it twice.
ROOM = 64 * 2**20


def body(boundary: bytes = b"x") -> Iterator[bytes]:
    """A form with a file of SIZE bytes."""
    yield b'--%b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' % boundary
    yield b'--%b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' % boundary
    yield from pieces()
    yield b"\r\n--%b--\r\n" % boundary


def pieces() -> Iterator[bytes]:
    return (f"{number:06}".encode() * (2**18 // 6) + b"\n" * 4 for number in range(SIZE // 2**18))


def peak(web: Process) -> int:
    """The largest resident memory that a worker process of the web server ever had, in bytes."""
    (worker,) = [p for p in psutil.Process(web.pid).children() if "resource_tracker" not in " ".join(p.cmdline())]
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


@pytest.fixture
def web(stack: Stack) -> tuple[Process, str, dict[str, str]]:
    key = a_key()
    process, url = stack.web()
    return process, url, {"Authorization": f"Bearer {key}"}


def test_a_file_of_200_mb_passes_both_ways_in_bounded_memory(web: tuple[Process, str, dict[str, str]]) -> None:
    process, url, headers = web
    before = peak(process)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    made = requests.post(f"{url}/v1/files", data=body(), headers=headers | kind, timeout=120)
    assert made.status_code == 200, made.text
    assert made.json()["bytes"] == sum(map(len, pieces()))

    sent, got = hashlib.sha256(), hashlib.sha256()
    for piece in pieces():
        sent.update(piece)
    with requests.get(
        f"{url}/v1/files/{made.json()['id']}/content", headers=headers, stream=True, timeout=120
    ) as answer:
        for block in answer.iter_content(2**20):
            got.update(block)
        assert answer.headers["Content-Length"] == str(made.json()["bytes"])

    assert got.digest() == sent.digest()
    assert peak(process) - before < ROOM
    assert requests.delete(f"{url}/v1/files/{made.json()['id']}", headers=headers, timeout=30).json()["deleted"]


def test_what_is_too_large_or_comes_without_a_key_is_refused_before_its_body(
    web: tuple[Process, str, dict[str, str]], stack: Stack
) -> None:
    _, url, headers = web
    host, port = url.removeprefix("http://").split(":")

    def status(*lines: str) -> str:
        """What is answered to this head alone, no byte of the body sent."""
        head = ["POST /v1/files HTTP/1.1", f"Host: {host}", "Content-Type: multipart/form-data; boundary=x", *lines]
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode())
            return connection.recv(4096).split(b" ")[1].decode()

    key = f"Authorization: {headers['Authorization']}"
    assert status("Content-Length: 1000") == "401"
    assert status("Content-Length: 1000", "Authorization: Bearer wrong") == "401"
    assert status(f"Content-Length: {300 * 2**20}", key) == "413"
    # Cut off in the middle: nothing is kept, and the door goes on.
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = ["POST /v1/files HTTP/1.1", f"Host: {host}", "Content-Type: multipart/form-data; boundary=x", key]
        connection.sendall("\r\n".join([*head, "Content-Length: 100000", "", "--x\r\nContent-Disp"]).encode())
    answer = requests.get(f"{url}/v1/files", headers=headers, timeout=10)
    assert answer.json()["data"] == []
    wait_until(lambda: not [p for p in (stack.folder / "files").rglob("*") if p.is_file()], 10)
