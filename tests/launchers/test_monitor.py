"""`launchers/monitor.py`: it starts the Prometheus that is there, or says what to install."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import monitor
from prometheus_programs import Server, prometheus_programs
from uml_dist.errors import UmlError
from uml_dist.telemetry.process import Process, file_name
from uml_dist.telemetry.targets import SUFFIX, Target

SCRIPT = Path(monitor.__file__)
STAND_IN = """
import http.server, json, os, sys, threading, time

class Ready(http.server.BaseHTTPRequestHandler):
    asked = set()
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.asked.add(self.path)

names = ("UML_USER", "UML_TARGETS", "UML_DATA")
with open(CALLED, "w") as file:
    json.dump([sys.argv[1:], {name: os.environ[name] for name in names}], file)
for name in ("PROMETHEUS", "GRAFANA"):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ[f"UML_{name}_PORT"])), Ready)
    threading.Thread(target=server.serve_forever, daemon=True).start()
while Ready.asked != {"/-/ready", "/api/health"}:
    time.sleep(0.05)
"""
"""What `docker compose up` does here, where there is no engine: it answers until it was asked, and ends."""


@pytest.fixture
def only(tmp_path, monkeypatch):
    """Leave only these programs on the path: names and lines of shell scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(**programs: str) -> Path:
        for name, lines in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
            (folder / name).chmod(0o755)
        return folder

    return install


def options(tmp_path: Path, *words: str) -> Any:
    return monitor.parse(["--targets", str(tmp_path / "targets"), *words])


