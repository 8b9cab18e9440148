"""Limits to the number and the duration of a server's connections, each of which takes a thread and a descriptor."""

import socket
import time
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any


class LimitedConnections(ThreadingMixIn, TCPServer):
    """Answers in threads. Connections beyond the limit are closed at once, and overdue ones are ended.

    So clients that connect and send nothing, or read nothing, cannot keep others out for long.

    Attributes:
        connections: largest number of open connections.
        seconds: time limit of a connection, from its beginning to the last byte of the answer.
        deadlines: open connection -> time at which it is overdue, on the monotonic clock.
    """

    daemon_threads = True
    block_on_close = False
    connections = 16
    seconds = 10.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.deadlines: dict[Any, float] = {}
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread if there is room."""
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
                    # Of the plain socket: that of TLS would end the encryption under the connection's thread.
                    socket.socket.shutdown(request, socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, which makes room for another."""
        super().shutdown_request(request)
        self.deadlines.pop(request, None)
