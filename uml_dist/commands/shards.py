"""`uml-dist shards`: the command of uml_shards, which works without this package too."""

from functools import partial

from uml_shards import command
from uml_shards.command import parse

__all__ = ["main", "parse"]

main = partial(command.main, prog="uml-dist shards")
