"""Show runs on a live page in the browser: progress, curves, where the time goes, uncertainty and pictures."""

import argparse
import ipaddress
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from uml_shards.arguments import ArgumentParser
from uml_shards.durable import replace_text
from uml_shards.errors import run_command
from uml_shards.output import keep_output

from ..errors import UmlError

PORT = 8600


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, epilog="example: python launchers/watch.py runs/")
    parser.add_argument("path", type=Path, help="a run folder, or a folder of runs")
    parser.add_argument("--port", type=int, help=f"port to listen on (default: the first free one from {PORT})")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any other than loopback opens it to the network"
    )
    parser.add_argument(
        "--once",
        type=Path,
        metavar="FILE",
        help="write the page of the run, or the list of runs, into a file that needs nothing else, and exit",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.port is not None and not 0 <= options.port <= 65535:
        parser.error("--port must be between 0 and 65535")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C, or write it once; return the exit code."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: watch(options), options.debug, (UmlError,))


def watch(options: argparse.Namespace) -> int:
    """Serve or write the page."""
    if not options.path.is_dir():
        problem = "is not a folder" if options.path.exists() else "does not exist"
        raise UmlError(f"{options.path} {problem}: name a run folder or a folder of runs, such as runs")
    from ..watch.server import serving  # with matplotlib, which takes a second
    from ..watch.watcher import Watcher

    watcher = Watcher(options.path)
    if options.once is not None:
        replace_text(options.once, watcher.render(live=False))
        print(options.once)
        return 0
    with suppress(OSError):
        os.nice(5)  # the trainings on this machine come first
    with suppress(KeyboardInterrupt), serving(watcher, options.host, options.port, PORT) as server:
        if not _is_loopback(options.host):
            print(
                f"warning: {options.host} is reachable from the network, and the page has no password and no "
                "encryption: it shows names, configurations and pictures of the runs to everyone there",
                file=sys.stderr,
            )
        print(f"{options.path}: {server.address}", flush=True)
        threading.Event().wait()
    return 0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
