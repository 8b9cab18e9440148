"""Checks communication: back ends, the loopback interface, ports and the host name."""

import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

from .finding import Finding, note, ok, problem

METRICS_HOST, METRICS_PORT = "127.0.0.1", 9464
"""The defaults of metrics.host and metrics.port."""
METRICS_PORTS = 16  # one per rank of a node; if a port is taken, its rank tries the port this far above
LAUNCH_PORT = 29500  # DeepSpeed's and torchrun's default
LOOPBACK = "127.0.0.1"


def read_back_ends() -> tuple[bool, bool]:
    """Return whether torch has NCCL, and whether it has gloo."""
    import torch.distributed as distributed

    if not distributed.is_available():
        return False, False
    return distributed.is_nccl_available(), distributed.is_gloo_available()


def check_back_ends(gpus: int, nccl: bool, gloo: bool) -> Finding:
    """Check the communication back ends: GPUs need NCCL, CPU processes need gloo."""
    there = " and ".join([*(["NCCL"] if nccl else []), *(["gloo"] if gloo else [])]) or "neither NCCL nor gloo"
    needed, has = ("NCCL", nccl) if gpus else ("gloo", gloo)
    if has:
        return ok("back ends", f"torch has {there}; {needed} is used here")
    remedy = "install a torch with CUDA for Linux" if gpus else "install torch from the official wheels: make install"
    return problem("back ends", f"torch has {there}; {needed} is needed here", remedy)


def exchange_on_loopback(seconds: float = 2) -> None:
    """Connect two ends of torch's store on 127.0.0.1, as the ranks of a world do.

    Raises:
        OSError, RuntimeError: they cannot connect.
    """
    from torch.distributed import TCPStore

    limit = timedelta(seconds=seconds)
    # Without a working loopback, a plain socket fails at once, and torch only with many lines of output.
    with socket.create_server((LOOPBACK, 0)) as listener:
        socket.create_connection(listener.getsockname(), seconds).close()
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    # By default the store would listen on all interfaces.
    store = TCPStore(LOOPBACK, port, None, True, limit, wait_for_workers=False, master_listen_fd=listener.detach())
    other = TCPStore(LOOPBACK, port, None, False, limit)
    other.set("doctor", "well")
    if store.get("doctor") != b"well":
        raise RuntimeError("the value sent did not arrive")


def check_loopback(exchange: Callable[[], None] = exchange_on_loopback) -> Finding:
    """Check whether ranks on this machine can connect to each other."""
    try:
        exchange()
    except (OSError, RuntimeError) as error:
        remedy = "ip link set lo up; make sure that no firewall or sandbox blocks it"
        return problem("loopback", f"no connection through {LOOPBACK}: {error}", remedy)
    return ok("loopback", f"torch's store connects through {LOOPBACK}")


def taken_ports(host: str, ports: Sequence[int]) -> list[int]:
    """Return the ports on which no server can be started because they are in use.

    Raises:
        OSError: the host is not an address of this machine, or this user may not use its ports.
    """
    taken = []
    for port in ports:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.socket(family)) as probe:
            # Like servers, ignore connections that have just ended.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken.append(port)
    return taken


def listeners() -> dict[int, str]:
    """Return the name and number of the listening process by port; processes of other users are not visible."""
    import psutil

    found = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid is not None and connection.laddr:
            try:
                name = psutil.Process(connection.pid).name()
            except psutil.Error:
                continue
            found[connection.laddr[1]] = f"{name}, process {connection.pid}"
    return found


def check_metrics(
    host: str = METRICS_HOST,
    port: int = METRICS_PORT,
    taken: Callable[[str, Sequence[int]], list[int]] = taken_ports,
    who: Callable[[], Mapping[int, str]] = listeners,
) -> Finding:
    """Check the address at which metrics are served.

    Args:
        host: `metrics.host`.
        port: `metrics.port`; 0 for any free port.
        taken: returns those ports that are in use.
        who: returns the listening processes by port.
    """
    if not is_loopback(host):
        message = (
            f"metrics.host={host} is open to the network: without metrics.token_file, anyone who reaches port {port} "
            "can read the metrics"
        )
        return note("metrics", message, f"set metrics.token_file; or set metrics.host={METRICS_HOST}")
    place = f"{host} only (metrics.host=0.0.0.0 would open them to the network)"
    if port == 0:
        return ok("metrics", f"on any free port of {place}")
    used = taken(host, range(port, min(port + METRICS_PORTS, 65536)))
    if used:
        message = f"ports in use: {_ports(used, who)}; ranks that would serve metrics there use the next free ports"
        return note("metrics", message, "none needed; or set metrics.port")
    return ok("metrics", f"on port {port} + rank of {place}")


def check_launch_port(
    taken: Callable[[str, Sequence[int]], list[int]] = taken_ports, who: Callable[[], Mapping[int, str]] = listeners
) -> Finding:
    """Check the rendezvous port of `deepspeed launchers/train.py`."""
    used = taken("0.0.0.0", [LAUNCH_PORT])
    if not used:
        return ok("launch port", f"{LAUNCH_PORT}, the default port of deepspeed and torchrun, is free")
    remedy = f"deepspeed --master_port {LAUNCH_PORT + 1}, or python launchers/train.py, which chooses a free port"
    return note("launch port", f"deepspeed's default port is in use: {_ports(used, who)}", remedy)


def check_host_name(name: str, resolve: Callable[..., Sequence[Any]] = socket.getaddrinfo) -> Finding:
    """Check whether the host's own name resolves to an address, which is needed on several machines only.

    Args:
        name: name of this host.
        resolve: a function like `socket.getaddrinfo`.
    """
    remedy = "for several machines: add it to /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    try:
        addresses = sorted({str(entry[4][0]) for entry in resolve(name, None)})
    except OSError as error:
        return note("host name", f"{name} has no address ({error}); only needed on several machines", remedy)
    if all(is_loopback(address) for address in addresses):
        found = ", ".join(addresses)
        message = f"{name} is {found}, which other machines cannot reach; only needed on several machines"
        return note("host name", message, remedy)
    return ok("host name", f"{name} is {', '.join(addresses)}")


def check_interfaces(environment: Mapping[str, str], interfaces: Sequence[str]) -> Finding:
    """Check whether the network interfaces that environment variables choose exist.

    Args:
        environment: environment variables of this process.
        interfaces: names of this machine's interfaces.
    """
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        chosen = environment.get(variable, "")
        # NCCL matches prefixes; ^ excludes the matches, = requires exact names.
        prefixes = variable.startswith("NCCL") and not chosen.startswith("=")
        names = [] if chosen.startswith("^") else [name for name in chosen.removeprefix("=").split(",") if name]
        there = [one for one in interfaces for name in names if one == name or (prefixes and one.startswith(name))]
        if names and not there:
            message = f"{variable}={chosen} matches none of the interfaces here: {', '.join(interfaces)}"
            return problem("interfaces", message, f"unset {variable}, or name one of them")
    return ok("interfaces", ", ".join(interfaces))


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _ports(ports: Sequence[int], who: Callable[[], Mapping[int, str]]) -> str:
    try:
        known = who()
    except Exception:  # the ports are worth reporting without the names
        known = {}
    return ", ".join(f"{port} ({known.get(port, 'by a process that cannot be seen')})" for port in ports)
