"""Counts parameters, multiply-adds and saved activations for each part of the published network and of ours."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from step_variants import Kind, Setting, loss_of, make_network

PARTS = {
    "encoders": ("classification_encoder", "segmentation_encoder"),
    "mixer": ("mixer",),
    "mutual decoder": ("mutual",),
    "navigator": ("navigator",),
    "instructor": ("instructor",),
}
REST = "objective"
Costs = dict[str, dict[str, float]]


class _Parts:
    """Tracks with hooks which part of a network runs, and counts the multiply-adds of each."""

    def __init__(self, network: nn.Module, counter: FlopCounterMode) -> None:
        self.part, self.multiply_adds = REST, defaultdict(float)
        self._counter, self._before = counter, 0
        for part, names in PARTS.items():
            for name in names:
                for module in _called(network.get_submodule(name)):
                    module.register_forward_pre_hook(lambda *_, part=part: self.enter(part))
                    module.register_forward_hook(lambda *_: self.enter(REST))

    def enter(self, part: str) -> None:
        """Start counting for another part."""
        done = self._counter.get_total_flops()
        self.multiply_adds[self.part] += (done - self._before) / 2
        self.part, self._before = part, done


def _called(module: nn.Module) -> list[nn.Module]:
    """Return the module itself, or the members of a ModuleList, which is not called itself."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def costs(setting: Setting, kinds: Sequence[Kind]) -> dict[Kind, Costs]:
    """Return "parameters", "multiply_adds" (forward) and "saved" (bytes for backward) by kind of network and part."""
    return {kind: _costs(make_network(setting, kind), setting) for kind in kinds}


def _costs(network: nn.Module, setting: Setting) -> Costs:
    counter = FlopCounterMode(display=False)
    parts, saved = _Parts(network, counter), defaultdict(float)
    seen = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            saved[parts.part] += storage.nbytes()
        return tensor

    with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(network, setting.data())  # keeps all storages alive, so that no address is reused
        parts.enter(REST)
    loss.backward()  # parts without a gradient never run: the last stages of the published encoders
    return {
        part: {
            "parameters": sum(
                p.numel()
                for name in PARTS.get(part, ())
                for p in network.get_submodule(name).parameters()
                if p.grad is not None
            ),
            "multiply_adds": parts.multiply_adds[part],
            "saved": saved[part],
        }
        for part in (*PARTS, REST)
    }
