"""A training loop in plain torch on one process: the reference for the Trainer."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from naive_turns import moved
from runs import Trace, flat
from uml_dist.batch import collate
from uml_dist.config.loading import validate
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.nn.keyed_dropout import name_layers
from uml_dist.recipes import Averaged, Frozen, Progress, Trained, networks_of
from uml_dist.train.optimizer import learning_rate, make_optimizer
from uml_dist.train.setup import prepare
from uml_shards.keyed import word
from uml_shards.read.loader import load


def train_plainly(tree: dict[str, Any]) -> Trace:
    """Train all phases of a recipe."""
    config = validate(tree, "test")
    setup = prepare(config, 1)
    roles = networks_of(setup.recipe)
    networks = _initial_networks(roles, config.train.seed)
    optimizers = {
        name: make_optimizer(networks[name].parameters(), config.optimizer_of(name))
        for name, role in roles.items()
        if isinstance(role, Trained)
    }
    taken = dict.fromkeys(optimizers, 0)
    positions = dict.fromkeys(config.streams, 0)
    trace, done = Trace(), 0
    for phase, steps in setup.phases:
        streams, rank_batch = setup.streams(phase), setup.rank_batch(phase, 0, 1)
        for name in phase.refreshes:
            networks[name].load_state_dict(networks[roles[name].of].state_dict())
        for name, network in networks.items():
            role = roles[name]
            network.train(name in phase.learns or (isinstance(role, Averaged) and role.stochastic))
        for step in range(steps):
            requests = list(rank_batch.micro_batches(0, positions))
            micro_batches = [
                {
                    name: moved(batch, setup.augmentations.get(name, "none"), config.train.seed, name)
                    for name, batch in batches.items()
                }
                for batches in load(streams, requests, collate)
            ]
            progress = Progress(done, setup.steps, phase.name, step, steps)
            with torch.no_grad():
                targets = [setup.recipe.targets(batches, networks, progress) for batches in micro_batches]
            pairs = list(zip(micro_batches, targets, strict=True))
            whole = GlobalBatch([setup.recipe.counts(*pair) for pair in pairs])
            loss = 0.0
            for batches, target in pairs:
                result = setup.recipe.step(batches, target, networks, progress, whole)
                for one in result.losses.values():
                    (one / rank_batch.accumulation).backward()
                loss += float(result.terms["loss"].detach()) / rank_batch.accumulation
            trace.losses.append(loss)
            for name in result.losses:
                settings, optimizer = config.optimizer_of(name), optimizers[name]
                parameters = list(networks[name].parameters())
                for parameter in parameters:  # one that this phase does not use learns nothing
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                trace.gradient[name] = flat(parameter.grad for parameter in parameters)
                if settings.clip:
                    nn.utils.clip_grad_norm_(parameters, settings.clip)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(settings, step, steps)
                optimizer.step()
                optimizer.zero_grad()
                _average(roles, networks, name, taken[name])
                taken[name] += 1
            done += 1
            positions = {name: start + rank_batch.counts.get(name, 0) for name, start in positions.items()}
    trace.weights = {name: flat(network.parameters()) for name, network in networks.items()}
    return trace


def _initial_networks(roles: Any, seed: int) -> dict[str, nn.Module]:
    networks = {}
    for name, role in roles.items():
        if isinstance(role, Trained):
            torch.manual_seed(word(f"{seed} {name}") >> 1)
            networks[name] = name_layers(role.build())
    copies = {name: deepcopy(networks[role.of]) for name, role in roles.items() if isinstance(role, Averaged | Frozen)}
    return networks | copies


@torch.no_grad()
def _average(roles: Any, networks: dict[str, nn.Module], learnt: str, step: int) -> None:
    for name, role in roles.items():
        if isinstance(role, Averaged) and role.of == learnt:
            decay = min(1 - 1 / (step + 1), role.decay)
            for mean, new in zip(networks[name].parameters(), networks[learnt].parameters(), strict=True):
                mean.copy_(decay * mean + (1 - decay) * new)
            for mean, new in zip(networks[name].buffers(), networks[learnt].buffers(), strict=True):
                mean.copy_(new)
