"""Several real processes for a test: ranks forked from a server that has everything imported already."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# What a rank would import by itself, DeepSpeed's optimisers (2 s, most of it torch's compiler) among it. Installed
# modules only: the server of Python 3.11 does not know our import path, and passes over what it cannot find.
PRELOAD = ("uml_dist.train.trainer", "uml_dist.recipes.uml.recipe", "deepspeed.runtime.zero.muon.original_muon")
CONTEXT.set_forkserver_preload(list(PRELOAD))
TIMEOUT_SECONDS = 300


def run_world(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function of an importable module on every rank of a new gloo world; what it returned, by rank."""
    port = free_port()
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(ranks)]
    processes = [
        CONTEXT.Process(target=_rank, args=(rank, ranks, port, pipes[rank][1], function, arguments), daemon=False)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    answers, failures = [], []
    try:
        for rank, (receiver, sender) in enumerate(pipes):
            sender.close()
            if not receiver.poll(TIMEOUT_SECONDS):
                failures.append(f"rank {rank} said nothing for {TIMEOUT_SECONDS} s")
                break
            try:
                kind, value = receiver.recv()
            except EOFError:
                kind, value = "failure", f"rank {rank} died"
            (answers if kind == "answer" else failures).append(value)
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
    if failures:
        raise AssertionError("\n".join(failures))
    return answers


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(
    rank: int, ranks: int, port: int, sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.pop("LOCAL_SIZE", None)
    import deepspeed
    import deepspeed.ops
    import torch

    deepspeed.ops.__compatible_ops__ = {}
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    try:
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
        sender.send(("answer", function(*arguments)))
        torch.distributed.destroy_process_group()
    except BaseException:
        sender.send(("failure", f"rank {rank}: {traceback.format_exc()}"))
    finally:
        sender.close()
