"""Verify, prune or export the checkpoints of a run, or show how to resume it on other ranks."""

import sys

from uml_dist.commands.checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
