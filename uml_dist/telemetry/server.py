"""The HTTP server from which Prometheus pulls the metrics of one rank.

It listens on the loopback interface unless told otherwise. A port that is taken, by another run or by a worker left
over from a killed one, makes it move on; that it cannot listen at all costs a line in the log and never the training.
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
        host: where it listens.
        port: on which it listens.
        address: both, as a URL.
    """

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread
        self.host, self.port = str(server.server_address[0]), int(server.server_address[1])
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"http://{host}:{self.port}/metrics"
        # A forked loader worker that outlives a killed rank would keep the port for ever.
        os.register_at_fork(after_in_child=server.socket.close)

    def stop(self) -> None:
        """Answer no more and free the port; a second call does nothing."""
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
    """Serve a registry at `http://host:PORT/metrics`, PORT being the first that is free.

    Args:
        registry: what is served.
        port: of local rank 0; 0 for any free port.
        local_rank: added to the port.
        host: the interface; "0.0.0.0" opens it to the network, without a password.
        stride: how far a taken port moves on: at least the ranks of the node, so that they do not meet.
        tries: ports that are tried.

    Returns:
        The server, or None (and a line in the log) where none could be started. Never raises.
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
    logger.warning("no metrics are served: no port from %d on is free on %s (%s)", first, host, error)
    return None
