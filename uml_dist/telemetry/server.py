"""The HTTP server from which Prometheus scrapes the metrics of one rank.

It listens on the loopback interface by default. If a port is taken by another run, or by a worker left over from a
killed run, it tries another one. If no port is free, it logs a warning and training continues.
"""

import logging
import os
import socket
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

logger = logging.getLogger(__name__)

LAST_PORT = 65535


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
) -> MetricsServer | None:
    """Serve a registry at `http://host:PORT/metrics` on the first free port.

    Args:
        registry: the registry to serve.
        port: port of local rank 0; 0 for any free port.
        local_rank: index of the rank on this node, added to the port.
        host: address of the interface; "0.0.0.0" opens it to the network, without a password.
        stride: distance to the next port to try; at least the number of ranks on the node, to avoid conflicts.
        tries: number of ports to try.

    Returns:
        The server, or None (after a warning in the log) if none could be started. Never raises.
    """
    first = port + local_rank if port else 0
    error: Exception | None = None
    for candidate in range(first, min(first + stride * tries, LAST_PORT + 1), stride):
        try:
            server, thread = start_http_server(candidate, addr=host, registry=registry)
        except socket.gaierror as unknown:
            error = unknown
            break
        except Exception as taken:
            error = taken
            continue
        return MetricsServer(server, thread)
    logger.warning("metrics are not served: no free port from %d on (host %s: %s)", first, host, error)
    return None
