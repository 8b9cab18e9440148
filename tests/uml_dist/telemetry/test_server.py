"""Real HTTP on loopback: values are updated, taken ports are skipped, and no failure reaches the training."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.request import urlopen

import pytest

from uml_dist.telemetry import Metrics, MetricsServer, serve_metrics

HOST = "127.0.0.1"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(run="r", recipe="uml", stage=1, world_size=2, rank=0, device="cpu")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another server listens."""
    with closing(socket.create_server((HOST, 0))) as other:
        yield other.getsockname()[1]


def scrape(server: MetricsServer) -> dict[str, float]:
    with urlopen(server.address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def test_values_are_updated_between_scrapes(metrics: Metrics):
    server = serve_metrics(metrics.registry, 0)
    assert server is not None
    step = {"epoch": 0.1, "images": 4, "seconds": 0.2, "data_wait_seconds": 0.0}
    log = {"learning_rate": {}, "grad_norm": {}, "vacuity": {}}
    metrics.record_step(step=1, **step)
    metrics.record_log(loss={"total": 0.5}, **log)
    first = scrape(server)
    metrics.record_step(step=2, **step)
    metrics.record_log(loss={"total": 0.25}, **log)
    second = scrape(server)
    server.stop()
    assert (first["uml_images_total"], second["uml_images_total"]) == (4, 8)
    assert (first['uml_loss{term="total"}'], second['uml_loss{term="total"}']) == (0.5, 0.25)
    assert not any("created" in name for name in second)


def test_server_listens_on_loopback_only(metrics: Metrics):
    server = serve_metrics(metrics.registry, 0)
    assert server is not None
    assert server.address == f"http://127.0.0.1:{server.port}/metrics"
    server.stop()


def test_local_rank_is_added_to_the_port_and_taken_ports_are_skipped(metrics: Metrics, taken: int):
    server = serve_metrics(metrics.registry, taken - 1, local_rank=1, stride=7, tries=50)
    assert server is not None
    assert server.port > taken
    assert (server.port - taken) % 7 == 0
    assert scrape(server)["uml_steps_total"] == 0
    server.stop()


def test_no_free_port_is_one_warning_and_no_server(metrics: Metrics, taken: int, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert serve_metrics(metrics.registry, taken, tries=1) is None
    (entry,) = caplog.records
    assert f"no free port from {taken} on" in entry.getMessage()


@pytest.mark.parametrize(("host", "port"), [("no-such-host.invalid", 9400), (HOST, 70000), (HOST, -5)])
def test_invalid_address_does_not_raise(metrics: Metrics, host: str, port: int):
    assert serve_metrics(metrics.registry, port, host=host, tries=2) is None


def test_stopping_frees_the_port(metrics: Metrics):
    server = serve_metrics(metrics.registry, 0)
    assert server is not None
    assert listens(server.port)
    server.stop()
    server.stop()
    assert not listens(server.port)
    again = serve_metrics(metrics.registry, server.port, tries=1)
    assert again is not None
    again.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_worker_does_not_keep_the_port(metrics: Metrics):
    server = serve_metrics(metrics.registry, 0)
    assert server is not None
    wait, wake = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(wake)
        os.read(wait, 1)
        os._exit(0)
    try:
        server.stop()
        assert not listens(server.port)
    finally:
        os.close(wake)
        os.waitpid(worker, 0)
        os.close(wait)


def connect(server: MetricsServer) -> socket.socket:
    return socket.create_connection((HOST, server.port), timeout=10)


def wait_for_answer(server: MetricsServer) -> None:
    """Scrape until the place of an earlier client is free."""
    for _ in range(200):
        try:
            scrape(server)
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("its place is still taken")


def is_closed(client: socket.socket) -> bool:
    """Wait until the server ends a connection, which it does without an answer."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_beyond_the_limit_are_closed_at_once(metrics: Metrics):
    server = serve_metrics(metrics.registry, 0, connections=2, seconds=1000.0)
    assert server is not None
    silent = [connect(server), connect(server)]
    assert all(is_closed(connect(server)) for _ in range(20))
    silent[0].close()
    silent[1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    with silent[1].makefile("rb") as answer:
        assert answer.readline().endswith(b"200 OK\r\n")
    server.stop()


def test_clients_that_send_nothing_or_a_part_of_a_request_are_disconnected(metrics: Metrics):
    server = serve_metrics(metrics.registry, 0, connections=3, seconds=0.1)
    assert server is not None
    clients = [connect(server) for _ in range(3)]
    clients[1].sendall(b"GET /met")
    clients[2].sendall(b"GET /metrics HTTP/1.0\r\nHost: x\r\n")
    assert all(map(is_closed, clients))
    wait_for_answer(server)
    server.stop()


def test_a_client_that_reads_nothing_is_disconnected(metrics: Metrics, capfd: pytest.CaptureFixture[str]):
    # More text than the buffers of a connection hold.
    metrics.record_log(loss={"x" * 10_000_000: 0.0}, learning_rate={}, grad_norm={}, vacuity={})
    server = serve_metrics(metrics.registry, 0, connections=1, seconds=1.0)
    assert server is not None
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect((HOST, server.port))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_for_answer(server)
    server.stop()
    assert capfd.readouterr() == ("", "")
