"""The HTTP server from which Prometheus scrapes the metrics of one rank.

    /metrics    the metrics; with `?id=`, only if the rank has this id
    /health     200 while the rank takes steps or does what needs time, 503 when it has stopped; a line says which

It listens on the loopback interface by default. If a port is taken by another run, or by a worker left over from a
killed run, it tries another one. If no port is free, it logs a warning and training continues. Clients that connect and
send nothing, or read nothing, hold a thread and a descriptor for a few seconds at most, and only a few at once.
"""

import ipaddress
import logging
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from .access import Access
from .connections import LimitedConnections
from .health import Health

logger = logging.getLogger(__name__)

LAST_PORT = 65535


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests are no events of the training."""


class _Application:
    """Answers requests, as a WSGI application."""

    def __init__(self, registry: CollectorRegistry, access: Access, health: Health, name: str) -> None:
        self._metrics = make_wsgi_app(registry)
        self._access = access
        self._health = health
        self._name = name

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if not self._access.allows(environ.get("HTTP_AUTHORIZATION")):
            headers = [("WWW-Authenticate", "Bearer")]
            return _line(start_response, "401 Unauthorized", "a bearer token is needed", headers)
        if path == "/metrics":
            wanted = parse_qs(environ.get("QUERY_STRING", "")).get("id", [self._name])
            if wanted != [self._name]:
                # Prometheus has read of a run that was killed, whose port this one has got.
                return _line(start_response, "421 Misdirected Request", "another run listens here")
            return self._metrics(environ, start_response)
        if path == "/health" and environ.get("REQUEST_METHOD") == "GET":
            healthy, line = self._health.check()
            return _line(start_response, "200 OK" if healthy else "503 Service Unavailable", line)
        return _line(start_response, "404 Not Found", "there are /metrics and /health")


def _line(
    start_response: Callable[..., Any], status: str, text: str, headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{text}\n".encode()]


class _Server(LimitedConnections, WSGIServer):
    def __init__(
        self, host: str, port: int, application: _Application, access: Access, connections: int, seconds: float
    ) -> None:
        self.connections, self.seconds = connections, seconds
        self.address_family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(application)
        if access.context:
            # The handshake is left to the connection's thread: a silent client must not keep others waiting.
            self.socket = access.context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a scrape failed", exc_info=True)


class MetricsServer:
    """A running server.

    Attributes:
        host: address on which it listens.
        port: port on which it listens.
        address: URL of the metrics.
        id: what `?id=` of a scrape must be, if it has one.
    """

    def __init__(self, server: WSGIServer, thread: Thread, scheme: str = "http", id: str = "") -> None:
        self._server = server
        self._thread = thread
        self.id = id
        self.host, self.port = str(server.server_address[0]), int(server.server_address[1])
        self.address = f"{scheme}://{host_and_port(self.host, self.port)}/metrics"
        # A forked loader worker that outlives a killed rank would keep the port open.
        os.register_at_fork(after_in_child=server.socket.close)

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine reach it."""
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

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
    access: Access | None = None,
    health: Health | None = None,
    stride: int = 16,
    tries: int = 8,
    connections: int = LimitedConnections.connections,
    seconds: float = LimitedConnections.seconds,
) -> MetricsServer | None:
    """Serve a registry at `http://host:PORT/metrics` on the first free port.

    Args:
        registry: the registry to serve.
        port: port of local rank 0; 0 for any free port.
        local_rank: index of the rank on this node, added to the port.
        host: address of the interface; "0.0.0.0" opens it to the network.
        access: certificate and token; by default, HTTP without a token.
        health: what `/health` answers; by default, that the rank starts.
        stride: distance to the next port to try; at least the number of ranks on the node, to avoid conflicts.
        tries: number of ports to try.
        connections: largest number of open connections; further ones are closed at once.
        seconds: time limit of a connection. A scrape takes milliseconds.

    Returns:
        The server, or None (after a warning in the log) if none could be started. Never raises.
    """
    access = access or Access()
    id = secrets.token_hex(8)
    application = _Application(registry, access, health or Health(), id)
    first = port + local_rank if port else 0
    error: Exception | None = None
    for candidate in range(first, min(first + stride * tries, LAST_PORT + 1), stride):
        try:
            server = _Server(host, candidate, application, access, connections, seconds)
            thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
            thread.start()
        except socket.gaierror as unknown:
            error = unknown
            break
        except Exception as taken:
            error = taken
            continue
        return MetricsServer(server, thread, access.scheme, id)
    logger.warning("metrics are not served: no free port from %d on (host %s: %s)", first, host, error)
    return None


def host_and_port(host: str, port: int) -> str:
    """Return an address with its port, as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_host(listening: str, peer: str = "192.0.2.1") -> str:
    """Return the address at which other machines reach a server that listens on all interfaces, else its address.

    Args:
        listening: address on which the server listens.
        peer: an address that other machines have too, such as that of the first node; by default one that is nowhere,
            for the interface of the default route. Nothing is sent to it.
    """
    if not ipaddress.ip_address(listening.partition("%")[0]).is_unspecified:
        return listening
    for candidate in (peer, "192.0.2.1"):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((candidate, 9))
            found = str(probe.getsockname()[0])
            if not ipaddress.ip_address(found).is_loopback:
                return found
    return "127.0.0.1"
