"""Predict files with a trained run: `python launchers/predict.py --run runs/isic images/ --out predictions`."""

from uml_dist.commands.predict import main
from uml_dist.launch import end_process

if __name__ == "__main__":
    end_process(main())
