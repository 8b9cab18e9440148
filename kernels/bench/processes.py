"""Runs commands with a deadline, stops them with all their children, and shares tasks among several processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter, sleep

DEVICE_LOST = 3
"""Exit code of a process whose GPU context is lost, as after an illegal address; another process can continue."""

RESTARTS = 20
"""Maximum restarts of all workers together: each crash loses one task, so more crashes mean that nothing works."""


MOST = 16
"""Maximum number of processes: each takes half a GiB of GPU memory and two GiB of the machine's."""

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Return the number of usable cores, at most `MOST`; a container's quota may be far below its visible cores."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        seen = min(seen, round(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no quota: the file does not exist or contains "max"
    return min(max(seen, 1), MOST)


def _descendants(process: int) -> Iterator[int]:
    """Yield all descendants of a process, including those in other sessions."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # the process has ended
        children.setdefault(parent, []).append(int(folder.name))
    waiting = [process]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            yield child


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its descendants; if it has ended, kill the rest of its process group."""
    below = list(_descendants(process.pid)) if process.poll() is None else []
    for kill, number in ((os.killpg, process.pid), *((os.kill, each) for each in below)):
        try:
            kill(number, signal.SIGKILL)
        except OSError:
            continue  # it has ended, or is not a group leader
    process.kill()
    process.wait()


def run_limited(
    command: Sequence[str], seconds: float, log: Path, folder: Path, environment: Mapping[str, str]
) -> int | None:
    """Run a command with a time limit and copy its output to a log file and to stdout.

    Returns:
        The exit code; None if the command exceeded the limit and was killed with all its children.
    """
    deadline = perf_counter() + seconds
    with log.open("ab") as target, log.open("rb") as shown:
        shown.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=target, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None and perf_counter() < deadline:
                sleep(0.1)
                _show(shown.read())
            return process.poll()
        finally:
            # Processes that a finished command left behind would disturb the next part
            stop(process)
            _show(shown.read())


def _show(output: bytes) -> None:
    if output:
        sys.stdout.write(output.decode(errors="replace"))
        sys.stdout.flush()


def take(claims: Path, task: int) -> bool:
    """Claim a task; return False if another process with the same folder has claimed it."""
    try:
        os.close(os.open(claims / f"{task}.taken", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def work_together(
    command: Sequence[str],
    count: int,
    seconds: float,
    claims: Path,
    logs: Path,
    environment: Mapping[str, str],
    final: Sequence[int] = (0,),
) -> bool:
    """Run a command in several processes, which `take` the tasks of one list.

    A process that crashes is replaced; only the task that it had claimed is lost.

    Args:
        command: command of each process.
        count: number of processes.
        seconds: time after which they are killed.
        claims: folder of the claims; created if needed.
        logs: folder of their output.
        environment: environment of the processes.
        final: exit codes of a process that found no more tasks.

    Returns:
        Whether all processes ended by themselves.
    """
    claims.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    deadline, restarts, taken = perf_counter() + seconds, 0, -1

    def start(number: int) -> subprocess.Popen[bytes]:
        with (logs / f"worker-{number}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    running = {number: start(number) for number in range(count)}
    try:
        while running and perf_counter() < deadline:
            for number, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[number]
                now = len(list(claims.iterdir()))
                # If no task was claimed since the last crash, a replacement would only crash again
                if code not in final and restarts < RESTARTS and now > taken:
                    restarts, taken, running[number] = restarts + 1, now, start(number)
            sleep(0.05)
        return not running
    finally:
        for process in running.values():
            stop(process)
