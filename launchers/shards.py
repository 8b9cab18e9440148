"""Make, index, verify and describe shards."""

import sys

from uml_dist.commands.shards import main

if __name__ == "__main__":
    sys.exit(main())
