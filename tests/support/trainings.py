"""Real trainings whose ranks are forked from a server that has everything imported, as `worlds` does."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from worlds import CONTEXT, free_port


class Training:
    """A training in a run folder, whose ranks go through `train_rank`.

    Args:
        tree: the configuration.
        run: the run folder.
        ranks: number of ranks.
        hooks: a function of an importable module that returns hooks.
    """

    def __init__(
        self, tree: dict[str, Any], run: Path, ranks: int = 1, hooks: Callable[[], Sequence[Any]] = tuple
    ) -> None:
        port = free_port()
        arguments = [(rank, ranks, port, tree, str(run), hooks) for rank in range(ranks)]
        self.run = run
        self.processes = [CONTEXT.Process(target=_rank, args=given) for given in arguments]
        for process in self.processes:
            process.start()

    def wait(self) -> list[int | None]:
        """Exit codes of the ranks, once all have ended."""
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """Kill the ranks and their loader workers, as an out-of-memory killer would."""
        for process in self.processes:
            with suppress(psutil.NoSuchProcess):
                rank = psutil.Process(process.pid)
                for one in [*rank.children(recursive=True), rank]:
                    one.kill()
        self.wait()


def wait_until(holds: Callable[[], Any]) -> Any:
    """Wait until a function returns something true, and return it."""
    deadline = time.monotonic() + 120
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def _rank(rank: int, ranks: int, port: int, tree: dict[str, Any], run: str, hooks: Callable[[], Sequence[Any]]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    import torch.multiprocessing

    from uml_dist.config.loading import validate
    from uml_dist.launch.devices import Devices
    from uml_dist.train.main import Start, train_rank
    from uml_dist.train.setup import find_resume, prepare

    torch.multiprocessing.set_start_method("fork", force=True)
    setup = prepare(validate(tree, "test"), ranks)
    os._exit(train_rank(setup, Start(Path(run), find_resume(setup, Path(run), "auto")), Devices("cpu", ()), hooks()))
