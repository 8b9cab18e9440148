"""The HTTP server from which Prometheus scrapes the metrics of one rank.

It listens on the loopback interface by default. If a port is taken by another run, or by a worker left over from a
killed run, it tries another one. If no port is free, it logs a warning and training continues. Clients that connect and
send nothing, or read nothing, hold a thread and a descriptor for a few seconds at most, and only a few at once.
"""

import logging
import os
import socket
import time
from contextlib import suppress
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

logger = logging.getLogger(__name__)

LAST_PORT = 65535

MAX_CONNECTIONS = 16
"""Largest number of open connections; further ones are closed at once."""

MAX_SECONDS = 10.0
"""Time limit of a connection, from its beginning to the last byte of the answer. A scrape takes milliseconds."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests are no events of the training."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers in threads, with limits to the number and the duration of connections."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, registry: CollectorRegistry, connections: int, seconds: float) -> None:
        self.connections, self.seconds = connections, seconds
        self.deadlines: dict[Any, float] = {}
        self.address_family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self.deadlines) >= self.connections:
            self.shutdown_request(request)
            return
        self.deadlines[request] = time.monotonic() + self.seconds
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End overdue connections; called at least every half second. Their threads then read or write no further."""
        now = time.monotonic()
        for request, deadline in list(self.deadlines.items()):
            if now > deadline:
                with suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.deadlines.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a scrape failed", exc_info=True)


class MetricsServer:
    """A running server.

    Attributes:
        host: address on which it listens.
        port: port on which it listens.
        address: URL of the metrics.
    """

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread
        self.host, self.port = str(server.server_address[0]), int(server.server_address[1])
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"http://{host}:{self.port}/metrics"
        # A forked loader worker that outlives a killed rank would keep the port open.
        os.register_at_fork(after_in_child=server.socket.close)

    def stop(self) -> None:
        """Stop the server and free the port; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def serve_metrics(
    registry: CollectorRegistry,
    port: int,
    local_rank: int = 0,
    *,
    host: str = "127.0.0.1",
    stride: int = 16,
    tries: int = 8,
    connections: int = MAX_CONNECTIONS,
    seconds: float = MAX_SECONDS,
) -> MetricsServer | None:
    """Serve a registry at `http://host:PORT/metrics` on the first free port.

    Args:
        registry: the registry to serve.
        port: port of local rank 0; 0 for any free port.
        local_rank: index of the rank on this node, added to the port.
        host: address of the interface; "0.0.0.0" opens it to the network, without a password.
        stride: distance to the next port to try; at least the number of ranks on the node, to avoid conflicts.
        tries: number of ports to try.
        connections: largest number of open connections.
        seconds: time limit of a connection.

    Returns:
        The server, or None (after a warning in the log) if none could be started. Never raises.
    """
    first = port + local_rank if port else 0
    error: Exception | None = None
    for candidate in range(first, min(first + stride * tries, LAST_PORT + 1), stride):
        try:
            server = _Server(host, candidate, registry, connections, seconds)
            thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
            thread.start()
        except socket.gaierror as unknown:
            error = unknown
            break
        except Exception as taken:
            error = taken
            continue
        return MetricsServer(server, thread)
    logger.warning("metrics are not served: no free port from %d on (host %s: %s)", first, host, error)
    return None
