"""Evaluate a trained run on a split: `python launchers/evaluate.py --run runs/isic --split test`."""

from uml_dist.commands.evaluate import main
from uml_dist.launch import end_process

if __name__ == "__main__":
    end_process(main())
