"""Servers of shards over HTTP, in a thread: a sound one, and some that fail in one way each."""

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
    """Serves a folder, with ranges and tags, and counts.

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
        """How often each path was asked for."""
        return Counter(name for name, _ in self.asked if name.endswith(ending))

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        """Answer a request; `visit` counts the earlier ones for this name."""
        path = self.folder / name
        if not path.is_file():
            return handler.say(404)
        self.give(handler, name, path.read_bytes())

    def give(self, handler: "_Handler", name: str, data: bytes, tag: str = '"1"', cut: int | None = None) -> None:
        """Send data, or the rest of it that is asked for; at most `cut` bytes of what was announced."""
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
    """Closes the connection at a keyed place of its answer, twice for every tar and once for every index."""

    times = 2, 1

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        times = self.times[0] if name.endswith(".tar") else self.times[1] if name.endswith(".npy") else 0
        cut = int(keyed_uniform("cut", Path(name).name, visit) * len(data) / 2) if visit < times else None
        self.give(handler, name, data, cut=cut)


class DroppingOnce(Dropping):
    """The same, once for every tar."""

    times = 1, 0


class DroppingWithoutRanges(Dropping):
    """The same, and knows no ranges."""

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
    """The same, the first time only."""

    times = 1


class Changing(ShardServer):
    """Drops the connection in a first version of each tar, which is gone when the client comes back."""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        if not name.endswith(".tar"):
            self.give(handler, name, data)
        elif visit == 0:
            self.give(handler, name, bytes(len(data)), cut=len(data) // 2)
        else:
            self.give(handler, name, data, tag='"2"')


class Shrinking(ShardServer):
    """Announces more than there is, sends all there is, and then has nothing at the place asked for."""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        if name.endswith(".tar") and visit == 0:
            self.give(handler, name, data + bytes(100), cut=len(data) - 1)
        elif name.endswith(".tar") and visit == 1:
            handler.say(416)
        else:
            self.give(handler, name, data)


class ShrinkingManifest(ShardServer):
    """Drops the connection in a longer manifest, which is gone when the client comes back."""

    ranges = False

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        data = (self.folder / name).read_bytes()
        longer = name.endswith(".json") and visit == 0
        self.give(handler, name, bytes(3 * len(data)) if longer else data, cut=2 * len(data) if longer else None)


class Endless(ShardServer):
    """Its indices are far longer than the manifest allows."""

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
    """Sends half of a tar at its first visit, and then nothing more without closing."""

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
    """The same at every visit, after the first without a byte."""

    visits = 1 << 30
    ranges = False


class Redirecting(ShardServer):
    """Sends everybody to another place."""

    target = ""

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        handler.say(302, {"Location": f"{self.target}/{name}", "Content-Length": "0"})


class Guarded(ShardServer):
    """Wants a user and a password, or the token of a signed URL."""

    pair, token = "reader:pa/ss", "token=abc123"

    def answer(self, handler: "_Handler", name: str, visit: int) -> None:
        wanted = f"Basic {b64encode(self.pair.encode()).decode()}"
        if handler.headers.get("Authorization") != wanted and not handler.path.endswith(f"?{self.token}"):
            return handler.say(401)
        super().answer(handler, name, visit)


@contextmanager
def serving(server: ShardServer) -> Iterator[ShardServer]:
    """Let a server run in a thread, and end it."""
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
            pass  # the client has enough

    def say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass
