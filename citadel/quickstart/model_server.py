"""HTTP for the demo model servers: one thread a connection, kept alive, one model for all ports of the process.

The standard library's server is enough: the model, one run at a time, is the limit (about 380 short texts a second).
"""

import contextlib
import socketserver
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from citadel.quickstart import speech
from citadel.quickstart.fleet import Seat
from citadel.quickstart.minilm import MiniLM

MAX_BODY_BYTES = 64 * 2**20


class ModelServer(ThreadingHTTPServer):
    """Serves one seat. Raises OSError where its port is taken."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, seat: Seat, minilm: MiniLM) -> None:
        self.seat = seat
        self.minilm = minilm
        super().__init__(("127.0.0.1", seat.port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the resolver for the host's name as HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.seat.port

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer
    protocol_version = "HTTP/1.1"
    # Longer than any client keeps an idle connection, so that it is the client who closes.
    timeout = 300
    # Head and body leave together: apart, the second waits for the client's delayed acknowledgement, 40 ms.
    wbufsize = 2**16
    disable_nagle_algorithm: ClassVar[bool] = True

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            # The body is not read, so the connection cannot go on.
            self.close_connection = True
            known = length.isdigit()
            self._send(speech.Reply(status=413 if known else 411, body=b"", content_type="text/plain"))
            return
        self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        server = self.server
        self._send(
            speech.reply(
                server.seat.protocol, server.seat.slug, server.minilm, method=self.command, path=self.path, body=body
            )
        )

    def _send(self, reply: speech.Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def version_string(self) -> str:
        return f"citadel-demo/{self.server.seat.protocol}"

    def log_message(self, format: str, *args: object) -> None:
        """Keep no log of requests: Citadel keeps its own."""


@contextlib.contextmanager
def serving(seats: Iterable[Seat]) -> Iterator[None]:
    """Serve all seats while the block runs. Raises OSError where a port is taken, before any answers."""
    with contextlib.ExitStack() as opened:
        minilm = MiniLM()
        servers: list[socketserver.BaseServer] = [opened.enter_context(ModelServer(seat, minilm)) for seat in seats]
        for server in servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        opened.callback(_shut_down, servers)
        yield


def _shut_down(servers: Sequence[socketserver.BaseServer]) -> None:
    """Stop all at once: each takes a moment to notice."""
    with ThreadPoolExecutor(max_workers=len(servers) or 1) as together:
        list(together.map(lambda server: server.shutdown(), servers))
