"""Runs commands with a deadline and stops them whole, and shares a list of tasks among several processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter, sleep

DEVICE_LOST = 3
"""Exit code of a process whose GPU takes no more work, as after an illegal address: another process can go on."""

RESTARTS = 20
"""Of all workers together; each crash loses one task, so more of them mean that nothing works."""


MOST = 16
"""Processes at once: each takes half a GiB of the GPU and two of the machine."""

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """How many this process may use, `MOST` at most: a container's share may be far less than the cores it sees."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        seen = min(seen, round(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no quota: there is no such file, or it has "max"
    return min(max(seen, 1), MOST)


def _descendants(process: int) -> Iterator[int]:
    """Children, their children and so on; those in sessions of their own too."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(folder.name))
    waiting = [process]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            yield child


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and everything it started; of one that has ended, what it left in its group."""
    below = list(_descendants(process.pid)) if process.poll() is None else []
    for kill, number in ((os.killpg, process.pid), *((os.kill, each) for each in below)):
        try:
            kill(number, signal.SIGKILL)
        except OSError:
            continue  # it ended by itself, or leads no group
    process.kill()
    process.wait()


def run_limited(
    command: Sequence[str], seconds: float, log: Path, folder: Path, environment: Mapping[str, str]
) -> int | None:
    """Run a command, copy its output to a file and, as it comes, to stdout.

    Returns:
        Its exit code; None where it took longer and was killed with all its children.
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
            # Also what a finished command left behind: it would disturb the next part.
            stop(process)
            _show(shown.read())


def _show(output: bytes) -> None:
    if output:
        sys.stdout.write(output.decode(errors="replace"))
        sys.stdout.flush()


def take(claims: Path, task: int) -> bool:
    """Whether this process, and no other that uses the same folder, is to do a task."""
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
    """Start a command several times; the processes `take` the tasks of one list.

    A process that crashes is replaced, which loses the task it had taken and no other.

    Args:
        command: of each process.
        count: of the processes.
        seconds: after which they are killed.
        claims: folder in which they take tasks; made here.
        logs: folder of what they print.
        environment: of the processes.
        final: exit codes of a process that found no more tasks.

    Returns:
        Whether all of them ended by themselves.
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
                # Without a new task since the last crash a replacement would only crash again.
                if code not in final and restarts < RESTARTS and now > taken:
                    restarts, taken, running[number] = restarts + 1, now, start(number)
            sleep(0.05)
        return not running
    finally:
        for process in running.values():
            stop(process)
