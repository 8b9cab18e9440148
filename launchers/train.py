"""Train: `deepspeed launchers/train.py --num_gpus 8 --config launchers/configs/uml_isic2017.toml train.steps=20000`."""

from functools import partial
from pathlib import Path

from uml_dist.commands import train
from uml_dist.launch import end_process

main = partial(train.main, default_config=Path(__file__).parent / "configs" / "uml_phantom.toml")

if __name__ == "__main__":
    end_process(main())
