"""HTTP servers of shards that run in a thread: a correct one, and one for each kind of failure."""

import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from uml_shards.keyed import keyed_uniform


class ShardServer(ThreadingHTTPServer):
    """Serves a folder with ranges and ETags, and counts requests.

    Attributes:
        asked: for every request the path under the folder and the Range header.
        sent: bytes of every path that were sent.
        headers: headers of every request.
    """

    daemon_threads = True
    block_on_close = False
    ranges = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []
        self.sent: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def asked_names(self, ending: str = "") -> Counter[str]:
        """Number of requests for each path."""
        return Counter(name for name, _ in self.asked if name.endswith(ending))

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        """Answer a request; `visit` is the number of earlier requests for this name."""
        path = self.folder / name
        if not path.is_file():
            return handler.say(404)
        self.give(handler, name, path.read_bytes())

    def give(self, handler: "_Handler", name: str, data: bytes, tag: str = '"1"', cut: int | None = None) -> None:
        """Send data or the requested range of it; at most `cut` of the announced bytes."""
        start = 0
        asked = handler.headers.get("Range")
        if self.ranges and asked and handler.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                return handler.say(416)
        headers = {"Content-Length": str(len(data) - start)}
        if self.ranges:
            headers |= {"ETag": tag}
        if start:
            headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        body = data[start:] if cut is None else data[start : start + cut]
        handler.say(206 if start else 200, headers, body)
        with self.lock:
            self.sent[name] += len(body)


class Dropping(ShardServer):
    """Closes the connection at a random but reproducible byte, twice for every tar and once for every index."""

    times = 2, 1

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        times = self.times[0] if name.endswith(".tar") else self.times[1] if name.endswith(".npy") else 0
        cut = int(keyed_uniform("cut", Path(name).name, visit) * len(data) / 2) if visit < times else None
        self.give(handler, name, data, cut=cut)


class DroppingOnce(Dropping):
    """Does so once for every tar."""

    times = 1, 0


class DroppingWithoutRanges(Dropping):
    """Does so, and does not support ranges."""

    ranges = False


class Truncating(ShardServer):
    """Announces and sends half of every tar."""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        self.give(handler, name, data[: len(data) // 2] if name.endswith(".tar") else data)


class Flipping(ShardServer):
    """Changes a byte of every tar."""

    times = 1 << 30

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = bytearray((self.folder / name).read_bytes())
        if name.endswith(".tar") and visit < self.times:
            data[len(data) // 3] ^= 1
        self.give(handler, name, bytes(data))


class FlippingOnce(Flipping):
    """Does so the first time only."""

    times = 1


class Changing(ShardServer):
    """Drops the connection while sending a first version of each tar, and then serves another version."""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        if not name.endswith(".tar"):
            self.give(handler, name, data)
        elif visit == 0:
            self.give(handler, name, bytes(len(data)), cut=len(data) // 2)
        else:
            self.give(handler, name, data, tag='"2"')


class Shrinking(ShardServer):
    """Announces more bytes than exist, sends all that exist, and then rejects the range of the rest."""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        if name.endswith(".tar") and visit == 0:
            self.give(handler, name, data + bytes(100), cut=len(data) - 1)
        elif name.endswith(".tar") and visit == 1:
            handler.say(416)
        else:
            self.give(handler, name, data)


class ShrinkingManifest(ShardServer):
    """Drops the connection while sending a longer manifest, and then serves the current one."""

    ranges = False

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        longer = name.endswith(".json") and visit == 0
        self.give(handler, name, bytes(3 * len(data)) if longer else data, cut=2 * len(data) if longer else None)


class Endless(ShardServer):
    """Sends indices that are much longer than the manifest allows."""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        self.give(handler, name, data * 1000 if name.endswith(".npy") else data)


class Busy(ShardServer):
    """Answers 503 twice for every name."""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        if visit < 2:
            return handler.say(503)
        super().answer(handler, name, visit)


class Silent(ShardServer):
    """Sends half of a tar at the first request, then stalls without closing the connection."""

    visits = 1

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        if name.endswith(".tar") and visit < self.visits:
            self.give(handler, name, data, cut=len(data) // 2)
            handler.wfile.flush()
            self.closing.wait()
        else:
            self.give(handler, name, data)


class AlwaysSilent(Silent):
    """Stalls at every request; after the first, without sending a byte."""

    visits = 1 << 30
    ranges = False


OK = b"HTTP/1.1 200 OK\r\n"

TRICKLES = {
    "body": (OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "body without a length": (OK + b"\r\n", b"x"),
    "status line": (b"HTTP/1.1 200 ", b"x"),
    "header": (OK + b"X-Long: ", b"x"),
    "headers": (OK, b"X: y\r\n"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "size of a chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n1", b"0"),
    "extension of a chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n1; ", b"x"),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n"),
}
"""Part of an answer that never ends -> the bytes before it, and the bytes that are repeated."""


class Trickling(ShardServer):
    """Sends an answer without end, one piece after a pause at a time."""

    opening, repeated = TRICKLES["body"]
    pause = 0.01

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        handler.wfile.write(self.opening)
        while not self.closing.wait(self.pause):
            handler.wfile.write(self.repeated)


class Redirecting(ShardServer):
    """Redirects every request."""

    target = ""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        handler.say(302, {"Location": f"{self.target}/{name}", "Content-Length": "0"})


class Guarded(ShardServer):
    """Requires user and password, or the token of a signed URL."""

    pair, token = "reader:pa/ss", "token=abc123"

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        wanted = f"Basic {b64encode(self.pair.encode()).decode()}"
        if handler.headers.get("Authorization") != wanted and not handler.path.endswith(f"?{self.token}"):
            return handler.say(401)
        super().answer(handler, name, visit)


@contextmanager
def serving(server: ShardServer) -> Iterator[ShardServer]:
    """Run a server in a thread, and stop it at the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ShardServer

    def do_GET(self) -> None:
        name = unquote(self.path.partition("?")[0]).strip("/")
        with self.server.lock:
            visit = sum(name == earlier for earlier, _ in self.server.asked)
            self.server.asked.append((name, self.headers.get("Range")))
            self.server.headers.append(dict(self.headers))
        try:
            self.server.answer(self, name, visit)
        except ConnectionError:
            pass  # the client has closed the connection

    def say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass
