"""The program as people start it, and its page in a real browser."""

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from browsers import CHROMIUM, browse, needs_browser, requests_of, screenshot
from uml_dist.commands.watch import main
from uml_dist.watch.server import serving
from uml_dist.watch.watcher import Watcher
from watched import append, make_run, training_record, write_status

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "launchers" / "watch.py"


@contextmanager
def watching(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the program; give the process and the address that it prints."""
    command = [sys.executable, PROGRAM, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            line = program.stdout.readline()
            assert "http://" in line, program.stderr.read() if program.stderr else ""
            yield program, line.split(": ", 1)[1].strip()
        finally:
            program.terminate()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["missing"], "missing does not exist: name a run folder or a folder of runs, such as runs"),
        ([PROGRAM], "watch.py is not a folder"),
        (["--port", "70000", "."], "--port must be between 0 and 65535"),
        (["--host", "no.such.host.invalid", "."], "cannot be listened on"),
        (["--once", "missing/folder/page.html", "."], "No such file or directory"),
    ],
)
def test_errors_are_one_line(words, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main([str(word) for word in words])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert problem in capsys.readouterr().err.splitlines()[-1]


def test_the_page_is_served_until_it_is_stopped(tmp_path):
    make_run(tmp_path / "runs" / "live")
    with watching(tmp_path / "runs", "--port", 0) as (program, address):
        connection = http.client.HTTPConnection(*address.removeprefix("http://").strip("/").split(":"), timeout=60)
        connection.request("GET", "/")
        assert b"run?name=live" in connection.getresponse().read()
        connection.close()
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    assert (program.returncode, out, err) == (0, "", "")


def test_opening_the_page_to_the_network_is_warned_of(tmp_path):
    with watching(tmp_path, "--port", 0, "--host", "0.0.0.0") as (program, _):
        program.send_signal(signal.SIGINT)
        err = program.communicate(timeout=60)[1]
    assert err.startswith("warning: 0.0.0.0 is reachable from the network")
    assert err.count("\n") == 1


def test_a_page_is_written_once(tmp_path, capsys):
    make_run(tmp_path / "run", "done", steps=400)
    assert main([str(tmp_path / "run"), "--once", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    page = (tmp_path / "page.html").read_text()
    assert "400 <small>of 400" in page
    assert not re.search(r"(src|href)=.?(http|//|/)|<script|url\(['\"]?(http|/)", page)


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """What a browser makes of the page of a run, in light and in dark, and every connection that the page opens."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install the package chromium")
    folder = tmp_path_factory.mktemp("browsed")
    hostile = '<img src=x onerror="document.title=1"> run'
    run = make_run(folder / "runs" / hostile, "failed", reason="<img src=//198.51.100.7/x><b>rank 1</b>: no memory")
    append(run, [training_record(210, **{'"><script src=//198.51.100.7/x>': 1.0})])
    with serving(Watcher(folder / "runs"), "127.0.0.1", 0, 0) as server:
        page = f"{server.address}run?name={quote(hostile)}"
        log = folder / "net.json"
        shown = {
            "list": browse(folder / "list", server.address, "--dump-dom"),
            "run": browse(folder / "run", page, "--dump-dom", f"--log-net-log={log}"),
            "dark": screenshot(folder, page, "dark", 0),
            "light": screenshot(folder, page, "light", 1),
        }
        yield {**shown, "requests": requests_of(log, server.address), "address": server.address}


@needs_browser
def test_a_browser_shows_all_parts(browsed):
    for name in ("head", "curves", "time", "ranks", "vacuity", "pictures", "figures", "configuration"):
        assert f'<section id="{name}"' in browsed["run"]
    assert browsed["run"].count('class="chart"') >= 9
    assert "&lt;b&gt;rank 1&lt;/b&gt;: no memory" in browsed["list"]


@needs_browser
def test_words_of_others_do_nothing_in_a_browser(browsed):
    assert "&lt;img src=x" in browsed["run"]
    for dom in (browsed["list"], browsed["run"]):
        assert "<title>1</title>" not in dom
        assert dom.count("<script") == 1
    assert (browsed["list"].count("<img"), browsed["run"].count("<img")) == (0, 1)


@needs_browser
def test_the_page_asks_nobody_but_its_server(browsed):
    assert any("/picture?" in url for url in browsed["requests"])
    assert [url for url in browsed["requests"] if not url.startswith(browsed["address"])] == []


@needs_browser
def test_the_page_is_light_or_dark_as_the_reader_prefers(browsed):
    for scheme, is_light in (("light", True), ("dark", False)):
        picture = browsed[scheme]
        background, ink = np.median(picture), picture.min() if is_light else picture.max()
        assert (background > 200) == is_light
        assert abs(ink - background) > 150


class Moving(Watcher):
    """The run is done as soon as its page has been loaded."""

    def render(self, name: str | None = None, live: bool = True) -> str:
        page = super().render(name, live)
        write_status(self.root / "live", "done", 400)
        return page


@needs_browser
def test_an_open_page_follows_the_run(tmp_path):
    make_run(tmp_path / "runs" / "live")
    with serving(Moving(tmp_path / "runs"), "127.0.0.1", 0, 0) as server:
        dom = browse(
            tmp_path / "browser", f"{server.address}run?name=live", "--dump-dom", "--virtual-time-budget=12000"
        )
    assert "400 <small>of 400" in dom
    assert '<p id="lost" role="status" hidden' in dom
