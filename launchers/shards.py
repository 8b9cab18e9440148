"""Make, index, verify and describe shards."""

import sys

from uml_shards.command import main

if __name__ == "__main__":
    sys.exit(main())
