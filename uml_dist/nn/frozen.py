"""Calls a network that must stay as it is: gradients reach its inputs only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.func import functional_call


def frozen(network: nn.Module) -> Callable[..., Any]:
    """Return the network as a function whose calls change neither its parameters nor its buffers.

    Use it for a trained network inside the loss of another one, such as a discriminator in the generator's loss. A call
    of its engine there would let that loss change the discriminator too: silently at ZeRO 1, with an error at other
    stages. In training mode, batch norm normalises by the batch, but its running statistics do not follow it. A network
    that does not learn, such as an average, is returned unchanged.

    Args:
        network: a module or a DeepSpeed engine.
    """
    module = _module_of(network)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return module

    def call(*inputs: Any, **named: Any) -> Any:
        constants = {name: buffer.clone() for name, buffer in module.named_buffers()}
        if any(hasattr(parameter, "ds_id") for parameter in module.parameters()):
            # ZeRO-3 gathers the parameters by hooks of the module, which constants in their place would not trigger.
            with _without_gradient(module):
                return functional_call(module, constants, inputs, named)
        constants |= {name: parameter.detach() for name, parameter in module.named_parameters()}
        return functional_call(module, constants, inputs, named)

    return call


def _module_of(network: nn.Module) -> nn.Module:
    """Return the module inside a DeepSpeed engine, or the module itself."""
    inner = network.module if hasattr(network, "zero_optimization_stage") else network
    assert isinstance(inner, nn.Module)
    return inner


@contextmanager
def _without_gradient(module: nn.Module) -> Iterator[None]:
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
