"""DeepSpeed engines: created from our configuration, read and written parameter by parameter.

The state that is read from an engine depends neither on the ZeRO stage nor on the world size: for each parameter, it is
the full float32 weight and the full moments of the optimiser. Networks are kept in float32 (bf16 is autocast), so the
module's parameters are the master weights at every stage, and only stage 3 has to gather them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed.utils import (
    logger,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from ..config.schema import RunConfig
from ..launch.precision import computes_in_bf16
from ..run.network_state import NetworkState
from ..telemetry import time_calls
from .optimizer import make_optimizer

logger.setLevel("WARNING")

BUCKET = 1 << 22
"""Elements that are gathered at once when the state of an engine is read: 16 MiB."""


def deepspeed_config(
    config: RunConfig, network: str, micro_batch: int, accumulation: int, device: torch.device
) -> dict[str, Any]:
    """Return DeepSpeed's configuration for one network's engine on a device."""
    return {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        **config.deepspeed,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        # DeepSpeed clips at 1.0 by default.
        "gradient_clipping": config.optimizer_of(network).clip,
        "zero_optimization": {
            "stage": config.zero.stage,
            # Overlapped reduction has repeatedly given wrong gradients on small graphs.
            "overlap_comm": False,
            **config.deepspeed.get("zero_optimization", {}),
        },
        # For modules that are listed here, gradients would be reduced in bf16.
        "torch_autocast": {
            "enabled": computes_in_bf16(config.train.precision, device),
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def make_engine(
    module: nn.Module, config: RunConfig, network: str, micro_batch: int, accumulation: int
) -> deepspeed.DeepSpeedEngine:
    """Create an engine that trains a module; the process group must exist."""
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=make_optimizer(module.parameters(), config.optimizer_of(network)),
        config=deepspeed_config(config, network, micro_batch, accumulation, next(module.parameters()).device),
        dist_init_required=False,
    )
    time_calls(engine, "forward")
    return engine


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in _optimizer(engine).param_groups:
        group["lr"] = rate


def get_learning_rate(engine: deepspeed.DeepSpeedEngine) -> float:
    """Return the current learning rate."""
    return float(_optimizer(engine).param_groups[0]["lr"])


def module_of(engine: deepspeed.DeepSpeedEngine) -> nn.Module:
    """Return the network inside an engine."""
    module = engine.module
    assert isinstance(module, nn.Module)
    return module


def gradients_complete(engine: deepspeed.DeepSpeedEngine) -> bool:
    """Return whether all micro batches of a step have gone backward, so that `step_engine` will update the network."""
    return bool(engine.is_gradient_accumulation_boundary())


def step_engine(engine: deepspeed.DeepSpeedEngine) -> Tensor | float | None:
    """Let an engine take its step, which updates the network once the gradients are complete, if they are finite.

    Returns:
        The 2-norm of the gradient before clipping; None if the network was not due.
    """
    complete = gradients_complete(engine)
    norm = None
    if complete and not engine.zero_optimization():
        norm = _finite_norm(module_of(engine))
    engine.step()
    if norm is not None and not math.isfinite(norm):
        engine.skipped_steps += 1
    return norm if norm is not None or not complete else engine.get_global_grad_norm()


def was_updated(engine: deepspeed.DeepSpeedEngine, norm: Tensor | float | None) -> bool:
    """Return whether the last step changed the network: it does not if a gradient is not finite.

    Args:
        engine: the engine.
        norm: what `step_engine` returned.
    """
    if engine.zero_optimization():
        return engine.was_step_applied()
    return norm is not None and math.isfinite(norm)


def updates_of(engine: deepspeed.DeepSpeedEngine) -> int:
    """Return how often an engine has updated its network, by which Adam corrects its moments."""
    return engine.global_steps - engine.skipped_steps


def _finite_norm(module: nn.Module) -> float:
    """Return the 2-norm of a module's gradients; without it being finite, take them away.

    DeepSpeed looks for gradients that are not finite at ZeRO 1 to 3 only, and then leaves the network as it is. An
    optimiser of torch does the same without gradients.
    """
    _fill_gradients(module)
    norm = float(nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))
    if not math.isfinite(norm):
        for parameter in module.parameters():
            parameter.grad = None
    return norm


def _fill_gradients(module: nn.Module) -> None:
    """Give zero gradients to parameters that this phase does not use, as DeepSpeed does at ZeRO 1 to 3."""
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


@contextmanager
def full_weights(module: nn.Module) -> Iterator[None]:
    """Gather the full parameters of a module on every rank inside the block, if ZeRO-3 has partitioned them."""
    partitioned = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
        yield


def zero_stage(config: RunConfig) -> int:
    """Return the ZeRO stage of a run's engines."""
    return config.deepspeed.get("zero_optimization", {}).get("stage", config.zero.stage)


def zero_parts(module: nn.Module) -> list[Tensor]:
    """Return this rank's part of each parameter of a module that is in an engine of ZeRO-3, flat."""
    return [getattr(parameter, "ds_tensor") for parameter in module.parameters()]  # noqa: B009 - DeepSpeed's attribute


