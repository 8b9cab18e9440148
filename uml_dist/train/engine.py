"""DeepSpeed engines: made from our configuration, and read and written parameter by parameter.

State leaves an engine in a form that knows neither ZeRO stage nor world size: per parameter the float32 weight and the
optimiser's moments, whole. Networks are kept in float32 (bf16 is autocast), so the module's parameters are the master
weights at every stage, and only stage 3 has to gather them.
"""

from collections.abc import Iterator
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
from .optimizer import make_optimizer

logger.setLevel("WARNING")


def deepspeed_config(
    config: RunConfig, network: str, micro_batch: int, accumulation: int, device: torch.device
) -> dict[str, Any]:
    """DeepSpeed's configuration of one network's engine on a device."""
    return {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        **config.deepspeed,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        # DeepSpeed clips at 1.0 unless told otherwise.
        "gradient_clipping": config.optimizer_of(network).clip,
        "zero_optimization": {
            "stage": config.zero.stage,
            # Overlapped reduction has given wrong gradients on small graphs, again and again.
            "overlap_comm": False,
            **config.deepspeed.get("zero_optimization", {}),
        },
        # With modules listed here gradients would travel in bf16.
        "torch_autocast": {
            "enabled": computes_in_bf16(config.train.precision, device),
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def make_engine(
    module: nn.Module, config: RunConfig, network: str, micro_batch: int, accumulation: int
) -> deepspeed.DeepSpeedEngine:
    """An engine that trains a module; the process group must be there."""
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=make_optimizer(module.parameters(), config.optimizer_of(network)),
        config=deepspeed_config(config, network, micro_batch, accumulation, next(module.parameters()).device),
        dist_init_required=False,
    )
    return engine


def set_learning_rate(engine: deepspeed.DeepSpeedEngine, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in _optimizer(engine).param_groups:
        group["lr"] = rate


def get_learning_rate(engine: deepspeed.DeepSpeedEngine) -> float:
    """The learning rate that was set last."""
    return float(_optimizer(engine).param_groups[0]["lr"])


def module_of(engine: deepspeed.DeepSpeedEngine) -> nn.Module:
    """The network inside an engine."""
    module = engine.module
    assert isinstance(module, nn.Module)
    return module


def gradients_complete(engine: deepspeed.DeepSpeedEngine) -> bool:
    """Return whether all micro batches of a step have gone backward, so that `step_engine` will update the network."""
    return bool(engine.is_gradient_accumulation_boundary())


def step_engine(engine: deepspeed.DeepSpeedEngine) -> Tensor | float | None:
    """Let an engine take its step, which updates the network once the gradients are complete.

    Returns:
        The 2-norm of the gradient before clipping; None if the network was not updated.
    """
    complete = gradients_complete(engine)
    norm = None
    if complete and not engine.zero_optimization():
        norm = nn.utils.get_total_norm([p.grad for p in module_of(engine).parameters() if p.grad is not None])
    engine.step()
    return norm if norm is not None or not complete else engine.get_global_grad_norm()


@contextmanager
def full_weights(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters of a module are whole on every rank, also where ZeRO-3 has parted them."""
    parted = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(parted, enabled=bool(parted)):
        yield


def read_engine(engine: deepspeed.DeepSpeedEngine, keep: bool = True) -> NetworkState:
    """The state of an engine, whole. All ranks must call it.

    Args:
        engine: to be read.
        keep: whether this rank wants it; otherwise it only takes part and the state comes back without tensors.
    """
    module = module_of(engine)
    state = NetworkState({}, steps=engine.global_steps)
    with full_weights(module):
        if keep:
            state.weights = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    for key in _moment_names(engine):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                whole = _read_moment(engine, parameter, key)
                if keep:
                    state.moments.setdefault(key, {})[name] = whole.detach().cpu().clone()
    return state


def write_moments(engine: deepspeed.DeepSpeedEngine, state: NetworkState) -> None:
    """Give a fresh engine, made from a module with the state's weights, the state's moments and step count."""
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
    """DeepSpeed's optimiser; its class depends on the stage."""
    return engine.optimizer


def _torch_optimizer(engine: deepspeed.DeepSpeedEngine) -> torch.optim.Optimizer:
    return _optimizer(engine).optimizer if engine.zero_optimization() else _optimizer(engine)


def _flat_parameters(engine: deepspeed.DeepSpeedEngine) -> list[Tensor]:
    """The tensors that the torch optimiser sees: parameters at stage 0, flat partitions of them above."""
    match engine.zero_optimization_stage():
        case 0:
            return [parameter for parameter in module_of(engine).parameters() if parameter.requires_grad]
        case 1 | 2:
            return list(_optimizer(engine).single_partition_of_fp32_groups)
        case _:
            return list(_optimizer(engine).fp32_partitioned_groups_flat)


def _moment_names(engine: deepspeed.DeepSpeedEngine) -> list[str]:
    """Names of the optimiser's per-element states; none before its first step."""
    flat = _flat_parameters(engine)[0]
    slot = _torch_optimizer(engine).state.get(flat, {})
    return [key for key, value in slot.items() if isinstance(value, Tensor) and value.shape == flat.shape]


def _read_moment(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, key: str) -> Tensor:
    if engine.zero_optimization():
        whole = safe_get_full_optimizer_state(parameter, key)
        assert whole is not None
        return whole
    return _torch_optimizer(engine).state[parameter][key]


def _write_moment(engine: deepspeed.DeepSpeedEngine, parameter: nn.Parameter, key: str, value: Tensor) -> None:
    match engine.zero_optimization_stage():
        case 0:
            _torch_optimizer(engine).state[parameter][key].copy_(value)
        case 1 | 2:
            safe_set_full_optimizer_state(parameter, value, key)
        case _:
            # The setter of whole tensors fails where the ranks do not divide the elements; the last part is padded.
            part = getattr(parameter, "ds_tensor").numel()  # noqa: B009 - DeepSpeed's own attribute
            start = part * torch.distributed.get_rank()
            local = torch.zeros(part, dtype=value.dtype, device=value.device)
            mine = value.flatten()[start : start + part]
            local[: mine.numel()] = mine
            safe_set_local_optimizer_state(parameter, local, key)
