"""Start Prometheus, and with Docker also Grafana, on the current runs of this user: `make monitor`.

With Docker and its compose plugin, both start in containers, and Grafana opens on the dashboards. Otherwise an
installed Prometheus starts alone. Both listen on 127.0.0.1 only. They stop at Ctrl-C; what they recorded is kept for
30 days.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from uml_dist.errors import UmlError
from uml_dist.telemetry.targets import current_targets, sweep, targets_folder
from uml_shards.durable import replace_text
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output
from uml_shards.text import printable

MONITORING = Path(__file__).parent / "monitoring"
PORTS = 20
"""Number of ports to try: a Prometheus that is installed as a service has the usual one already."""

READY = {"Prometheus": "-/ready", "Grafana": "api/health"}
"""Pages of the servers that say whether they are ready."""

READY_SECONDS = 60
DOWNLOAD_SECONDS = 900
"""How long the containers may take to answer, the download of their images included."""

MISSING = (
    "neither Docker with its compose plugin nor Prometheus can be used here: install Prometheus (on Debian and Ubuntu: "
    "sudo apt install prometheus) or Docker, then repeat the command"
)


@dataclass(frozen=True)
class Places:
    """Where the monitoring reads and writes.

    Attributes:
        targets: folder of the files of targets.
        data: folder of what Prometheus and Grafana keep.
    """

    targets: Path
    data: Path


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=Path, help="folder with the runs' targets (default: metrics.targets_dir)")
    parser.add_argument("--data", type=Path, help="folder for recorded data (default: monitoring beside the targets)")
    parser.add_argument("--port", type=int, default=9090, help="port of Prometheus, or the next free one (9090)")
    parser.add_argument("--grafana-port", type=int, default=3000, help="port of Grafana, or the next free one (3000)")
    parser.add_argument("--no-docker", action="store_true", help="use the installed Prometheus even if Docker is there")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the monitoring, and wait until it is stopped; return the exit code."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as for Ctrl-C: what runs in the background is stopped too
        signal.signal(number, signal.default_int_handler)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Start Docker's containers or the installed Prometheus."""
    places = places_of(options.targets, options.data)
    docker = None if options.no_docker else usable_docker()
    prometheus = shutil.which("prometheus")
    if not docker and not prometheus:
        raise UmlError(MISSING)
    for folder in (places.targets, places.data):
        folder.mkdir(parents=True, exist_ok=True)
    sweep(places.targets)
    port = free_port(options.port)
    if docker:
        grafana = free_port(options.grafana_port)
        write_config(places, "targets", "rules")
        command = [docker, "compose", "--file", str(MONITORING / "compose.yaml")]
        command += ["--project-name", f"uml-dist-monitoring-{os.getuid()}", "up", "--no-color"]
        variables = compose_variables(places, port, grafana)
        print("starting containers; the first time, their images are downloaded", flush=True)
        return follow(command, places, {"Prometheus": port, "Grafana": grafana}, DOWNLOAD_SECONDS, variables)
    config = write_config(places, str(places.targets), str(MONITORING.resolve() / "rules"))
    command = [str(prometheus), f"--config.file={config}", f"--storage.tsdb.path={places.data / 'prometheus'}"]
    command += ["--storage.tsdb.retention.time=30d", f"--web.listen-address=127.0.0.1:{port}"]
    return follow(command, places, {"Prometheus": port}, READY_SECONDS)


def places_of(targets: Path | None, data: Path | None) -> Places:
    """Return the folders to use.

    Raises:
        UmlError: there is no default, or Prometheus would take a part of the path for a pattern.
    """
    targets = targets.absolute() if targets else targets_folder()
    if targets is None:
        raise UmlError("there is no home folder: name the folder with the targets of the runs by --targets FOLDER")
    if re.search(r"[*?\[\\]", str(targets)):
        raise UmlError(f"the folder of targets {printable(str(targets))} contains *, ?, [ or \\: choose another")
    return Places(targets, data.absolute() if data else targets.parent / "monitoring")


