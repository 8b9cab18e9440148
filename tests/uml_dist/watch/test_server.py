"""Real HTTP on loopback: who gets an answer, what it allows a browser to do, and what no request can reach."""

import http.client
import socket
import threading
from urllib.parse import urlsplit

import pytest

from uml_dist.errors import UmlError
from uml_dist.watch.server import WatchServer, serving
from uml_dist.watch.watcher import Watcher
from watched import make_run

HOST = "127.0.0.1"


@pytest.fixture
def server(tmp_path):
    make_run(tmp_path / "runs" / "run")
    (tmp_path / "secret.png").write_text("secret")
    with serving(Watcher(tmp_path / "runs"), HOST, 0, 0) as running:
        yield running


def ask(server: WatchServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def test_pages_and_pictures_are_served(server):
    status, headers, body = ask(server, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"run?name=run" in body
    assert ask(server, "/run?name=run")[0] == 200
    status, headers, body = ask(server, "/picture?name=run&evaluation=val&version=1")
    assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert ask(server, "/", "HEAD")[2] == b""


def test_browsers_may_load_nothing_but_the_page(server):
    headers = ask(server, "/")[1]
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert (rules["img-src"], rules["connect-src"], rules["frame-ancestors"]) == ("'self'", "'self'", "'none'")
    assert all(rules[name].startswith("'sha256-") for name in ("script-src", "style-src"))
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:80", "192.168.1.5", "a.localhost"])
def test_names_of_this_machine_are_answered(server, host):
    assert ask(server, "/", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "", "["])
def test_a_site_that_resolves_its_name_to_loopback_gets_nothing(server, host):
    status, _, body = ask(server, "/run?name=run", Host=host)
    assert (status, b"run" in body.split(b":")[0]) == (421, False)


@pytest.mark.parametrize(
    "path",
    [
        "/run?name=..", "/run?name=../runs/run", "/run", "/run?name=run%00", "/nothing", "/../secret.png",
        "/%2e%2e/secret.png", "/picture?name=run&evaluation=../../..", "/picture?name=run&evaluation=..%2f..",
        "/picture?name=..&evaluation=val", "/picture?name=run", "/run?name=%ff%fe", "/run?" + "a=1&" * 50,
        "//evil.example/", "/run?name=" + "x" * 5000,
    ],
)  # fmt: skip
def test_nothing_else_can_be_reached(server, path, capsys):
    status, _, body = ask(server, path)
    assert status in (404, 500)
    assert b"secret" not in body
    assert capsys.readouterr().err.count("\n") <= 1


def test_a_picture_that_is_a_link_is_not_served(server, tmp_path):
    sheet = tmp_path / "runs" / "run" / "evaluation" / "val" / "sheet.png"
    sheet.unlink()
    sheet.symlink_to(tmp_path / "secret.png")
    assert ask(server, "/picture?name=run&evaluation=val")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(server, method):
    assert ask(server, "/", method)[0] == 501


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_malformed_requests_end(server, sent):
    with socket.create_connection((HOST, server.server_address[1]), timeout=30) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(65536)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")) or b"Error code: 400" in answer
    assert ask(server, "/")[0] == 200


def test_clients_beyond_the_limit_are_turned_away_and_those_that_hang_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(WatchServer, "connections", 2)
    monkeypatch.setattr(WatchServer, "seconds", 1.0)
    make_run(tmp_path / "run")
    with serving(Watcher(tmp_path), HOST, 0, 0) as running:
        idle = [socket.create_connection((HOST, running.server_address[1]), timeout=30) for _ in range(2)]
        with socket.create_connection((HOST, running.server_address[1]), timeout=30) as third:
            assert third.recv(100) == b""
        for client in idle:
            assert client.recv(100) == b""  # after the time limit
            client.close()
        while running.deadlines:
            threading.Event().wait(0.01)
        assert ask(running, "/")[0] == 200


def test_many_clients_at_once_get_the_same_page(server):
    pages: list[tuple[int, dict[str, str], bytes]] = []
    threads = [threading.Thread(target=lambda: pages.append(ask(server, "/run?name=run"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status for status, _, _ in pages] == [200] * 8


def test_a_failing_page_is_one_line_and_the_server_goes_on(server, capsys, monkeypatch):
    monkeypatch.setattr(server.watcher, "render", lambda *_: 1 / 0)
    assert ask(server, "/")[0] == 500
    monkeypatch.undo()
    assert ask(server, "/")[0] == 200
    assert capsys.readouterr().err == "error: the page of '/' cannot be shown: division by zero\n"


def test_a_taken_port_is_passed_by_unless_it_was_asked_for(tmp_path):
    watcher = Watcher(tmp_path)
    with serving(watcher, HOST, 0, 0) as first:
        taken = first.server_address[1]
        with serving(watcher, HOST, None, taken) as second:
            assert urlsplit(second.address).port != taken
        with pytest.raises(UmlError, match="choose another --port"), serving(watcher, HOST, taken, 0):
            pass


def test_an_unknown_host_is_refused_in_one_line(tmp_path):
    with pytest.raises(UmlError, match=r"no\.such\.host\.invalid:0 cannot be listened on"):
        with serving(Watcher(tmp_path), "no.such.host.invalid", 0, 0):
            pass
