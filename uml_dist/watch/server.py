"""Serves the page on the loopback interface: read-only, to a few clients, and to no other site in their browsers."""

import ipaddress
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from uml_shards.errors import one_line, print_error

from ..errors import UmlError
from ..telemetry.connections import LimitedConnections
from . import page
from .watcher import UnknownRunError, Watcher

TRIES = 20
"""Ports that are tried, unless one is asked for."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class WatchServer(LimitedConnections, HTTPServer):
    """The server of a watcher.

    Args:
        watcher: what is shown.
        host: address to listen on.
        port: port to listen on; 0 for any.
    """

    connections = 32
    seconds = 30.0  # the first page of a long run takes some
    # Otherwise a second server would take the port of one that runs, on some systems.
    allow_reuse_address = sys.platform != "win32"

    def __init__(self, watcher: Watcher, host: str, port: int) -> None:
        self.watcher = watcher
        self.names = {host.lower(), socket.gethostname().lower()}
        self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        super().__init__((str(address[0]), port), _Handler)

    @property
    def address(self) -> str:
        """URL of the page."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what went wrong in a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # clients that go away are no event
            print_error(f"a request failed: {one_line(error or Exception('unknown'))}")

    def knows(self, host: str) -> bool:
        """Whether a Host header names this machine, and not a site that resolves its own name to this address."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self.names or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer
    server_version = "uml-dist"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.knows(hosts[0]):
            self._refuse(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this name is not known here: use the address that the program printed, or start it with --host NAME",
            )
            return
        try:
            self._answer()
        except UnknownRunError as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except OSError:
            raise
        except Exception as error:
            print_error(f"the page of {self.path[:200]!r} cannot be shown: {one_line(error)}")
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "this page cannot be shown: see the program's output")

    do_HEAD = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, errors="surrogateescape", max_num_fields=10)
        name, evaluation = (query.get(key, [""])[0] for key in ("name", "evaluation"))
        watcher = self.server.watcher
        if parts.path == "/":
            self._send(watcher.render().encode(), "text/html; charset=utf-8")
        elif parts.path == "/run":
            self._send(watcher.render(name).encode(), "text/html; charset=utf-8")
        elif parts.path == "/picture":
            self._send(watcher.picture(name, evaluation), "image/png", "private, max-age=3600")
        else:
            raise UnknownRunError("there is no such page")

    def _send(self, body: bytes, kind: str, cache: str = "no-store", status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", page.policy(live=True))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", cache)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True
        self._send(f"{reason}\n".encode(), "text/plain; charset=utf-8", status=status)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def serving(watcher: Watcher, host: str, port: int | None, default: int) -> Iterator[WatchServer]:
    """Serve a watcher in a thread inside the block.

    Args:
        watcher: what is shown.
        host: address to listen on.
        port: the port; None: the first free one from the default.
        default: see `port`.

    Raises:
        UmlError: nothing can listen there.
    """
    server = _bound(watcher, host, range(default, default + TRIES) if port is None else [port])
    thread = threading.Thread(target=server.serve_forever, name="watch", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(watcher: Watcher, host: str, ports: range | list[int]) -> WatchServer:
    problem: OSError | None = None
    for port in ports:
        try:
            return WatchServer(watcher, host, port)
        except OSError as error:
            problem = error
    assert problem is not None
    reason = problem.strerror or problem
    raise UmlError(f"{host}:{ports[0]} cannot be listened on: {reason}: choose another --port or --host")
