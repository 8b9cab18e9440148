"""Communication: back ends, the loopback interface, ports, the host's name."""

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
METRICS_PORTS = 16  # each rank of a node has one; where they are taken, all move on by as many
LAUNCH_PORT = 29500  # DeepSpeed's and torchrun's default
LOOPBACK = "127.0.0.1"


def read_back_ends() -> tuple[bool, bool]:
    """Whether torch has NCCL, and gloo."""
    import torch.distributed as distributed

    if not distributed.is_available():
        return False, False
    return distributed.is_nccl_available(), distributed.is_gloo_available()


def check_back_ends(gpus: int, nccl: bool, gloo: bool) -> Finding:
    """What ranks can talk through: GPUs need NCCL, CPU processes gloo."""
    there = " and ".join([*(["NCCL"] if nccl else []), *(["gloo"] if gloo else [])]) or "neither NCCL nor gloo"
    needed, has = ("NCCL", nccl) if gpus else ("gloo", gloo)
    if has:
        return ok("back ends", f"torch has {there}; {needed} is used here")
    todo = "install a torch with CUDA for Linux" if gpus else "install torch from the official wheels: make install"
    return problem("back ends", f"torch has {there}; {needed} is needed here", todo)


def exchange_on_loopback(seconds: float = 2) -> None:
    """Let two ends of torch's store meet on 127.0.0.1, as the ranks of a world do.

    Raises:
        OSError, RuntimeError: they do not.
    """
    from torch.distributed import TCPStore

    limit = timedelta(seconds=seconds)
    # Where nobody can reach anybody, a plain socket says so at once, and torch in many lines.
    with socket.create_server((LOOPBACK, 0)) as listener:
        socket.create_connection(listener.getsockname(), seconds).close()
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    # By itself the store would listen on all interfaces.
    store = TCPStore(LOOPBACK, port, None, True, limit, wait_for_workers=False, master_listen_fd=listener.detach())
    other = TCPStore(LOOPBACK, port, None, False, limit)
    other.set("doctor", "well")
    if store.get("doctor") != b"well":
        raise RuntimeError("what was sent did not arrive")


def check_loopback(exchange: Callable[[], None] = exchange_on_loopback) -> Finding:
    """Whether ranks on this machine can meet."""
    try:
        exchange()
    except (OSError, RuntimeError) as error:
        todo = "ip link set lo up; see that no firewall or sandbox closes it"
        return problem("loopback", f"two ends on {LOOPBACK} do not meet: {error}", todo)
    return ok("loopback", f"two ends of torch's store met on {LOOPBACK}")


def taken_ports(host: str, ports: Sequence[int]) -> list[int]:
    """Those ports on which no server can be started.

    Raises:
        OSError: the host is no address of this machine, or its ports are not for this user.
    """
    taken = []
    for port in ports:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with closing(socket.socket(family)) as probe:
            # As servers do: connections that have just ended do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken.append(port)
    return taken


def listeners() -> dict[int, str]:
    """Name and number of the process that listens, by port; of other users' processes the number is not told."""
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
    """Where metrics are served, and whether it is free.

    Args:
        host: `metrics.host`.
        port: `metrics.port`; 0 is any free one.
        taken: which of some ports are in use.
        who: what listens, by port.
    """
    if not is_loopback(host):
        says = (
            f"metrics.host={host} is open to the network: who reaches port {port} reads the metrics without a password"
        )
        return note("metrics", says, f"in a closed network only; else metrics.host={METRICS_HOST}")
    place = f"{host} alone (metrics.host=0.0.0.0 would open them to the network, without a password)"
    if port == 0:
        return ok("metrics", f"on any free port of {place}")
    used = taken(host, range(port, min(port + METRICS_PORTS, 65536)))
    if used:
        says = f"in use: {_ports(used, who)}; ranks that would serve metrics there move on to the next free ports"
        return note("metrics", says, "nothing, or set metrics.port")
    return ok("metrics", f"on port {port} + rank of {place}")


def check_launch_port(
    taken: Callable[[str, Sequence[int]], list[int]] = taken_ports, who: Callable[[], Mapping[int, str]] = listeners
) -> Finding:
    """The port where the ranks of `deepspeed launchers/train.py` meet."""
    used = taken("0.0.0.0", [LAUNCH_PORT])
    if not used:
        return ok("launch port", f"{LAUNCH_PORT}, where deepspeed's and torchrun's ranks meet, is free")
    todo = f"deepspeed --master_port {LAUNCH_PORT + 1}, or python launchers/train.py, which takes a free one"
    return note("launch port", f"in use, and deepspeed's default: {_ports(used, who)}", todo)


def check_host_name(name: str, resolve: Callable[..., Sequence[Any]] = socket.getaddrinfo) -> Finding:
    """Whether the host's own name leads to an address: needed on several machines only.

    Args:
        name: of this host.
        resolve: as `socket.getaddrinfo`.
    """
    todo = "for several machines: add it to /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    try:
        addresses = sorted({str(entry[4][0]) for entry in resolve(name, None)})
    except OSError as error:
        return note("host name", f"{name} leads to no address ({error}); one machine does not need it", todo)
    if all(is_loopback(address) for address in addresses):
        says = f"{name} leads to {', '.join(addresses)} alone, which other machines cannot reach; one does not need it"
        return note("host name", says, todo)
    return ok("host name", f"{name} is {', '.join(addresses)}")


def check_interfaces(environment: Mapping[str, str], interfaces: Sequence[str]) -> Finding:
    """Whether the network interfaces that variables choose are there.

    Args:
        environment: of this process.
        interfaces: names of those of this machine.
    """
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        chosen = environment.get(variable, "")
        # NCCL takes beginnings of names; with ^ it takes all others, with = whole names.
        prefixes = variable.startswith("NCCL") and not chosen.startswith("=")
        names = [] if chosen.startswith("^") else [name for name in chosen.removeprefix("=").split(",") if name]
        there = [one for one in interfaces for name in names if one == name or (prefixes and one.startswith(name))]
        if names and not there:
            says = f"{variable}={chosen} is none of the interfaces here: {', '.join(interfaces)}"
            return problem("interfaces", says, f"unset {variable}, or name one of them")
    return ok("interfaces", ", ".join(interfaces))


def is_loopback(host: str) -> bool:
    """Whether an address is for this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _ports(ports: Sequence[int], who: Callable[[], Mapping[int, str]]) -> str:
    try:
        known = who()
    except Exception:  # what else it would say is worth more than the name
        known = {}
    return ", ".join(f"{port} ({known.get(port, 'by a process that cannot be seen')})" for port in ports)
