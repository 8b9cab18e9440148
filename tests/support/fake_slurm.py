"""Programs that stand in for SLURM's `srun` and `scontrol`: every machine of the job is this one."""

import os
import stat
import sys
from pathlib import Path

SRUN = '''\
"""Start the command once for each machine, pass signals on to these tasks, and exit with the highest code."""
import os, signal, subprocess, sys

words = sys.argv[1:]
while words[0].startswith("--"):
    del words[0]
nodes = os.environ["SLURM_JOB_NUM_NODES"]
step = {**os.environ, "SLURM_STEP_NUM_TASKS": nodes, "SLURM_STEP_NUM_NODES": nodes}
tasks = [subprocess.Popen(words, env={**step, "SLURM_NODEID": str(node)}) for node in range(int(nodes))]

def forward(number, frame):
    for task in tasks:
        task.send_signal(number)

for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, forward)
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
'''
SCONTROL = '''\
"""Name the machines of a job, or note that it is to be queued again."""
import os, sys

words = sys.argv[1:]
if words[:2] == ["show", "hostnames"]:
    sys.stdout.write(words[2].replace(",", "\\n") + "\\n")
elif words[0] == "requeue":
    with open(os.environ["REQUEUED"], "a") as file:
        file.write(words[1] + "\\n")
else:
    sys.exit("unknown: " + " ".join(words))
'''


def install_slurm(folder: Path) -> None:
    """Write the programs, and an environment to activate that has them and this Python on its PATH."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name, program in (("srun", SRUN), ("scontrol", SCONTROL)):
        (binaries / name).write_text(f"#!{sys.executable}\n{program}")
    for path in binaries.iterdir():
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (binaries / "activate").write_text(f'PATH="{binaries}{os.pathsep}$PATH"\n')


def job(folder: Path, nodes: int = 2) -> dict[str, str]:
    """The environment of a job on several machines."""
    return {
        **os.environ, "VENV": str(folder), "REQUEUED": str(folder / "requeued"), "GLOO_SOCKET_IFNAME": "lo",
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": ",".join(["127.0.0.1"] * nodes), "SLURM_GPUS_ON_NODE": "1",
    }  # fmt: skip
