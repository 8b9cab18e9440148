"""What the server answers to whom: paths, ids, health, tokens and HTTPS, over real connections."""

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from certificates import make_certificate
from uml_dist.telemetry import Metrics, MetricsServer, serve_metrics
from uml_dist.telemetry.access import Access, read_access
from uml_dist.telemetry.health import PAUSE_SECONDS, Health
from uml_dist.telemetry.server import reachable_host


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., MetricsServer]]:
    """Return a function that serves the metrics of a rank until all tests are done."""
    servers = []

    def start(**words) -> MetricsServer:
        metrics = Metrics(run="r", recipe="uml", stage=1, world_size=1, rank=0, device="cpu")
        server = serve_metrics(metrics.registry, 0, **words)
        assert server is not None
        servers.append(server)
        return server

    yield start
    with ThreadPoolExecutor(len(servers)) as threads:  # each one takes up to half a second
        list(threads.map(MetricsServer.stop, servers))


def get(server: MetricsServer, path: str, context: ssl.SSLContext | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    url = server.address.removesuffix("/metrics") + path
    try:
        with urlopen(Request(url, headers=headers), timeout=10, context=context) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_only_metrics_and_health_are_there(serve):
    server = serve()
    assert get(server, "/metrics")[0] == 200
    assert get(server, "/health")[0] == 200
    for path in ("/", "/metrics/", "/metricsx", "/../metrics", "/favicon.ico", "/health/x"):
        assert get(server, path) == (404, "there are /metrics and /health\n"), path


def test_a_scrape_of_another_run_is_refused(serve):
    first, second = serve(), serve()
    assert first.id != second.id
    status, text = get(first, f"/metrics?id={first.id}")
    assert (status, "uml_run_info" in text) == (200, True)
    assert get(first, f"/metrics?id={second.id}") == (421, "another run listens here\n")
    assert get(first, f"/metrics?id={first.id}&id={second.id}")[0] == 421
    assert get(first, f"/metrics?name[]=uml_attempt&id={first.id}")[1].count("uml_run_info") == 0


def test_health_is_503_when_steps_have_stopped(serve):
    now = 0.0
    health = Health(lambda: now)
    server = serve(health=health)
    assert get(server, "/health") == (200, "starting: no step yet, after 0.0 s\n")
    now = PAUSE_SECONDS + 1
    assert get(server, "/health") == (503, "starting: no step yet, after 1801.0 s\n")
    assert get(server, "/metrics")[0] == 200


@pytest.mark.parametrize("path", ["/metrics", "/health", "/other"])
def test_without_the_token_nothing_is_answered(serve, path):
    server = serve(access=Access(token=b"secret"))
    refused = (401, "a bearer token is needed\n")
    assert get(server, path) == refused
    assert get(server, path, Authorization="Bearer secrets") == refused
    assert get(server, path, Authorization="Basic c2VjcmV0OnNlY3JldA==") == refused
    assert get(server, path, Authorization="Bearer secret")[0] == (404 if path == "/other" else 200)


def test_the_header_of_a_refusal_names_the_scheme(serve):
    with pytest.raises(HTTPError) as caught:
        urlopen(serve(access=Access(token=b"secret")).address, timeout=10)
    with caught.value as error:
        assert error.headers["WWW-Authenticate"] == "Bearer"


def test_https_serves_those_who_trust_the_certificate(serve, tmp_path):
    certificate, key = make_certificate(tmp_path)
    server = serve(access=read_access(str(certificate), str(key)))
    assert server.address.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert "uml_run_info" in get(server, "/metrics", trusting)[1]
    with pytest.raises(URLError, match="certificate verify failed"):
        get(server, "/metrics", ssl.create_default_context())
    with pytest.raises(OSError, match=r"(?i)reset|closed|remote end"):
        urlopen(server.address.replace("https:", "http:"), timeout=10)
    assert get(server, "/health", trusting)[0] == 200


def test_a_client_that_never_shakes_hands_keeps_nobody_waiting_and_is_disconnected(serve, tmp_path, capfd):
    certificate, key = make_certificate(tmp_path)
    server = serve(access=read_access(str(certificate), str(key)), seconds=0.5)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with socket.create_connection((server.host, server.port), timeout=10) as silent:
        assert get(server, "/metrics", trusting)[0] == 200
        assert silent.recv(1) == b""
    assert capfd.readouterr() == ("", "")


def test_the_address_for_other_machines_is_one_of_this_machine(serve):
    assert reachable_host("10.1.2.3") == "10.1.2.3"
    found = reachable_host("0.0.0.0")
    with socket.socket() as probe:
        probe.bind((found, 0))  # fails for an address of another machine
    assert reachable_host("0.0.0.0", "no such host") == found
    assert serve(host="127.0.0.1").is_local
    assert not serve(host="0.0.0.0").is_local
