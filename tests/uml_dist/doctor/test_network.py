"""Back ends, loopback, interfaces, ports and the host name."""

import socket

import pytest

from uml_dist.config.exporting import MetricsConfig
from uml_dist.doctor import network
from uml_dist.doctor.network import (
    check_back_ends,
    check_host_name,
    check_interfaces,
    check_launch_port,
    check_loopback,
    check_metrics,
    is_loopback,
    listeners,
    read_back_ends,
    taken_ports,
)


@pytest.fixture
def listening():
    """The port of a listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("gpus", "nccl", "gloo", "state"),
    [(0, False, True, "ok"), (2, True, False, "ok"), (2, False, True, "problem"), (0, True, False, "problem")],
)
def test_gpus_need_nccl_and_cpu_processes_gloo(gpus, nccl, gloo, state):
    assert check_back_ends(gpus, nccl, gloo).state == state


def test_this_torch_has_gloo():
    assert read_back_ends()[1]


def test_real_loopback_is_ok():
    assert check_loopback().state == "ok"


def test_failed_connection_on_loopback_is_a_problem():
    def unconnected():
        raise RuntimeError("timed out")

    found = check_loopback(unconnected)
    assert (found.state, "timed out" in found.message) == ("problem", True)


def test_port_in_use_is_found_with_its_process(listening):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert taken_ports("127.0.0.1", [listening, port]) == [listening]
    assert "process" in listeners()[listening]


def test_port_whose_connections_have_just_ended_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    assert taken_ports("127.0.0.1", [port]) == []


def test_metrics_on_loopback_are_ok_and_taken_ports_are_named(listening):
    nothing = {"taken": lambda host, ports: []}
    assert check_metrics(**nothing).state == "ok"
    assert check_metrics(port=0, taken=lambda host, ports: [1 / 0]).state == "ok"
    found = check_metrics(port=listening)
    assert (found.state, f"{listening} (" in found.message) == ("note", True)
    unseen = check_metrics(port=9464, taken=lambda host, ports: [9465], who=lambda: {})
    assert "9465 (by a process that cannot be seen)" in unseen.message


def test_metrics_open_to_the_network_are_a_note():
    found = check_metrics("0.0.0.0")
    assert (found.state, "without metrics.token_file" in found.message) == ("note", True)


def test_defaults_are_those_of_the_configuration():
    metrics = MetricsConfig()
    assert (metrics.host, metrics.port) == (network.METRICS_HOST, network.METRICS_PORT)


def test_taken_launch_port_is_a_note_even_if_the_listener_is_unknown():
    def refused():
        raise PermissionError

    assert check_launch_port(lambda host, ports: []).state == "ok"
    found = check_launch_port(lambda host, ports: list(ports), refused)
    assert (found.state, "--master_port 29501" in found.remedy) == ("note", True)


@pytest.mark.parametrize(
    ("addresses", "state"), [(["10.0.0.7"], "ok"), (["127.0.1.1"], "note"), (["::1", "127.0.0.1"], "note")]
)
def test_host_name_with_loopback_addresses_only_is_a_note(addresses, state):
    entries = [(socket.AF_INET, 0, 0, "", (address, 0)) for address in addresses]
    assert check_host_name("node7", lambda name, port: entries).state == state


def test_host_name_without_an_address_is_a_note():
    def unknown(name, port):
        raise socket.gaierror("unknown")

    found = check_host_name("node7", unknown)
    assert (found.state, "/etc/hosts" in found.remedy) == ("note", True)


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "ok"),
        ({"GLOO_SOCKET_IFNAME": "lo"}, "ok"),
        ({"GLOO_SOCKET_IFNAME": "eth"}, "problem"),
        ({"NCCL_SOCKET_IFNAME": "eth"}, "ok"),
        ({"NCCL_SOCKET_IFNAME": "=eth"}, "problem"),
        ({"NCCL_SOCKET_IFNAME": "^lo"}, "ok"),
        ({"NCCL_SOCKET_IFNAME": "ib0"}, "problem"),
    ],
)
def test_interfaces_chosen_by_variables_must_exist(environment, state):
    assert check_interfaces(environment, ["lo", "eth0"]).state == state


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("node7", False)]
)
def test_loopback_addresses_are_recognised(host, own):
    assert is_loopback(host) == own
