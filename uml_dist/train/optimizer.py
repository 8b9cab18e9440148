"""Optimisers and learning rate schedules."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..config.schema import OptimizerConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Create the optimiser of one network.

    It is torch's, not DeepSpeed's, whose "Adam" means AdamW and whose fused optimisers need a compiler.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    decay = config.weight_decay
    match config.name:
        case "adam":
            return torch.optim.Adam(trainable, lr=config.lr, betas=config.betas, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(trainable, lr=config.lr, betas=config.betas, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(trainable, lr=config.lr, momentum=config.momentum, weight_decay=decay)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    The rate first rises linearly to the base rate `lr`, for `warmup` steps. `poly` keeps the base rate for the share
    `hold` of the steps, then falls as base * (1 - x)^power, where x rises from the last held step to the end; never
    below `floor` (UML's code, training schedule). `cosine` falls from the base rate to `floor`. `step` multiplies the
    rate by `step_factor` after every `step_every` steps; never below `floor`.

    Args:
        config: the network's optimiser settings.
        step: index of the step in the phase, from 0.
        steps: number of steps of the phase.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    match config.schedule:
        case "constant":
            return config.lr
        case "poly":
            held = round(config.hold * steps)
            if step < held:
                return config.lr
            start = max(held - 1, 0)
            left = 1.0 - (step - start) / (steps - start)
            return max(min(config.floor, config.lr), config.lr * left**config.power)
        case "cosine":
            share = (step - config.warmup) / max(steps - config.warmup, 1)
            floor = min(config.floor, config.lr)
            return floor + (config.lr - floor) * 0.5 * (1.0 + math.cos(math.pi * share))
        case "step":
            rate = config.lr * config.step_factor ** (step // config.step_every)
            return max(rate, min(config.floor, config.lr))