def local_part(value: Tensor) -> Tensor:
    """Return this rank's part of a tensor, flat and cut as ZeRO-3 cuts parameters: the last rank's part is padded."""
    size = -(-value.numel() // torch.distributed.get_world_size())
    start = size * torch.distributed.get_rank()
    mine = value.flatten()[start : start + size]
    return nn.functional.pad(mine, (0, size - mine.numel()))


def read_weights(module: nn.Module, copy: bool = True) -> dict[str, Tensor]:
    """Return every parameter and buffer of a module, on the CPU.

    Args:
        module: the module.
        copy: whether to copy those that are on the CPU already.
    """
    return {name: tensor.detach().to("cpu", copy=copy) for name, tensor in module.state_dict().items()}


def read_engine(engine: deepspeed.DeepSpeedEngine, keep: bool = True, copy: bool = True) -> NetworkState:
    """Read the full state of an engine. All ranks must call it.

    Args:
        engine: the engine.
        keep: whether this rank needs the tensors; otherwise it only takes part, and the returned state has none.
        copy: whether the tensors are needed after the next step, which would change those that are on the CPU already.
    """
    module = module_of(engine)
    gathered = engine.zero_optimization_stage() == 3  # weights that are there within the block only
    state = NetworkState({}, steps=updates_of(engine))
    with full_weights(module):
        if keep:
            state.weights = read_weights(module, copy or gathered)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    for key in _moment_names(engine):
        for name, moment in zip(trained, _read_moments(engine, list(trained.values()), key), strict=True):
            if keep:
                state.moments.setdefault(key, {})[name] = moment.detach().to("cpu", copy=copy)
    return state


def write_moments(engine: deepspeed.DeepSpeedEngine, state: NetworkState) -> None:
    """Set the moments and the step count of a new engine, whose module has the state's weights already."""
    engine.global_steps = state.steps
    if not state.moments:
        return
    optimizer = _torch_optimizer(engine)
    for flat in _flat_parameters(engine):
        slot = optimizer.state[flat]
        for key in state.moments:
            slot[key] = torch.zeros_like(flat)
        if not isinstance(optimizer, torch.optim.SGD):
            slot["step"] = torch.tensor(float(state.steps))
    if engine.zero_optimization_stage() in (1, 2):
        _optimizer(engine)._lazy_init_hp_params_optimizer_state()
    for key, tensors in state.moments.items():
        for name, parameter in module_of(engine).named_parameters():
            if parameter.requires_grad:
                _write_moment(engine, parameter, key, tensors[name].to(engine.device))


def _optimizer(engine: deepspeed.DeepSpeedEngine) -> Any:
    """Return DeepSpeed's optimiser; its class depends on the stage."""
    return engine.optimizer


def _torch_optimizer(engine: deepspeed.DeepSpeedEngine) -> torch.optim.Optimizer:
    return _optimizer(engine).optimizer if engine.zero_optimization() else _optimizer(engine)


def _flat_parameters(engine: deepspeed.DeepSpeedEngine) -> list[Tensor]:
    """Return the tensors that torch's optimiser updates: parameters at stage 0, flat partitions of them above."""
    match engine.zero_optimization_stage():
        case 0:
            return [parameter for parameter in module_of(engine).parameters() if parameter.requires_grad]
        case 1 | 2:
            return list(_optimizer(engine).single_partition_of_fp32_groups)
        case _:
            return list(_optimizer(engine).fp32_partitioned_groups_flat)


def _moment_names(engine: deepspeed.DeepSpeedEngine) -> list[str]:
    """Return the names of the optimiser's per-element states; there are none before its first step."""
    flat = _flat_parameters(engine)[0]
    slot = _torch_optimizer(engine).state.get(flat, {})
    return [key for key, value in slot.items() if isinstance(value, Tensor) and value.shape == flat.shape]


def _read_moments(engine: deepspeed.DeepSpeedEngine, parameters: Sequence[nn.Parameter], key: str) -> Iterator[Tensor]:
    """Yield a moment of each parameter, in full. All ranks must take all of them."""
    match engine.zero_optimization_stage():
        case 0:
            yield from (_torch_optimizer(engine).state[parameter][key] for parameter in parameters)
        case 1 | 2:
            for bucket in _buckets(parameters):
                yield from _read_bucket(bucket, key)
        case _:
            for parameter in parameters:
                moment = safe_get_full_optimizer_state(parameter, key)
                assert moment is not None
                yield moment


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Divide parameters into parts of about `BUCKET` elements."""
    bucket: list[nn.Parameter] = []
    elements = 0
    for parameter in parameters:
        bucket.append(parameter)
        elements += parameter.numel()
        if elements >= BUCKET:
            yield bucket
            bucket, elements = [], 0
    if bucket:
        yield bucket


def _read_bucket(parameters: Sequence[nn.Parameter], key: str) -> Iterator[Tensor]:
    """Yield a moment of each parameter at ZeRO 1 or 2: `safe_get_full_optimizer_state`, by one all-reduce for all."""
    sizes = [parameter.numel() for parameter in parameters]
    flat = torch.zeros(sum(sizes), device=parameters[0].device)
    for parameter, whole in zip(parameters, flat.split(sizes), strict=True):
        mapping: Any = getattr(parameter, "_hp_mapping")  # noqa: B009 - DeepSpeed's attribute
        if mapping is not None:  # None: this rank has no part of it
            place = mapping.lp_fragment_address
            whole.narrow(0, place.start, place.numel).copy_(mapping.get_hp_fragment(key))
    torch.distributed.all_reduce(flat)
    for parameter, whole in zip(parameters, flat.split(sizes), strict=True):
        yield whole.view_as(parameter)


def _write_moment(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    match engine.zero_optimization_stage():
        case 0:
            _torch_optimizer(engine).state[parameter][key].copy_(value)
        case 1 | 2:
            safe_set_full_optimizer_state(parameter, value, key)
        case _:
            # The setter of full tensors fails if the number of elements is not divisible by the ranks.
            safe_set_local_optimizer_state(parameter, local_part(value), key)