def test_without_docker_and_prometheus_one_line_says_what_to_install(only, tmp_path, capsys):
    assert monitor.main(["--targets", str(tmp_path / "targets")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: neither Docker with its compose plugin nor Prometheus can be used here: install ")
    assert errors.count("\n") == 1


def test_docker_without_its_service_is_no_docker(only, tmp_path):
    only(docker='[ "$1" = compose ]')
    with pytest.raises(UmlError, match="neither Docker"):
        monitor.run(options(tmp_path))


def test_a_prometheus_that_ends_at_once_is_one_line(only, tmp_path):
    folder = only(prometheus="echo 'data folder is locked' >&2; exit 1")
    with pytest.raises(UmlError, match=rf"{folder}/prometheus has ended: data folder is locked \(see .*log.txt\)"):
        monitor.run(options(tmp_path))


def test_docker_starts_both_with_the_files_of_this_user(only, tmp_path, capsys):
    called = tmp_path / "called.json"
    (tmp_path / "stand_in.py").write_text(STAND_IN.replace("CALLED", repr(str(called))))
    version = '{ [ "$1" = version ] || [ "$2" = version ]; } && exit 0'
    only(docker=f'{version}\nexec {sys.executable} {tmp_path}/stand_in.py "$@"')
    assert monitor.run(options(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "starting containers; the first time, their images are downloaded"
    assert [line.split()[0] for line in lines[1:4]] == ["Prometheus", "Grafana", "runs"]
    words, variables = json.loads(called.read_text())
    assert words[:3] == ["compose", "--file", str(SCRIPT.parent / "monitoring" / "compose.yaml")]
    assert words[-2:] == ["up", "--no-color"]
    data = tmp_path / "monitoring"
    assert variables == {
        "UML_USER": f"{os.getuid()}:{os.getgid()}",
        "UML_TARGETS": str(tmp_path / "targets"),
        "UML_DATA": str(data),
    }
    assert sorted(path.name for path in data.iterdir()) == ["grafana", "log.txt", "prometheus-docker", "prometheus.yml"]
    config = yaml.safe_load((data / "prometheus.yml").read_text())
    assert config["scrape_configs"][0]["file_sd_configs"][0]["files"] == ["targets/*.json"]


def active(server: Server) -> list[dict[str, Any]]:
    return server.get("targets", state="active")["activeTargets"]


@pytest.mark.launch
def test_an_installed_prometheus_scrapes_the_current_runs_until_it_is_stopped(tmp_path):
    programs = prometheus_programs()
    targets = tmp_path / "targets"
    targets.mkdir()
    for name, node in (("isic", socket.gethostname()), ("elsewhere", "another-machine")):
        target = Target(address="127.0.0.1:9", run=name, node=node, rank=0, folder="/data")
        path = targets / file_name(name, name, SUFFIX)
        path.write_text(json.dumps([target.group(Process.current())]))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        command = [sys.executable, str(SCRIPT), "--no-docker", "--targets", str(targets), "--port", str(first)]
        environment = {**os.environ, "PATH": str(programs.prometheus.parent)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=environment, **pipes)
        try:
            said = [process.stdout.readline() for _ in range(3)]
            port = int(re.fullmatch(r"Prometheus +http://127.0.0.1:(\d+)/alerts\n", said[0])[1])
            assert port > first
            assert said[1].split()[:2] == ["runs", "elsewhere,"]
            server, deadline = Server(port), time.monotonic() + 60
            while not (found := active(server)):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            labels = {"run": "isic", "node": socket.gethostname(), "rank": "0", "attempt": "1", "job": "uml"}
            assert [labels.items() <= target["labels"].items() for target in found] == [True]
            groups = {group["name"] for group in server.get("rules")["groups"]}
            assert groups == {"uml_recording", "uml_progress", "uml_learning", "uml_hardware"}
            (targets / file_name("isic", "isic", SUFFIX)).unlink()
            while active(server):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert (*process.communicate(timeout=30), process.returncode) == ("stopping\n", "", 0)
            assert not server.ready()
        finally:
            process.terminate()
            process.communicate(timeout=30)


def test_the_configuration_contains_the_paths_and_keeps_loopback_targets_of_this_machine(tmp_path):
    places = monitor.Places(tmp_path / 'a "quoted": folder', tmp_path)
    config = yaml.safe_load(monitor.write_config(places, str(places.targets), "/rules").read_text())
    (scrape,) = config["scrape_configs"]
    assert scrape["file_sd_configs"][0]["files"] == [f"{places.targets}/*.json"]
    assert config["rule_files"] == ["/rules/*.yml"]
    assert scrape["honor_labels"] is True
    assert scrape["relabel_configs"][0]["regex"].startswith("|")


def test_containers_are_pinned_listen_on_loopback_and_send_nothing():
    services = yaml.safe_load((SCRIPT.parent / "monitoring" / "compose.yaml").read_text())["services"]
    for service in services.values():
        image, _, version = service["image"].partition(":")
        assert image in {"prom/prometheus", "grafana/grafana"}
        assert version.lstrip("v").count(".") == 2
        assert service["network_mode"] == "host"
    assert any("listen-address=127.0.0.1:" in word for word in services["prometheus"]["command"])
    grafana = services["grafana"]["environment"]
    assert grafana["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert (grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"], grafana["GF_AUTH_DISABLE_LOGIN_FORM"]) == ("Viewer", "true")
    assert grafana["GF_ANALYTICS_REPORTING_ENABLED"] == "false"


def test_grafana_opens_on_a_provisioned_dashboard():
    folder = SCRIPT.parent / "monitoring"
    grafana = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["grafana"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    mounts = dict(volume.split(":")[1::-1] for volume in grafana["volumes"][:2])
    assert (folder / mounts[str(home.parent)] / home.name).is_file()
    provisioning = folder / mounts["/etc/grafana/provisioning"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "uml-dist.yml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert provider["options"]["path"] == "${UML_DASHBOARDS}"
    assert grafana["environment"]["UML_DASHBOARDS"] == str(home.parent)
    assert source["url"] == "${UML_PROMETHEUS_URL}"
    assert source["jsonData"]["timeInterval"] == "5s"


def test_folders_that_prometheus_would_read_as_patterns_are_refused(tmp_path):
    with pytest.raises(UmlError, match="contains \\*, \\?"):
        monitor.places_of(tmp_path / "runs[1]", None)
