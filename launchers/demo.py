"""The main job on generated images: shards, training on 2 workers (or all GPUs), and a table beside the ceiling."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from uml_dist.errors import UmlError
from uml_dist.launch import find_devices
from uml_shards import open_split
from uml_shards.truth import ceiling

HERE = Path(__file__).parent
CONFIG = HERE / "configs" / "uml_phantom.toml"
SHARDS = Path("data/shards/phantom")
COLUMNS = (("loss (image + pixel NLL)", "loss"), ("Dice", "dice"), ("accuracy", "accuracy"), ("AUROC", "auroc"))


def call(script: str, *arguments: str) -> None:
    """Run another launcher, as a user would; leave with its exit code when it fails."""
    command = [sys.executable, str(HERE / script), *arguments]
    print("$ python", *command[1:], flush=True)
    code = subprocess.run(command).returncode
    if code:
        raise SystemExit(code)


def table(run: Path) -> str:
    """The validations of a run, and what a perfect model would reach on the same images."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [record for record in records if "validation_loss" in record]
    best = ceiling(open_split(SHARDS / "val"))
    lines = [f"{'validation of 512 images':<26}" + "".join(f"{title:>26}" for title, _ in COLUMNS)]
    for record in rows:
        values = "".join(f"{record[f'validation_{name}']:>26.3f}" for _, name in COLUMNS)
        lines.append(f"{'step ' + str(record['step']):<26}{values}")
    top = {"dice": best.dice, "accuracy": best.accuracy, "auroc": best.auroc}
    values = "".join(f"{top[name]:>26.3f}" if name in top else f"{'':>26}" for _, name in COLUMNS)
    return "\n".join([*lines, f"{'ceiling (known truth)':<26}{values}"])


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python launchers/demo.py train.steps=100")
    parser.add_argument("settings", nargs="*", metavar="table.key=value", help="settings for the training")
    parser.add_argument("--run", type=Path, default=Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}")
    options = parser.parse_args()
    try:
        devices = find_devices(False)
    except UmlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    workers = str(devices.count if devices.kind == "cuda" else 2)
    if not (SHARDS / "val" / "manifest.json").is_file():
        call("shards.py", "make", "--dataset", "phantom", "--out", str(SHARDS))
    call("train.py", "--num_gpus", workers, "--config", str(CONFIG), "--run", str(options.run), *options.settings)
    print(f"\n{table(options.run)}\n\nrun folder: {options.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
