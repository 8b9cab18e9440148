"""Join the evaluations of several runs: `python launchers/report.py runs/seed0 runs/seed1 runs/seed2 --split test`."""

from uml_dist.commands.report import main
from uml_dist.launch import end_process

if __name__ == "__main__":
    end_process(main())
