"""Show runs on a live page in the browser: `python launchers/watch.py runs/`."""

from uml_dist.commands.watch import main
from uml_dist.launch import end_process

if __name__ == "__main__":
    end_process(main())
