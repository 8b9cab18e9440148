"""`uml-dist COMMAND`: all commands of an installation, without a checkout."""

import sys
from collections.abc import Sequence
from importlib import import_module

from uml_shards.errors import print_error
from uml_shards.output import keep_output

from ..launch import end_process

COMMANDS = {
    "train": "train a recipe, or resume a run",
    "evaluate": "evaluate a run on a split",
    "report": "join evaluations of several runs in one report",
    "predict": "predict images and volumes with a run",
    "checkpoint": "verify, prune, reshard or export checkpoints",
    "shards": "make, verify and describe shards",
    "doctor": "check whether this machine can train",
    "watch": "show runs on a live page in the browser",
}


def usage() -> str:
    """The text of `uml-dist --help`."""
    lines = ["usage: uml-dist COMMAND ...", "", "Train and use uncertainty-aware models of medical images.", ""]
    lines += [f"  {name:<12}{what}" for name, what in COMMANDS.items()]
    return "\n".join([*lines, "", "uml-dist COMMAND --help describes a command.", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    keep_output()
    given = list(sys.argv[1:] if arguments is None else arguments)
    # DeepSpeed's launcher puts its argument before ours.
    name = next((word for word in given if not word.startswith("--local_rank=")), None)
    if name in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if name not in COMMANDS:
        problem = f"there is no command {name!r}" if name else "a command is missing"
        print_error(f"{problem}: use {', '.join(COMMANDS)}")
        return 2
    given.remove(name)
    # Imported by name, so that one command does not load what only another one needs.
    return import_module(f"{__package__}.{name}").main(given)


def script() -> None:
    """Entry point of the console script: end the process with the exit code of the command."""
    end_process(main())
