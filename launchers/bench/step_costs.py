"""Parameters, multiply-adds and activations saved for backward, of each part of the published network and of ours."""

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
    """Knows by hooks which part of a network runs, and counts the multiply-adds of each."""

    def __init__(self, network: nn.Module, counter: FlopCounterMode) -> None:
        self.part, self.multiply_adds = REST, defaultdict(float)
        self._counter, self._before = counter, 0
        for part, names in PARTS.items():
            for name in names:
                for module in _called(network.get_submodule(name)):
                    module.register_forward_pre_hook(lambda *_, part=part: self.enter(part))
                    module.register_forward_hook(lambda *_: self.enter(REST))

    def enter(self, part: str) -> None:
        """Another part begins."""
        done = self._counter.get_total_flops()
        self.multiply_adds[self.part] += (done - self._before) / 2
        self.part, self._before = part, done


def _called(module: nn.Module) -> list[nn.Module]:
    """The module itself, or those in a list of them, which is not called."""
    return list(module) if isinstance(module, nn.ModuleList) else [module]


def costs(setting: Setting, kinds: Sequence[Kind]) -> dict[Kind, Costs]:
    """By kind of network and part: "parameters", "multiply_adds" of forward, "saved" bytes for backward."""
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
        loss = loss_of(network, setting.data())  # while it is there no storage is given back, and no address used twice
        parts.enter(REST)
    loss.backward()  # tells what is never run: the published encoders' last stages
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
