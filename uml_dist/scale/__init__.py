"""Predicts memory, time and efficiency of a training on more ranks than there are: `train.py --dry-run --gpus N`."""
