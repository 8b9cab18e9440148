"""What all tests share: shards made once, and the seconds that each folder of tests took."""

import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell that runs the tests in the background lets them ignore Ctrl-C, and the programs that they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

SECONDS: dict[str, float] = defaultdict(float)


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory) -> Iterator[Path]:
    """A folder in which the trainings of the tests list their targets, instead of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def partly_known(tmp_path_factory) -> Path:
    """Shards of 96 phantom images of 32 x 32 with some masks and labels missing; 12 whole ones for validation."""
    from runs import make_partly_known

    return make_partly_known(tmp_path_factory.mktemp("partly-known"))


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder like site-packages, for `packages.install`; modules that are imported from it are forgotten."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def pytest_collection_modifyitems(items):
    """Quick tests first, then worlds of several ranks, then real launches."""
    items.sort(key=lambda item: [bool(item.get_closest_marker(name)) for name in ("launch", "distributed")])


def pytest_runtest_logreport(report):
    SECONDS[str(Path(report.nodeid.partition("::")[0]).parent)] += report.duration


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("seconds by folder")
    for folder, seconds in sorted(SECONDS.items()):
        terminalreporter.write_line(f"{seconds:8.1f}  {folder}")


@pytest.fixture(autouse=True)
def same_signal_handlers():
    """Restore the signal handlers that a program under test has set: processes of later tests would inherit them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