def usable_docker() -> str | None:
    """Return the path of Docker if it has the compose plugin, and its service answers."""
    docker = shutil.which("docker")
    if docker and all(
        subprocess.run([docker, *words], capture_output=True).returncode == 0
        for words in (["compose", "version"], ["version"])
    ):
        return docker
    return None


def free_port(first: int) -> int:
    """Return the first port from this one on that nothing listens on.

    Raises:
        UmlError: there is none among the next ones.
    """
    for port in range(first, min(first + PORTS, 65536)):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise UmlError(f"ports {first} to {first + PORTS - 1} of 127.0.0.1 are in use: choose another by --port")


def write_config(places: Places, targets: str, rules: str) -> Path:
    """Write the configuration with the user's paths and the name of the machine, and return its path."""
    values = {
        "rules/*.yml # the rules": f"{rules}/*.yml",
        "targets/*.json # the folder": f"{targets}/*.json",
        ".* # the machine": "|" + re.escape(socket.gethostname()),
    }
    text = (MONITORING / "prometheus.yml").read_text(encoding="utf-8")
    for line, value in values.items():
        assert text.count(line) == 1, line
        text = text.replace(line, json.dumps(value))
    path = places.data / "prometheus.yml"
    replace_text(path, text)
    return path


def compose_variables(places: Places, port: int, grafana: int) -> dict[str, str]:
    """Return the variables of compose.yaml; folders are made here, as Docker would make them root's."""
    for name in ("prometheus-docker", "grafana"):
        (places.data / name).mkdir(exist_ok=True)
    return {
        "UML_USER": f"{os.getuid()}:{os.getgid()}",
        "UML_TARGETS": str(places.targets),
        "UML_DATA": str(places.data),
        "UML_PROMETHEUS_PORT": str(port),
        "UML_GRAFANA_PORT": str(grafana),
    }


def follow(
    command: Sequence[str],
    places: Places,
    ports: Mapping[str, int],
    seconds: float,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run a command until Ctrl-C, and print the addresses once all of its servers answer.

    Args:
        command: the command.
        places: the folders.
        ports: port of each server.
        seconds: how long the servers may take to answer.
        variables: further environment variables.

    Raises:
        UmlError: the command ended by itself, or a server does not answer.
    """
    log = places.data / "log.txt"
    with log.open("wb") as output:
        environment = {**os.environ, **(variables or {})}
        # In a session of its own, Ctrl-C does not reach it, so that it is stopped once.
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            deadline = time.monotonic() + seconds
            while not all(answers(name, port) for name, port in ports.items()):
                if process.poll() is not None:
                    raise UmlError(f"{command[0]} has ended: {last_line(log)} (see {log})")
                if time.monotonic() > deadline:
                    raise UmlError(f"nothing answers after {seconds:.0f} s: {last_line(log)} (see {log})")
                time.sleep(0.2)
            say_hello(places, ports)
            if process.wait() != 0:
                raise UmlError(f"{command[0]} has ended: {last_line(log)} (see {log})")
        except KeyboardInterrupt:
            print("stopping", flush=True)
        finally:
            process.terminate()
            process.wait()
    return 0


def say_hello(places: Places, ports: Mapping[str, int]) -> None:
    """Print the addresses and what there is to see."""
    targets = current_targets(places.targets)
    runs = sorted({printable(target.run) for target in targets})
    for name, port in ports.items():
        print(f"{name:<12}http://127.0.0.1:{port}/{'alerts' if name == 'Prometheus' else ''}")
    print(f"{'runs':<12}{', '.join(runs) or 'none yet'} ({len(targets)} ranks in {printable(str(places.targets))})")
    print("New runs appear by themselves. Ctrl-C stops.", flush=True)


def answers(name: str, port: int) -> bool:
    """Return whether a server is ready."""
    address = f"http://127.0.0.1:{port}/{READY[name]}"
    with suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return answer.status == 200
    return False


def last_line(log: Path) -> str:
    """Return the last line of a log, for a message."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return printable(lines[-1]) if lines else "it wrote nothing"


if __name__ == "__main__":
    sys.exit(main())
