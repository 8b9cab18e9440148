"""The networks of a run: engines while they learn, otherwise modules; averages and frozen copies."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext

import deepspeed
import torch
from torch import Tensor, nn

from uml_shards.keyed import word

from ..config.schema import RunConfig
from ..errors import UmlError
from ..nn.keyed_dropout import name_layers
from ..recipes import Averaged, Frozen, Phase, Recipe, Trained, networks_of, trained_source
from ..run.network_state import NetworkState, with_added
from .average import Average
from .engine import (
    full_weights,
    make_engine,
    module_of,
    read_engine,
    read_weights,
    updates_of,
    write_moments,
    zero_stage,
)


class Networks(Mapping[str, nn.Module]):
    """All networks of a run by name: engines of those that learn now, plain modules of the others.

    Args:
        recipe: the recipe that declares the networks; `train.ema` may add averages.
        config: the run's configuration.
        device: device of the networks.
    """

    def __init__(self, recipe: Recipe, config: RunConfig, device: torch.device) -> None:
        self.roles = networks_of(recipe)
        self._config = config
        self._device = device
        self._modules: dict[str, nn.Module] = {}
        self._engines: dict[str, deepspeed.DeepSpeedEngine] = {}
        self._resting: dict[str, NetworkState] = {}
        self._averages: dict[str, Average] = {}
        for name, role in self.roles.items():
            seeded = name if isinstance(role, Trained) else role.of
            module = self._build(trained_source(self.roles, name), seeded)
            self._modules[name] = module.requires_grad_(False) if not isinstance(role, Trained) else module
            if isinstance(role, Averaged):
                self._averages[name] = Average(module, role.decay)

    def __getitem__(self, name: str) -> nn.Module:
        return self._engines[name] if name in self._engines else self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    @property
    def engines(self) -> Mapping[str, deepspeed.DeepSpeedEngine]:
        """Engines of the networks that learn now, by name."""
        return self._engines

    @property
    def trained_parameters(self) -> int:
        """Number of parameters of the trained networks, before any network learns."""
        trained = (module for name, module in self._modules.items() if isinstance(self.roles[name], Trained))
        return sum(parameter.numel() for module in trained for parameter in module.parameters())

    def _build(self, role: Trained, name: str) -> nn.Module:
        # The initial weights depend on seed and name alone, not on what was built before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(word(f"{self._config.train.seed} {name}") >> 1)
            module = role.build()
        return name_layers(module).to(self._device)

    def build_engines(self, phase: Phase, micro_batch: int, accumulation: int) -> None:
        """Create engines for the networks that learn in a phase, and for no others. All ranks must call it."""
        self.release_engines()
        for name in phase.learns:
            engine = make_engine(self._modules[name], self._config, name, micro_batch, accumulation)
            if name in self._resting:
                write_moments(engine, self._resting.pop(name))
            self._engines[name] = engine
        if zero_stage(self._config) == 3:
            for average in self._averages.values():
                average.partition()
        for name in self:
            role = self.roles[name]
            self[name].train(name in self._engines or (isinstance(role, Averaged) and role.stochastic))

    def refresh(self, phase: Phase) -> None:
        """Copy the current weights into the frozen networks that a phase refreshes."""
        for name in phase.refreshes:
            role = self.roles[name]
            assert isinstance(role, Frozen), f"phase {phase.name} refreshes {name}, which is not frozen"
            self._copy_trained([name])

    def release_engines(self) -> None:
        """Replace engines by plain modules, and keep weights and moments. All ranks must call it."""
        for name, engine in self._engines.items():
            self._resting[name] = read_engine(engine)
            role = self.roles[name]
            assert isinstance(role, Trained)
            engine.destroy()
            # A module that was in an engine keeps the engine's hooks and, at stage 3, partitioned parameters.
            self._modules[name] = self._build(role, name)
            self._load_weights(name, self._resting[name].weights)
        self._engines = {}

    def average(self, updated: Collection[str]) -> None:
        """Update the averages of networks that have just been updated. All ranks must call it."""
        for name, average in self._averages.items():
            role = self.roles[name]
            assert isinstance(role, Averaged)
            if role.of in updated:
                engine = self._engines[role.of]
                average.update(module_of(engine), updates_of(engine) - 1)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Free, at the end of the block, what averages have gathered for forward passes inside it."""
        try:
            yield
        finally:
            for average in self._averages.values():
                average.release()

    @contextmanager
    def gathered(self, sources: Mapping[str, str] | None = None) -> Iterator[Mapping[str, nn.Module]]:
        """Give networks as plain modules with full weights, which each rank may call on its own.

        All ranks must enter it. At ZeRO 3, where a forward pass of an engine is a collective, the modules are copies.

        Args:
            sources: name -> the network to give under it; by default each network under its own name.
        """
        sources = {name: name for name in self} if sources is None else sources
        with ExitStack() as stack:
            modules = {name: self._gathered(name, stack) for name in dict.fromkeys(sources.values())}
            yield {name: modules[source] for name, source in sources.items()}

    def _gathered(self, name: str, stack: ExitStack) -> nn.Module:
        """Return a network with full weights, those of an average until the stack is closed."""
        if name in self._averages:
            return stack.enter_context(self._averages[name].whole())
        engine, role = self._engines.get(name), self.roles[name]
        if engine is None or engine.zero_optimization_stage() < 3:
            return self._modules[name] if engine is None else module_of(engine)
        assert isinstance(role, Trained)
        copy, module = self._build(role, name), module_of(engine)
        with full_weights(module):
            copy.load_state_dict(module.state_dict(), strict=True)
        return copy

    def state(self, keep: bool = True, copy: bool = True) -> dict[str, NetworkState]:
        """Return the state of every network, without tensors unless `keep`. All ranks must call it.

        Args:
            keep: whether this rank needs the tensors.
            copy: whether they are needed after the next step.
        """
        states = {}
        for name, module in self._modules.items():
            if name in self._engines:
                states[name] = read_engine(self._engines[name], keep, copy)
            elif name in self._resting:
                states[name] = self._resting[name]
            else:
                with self._averages[name].whole() if name in self._averages else nullcontext():
                    weights = read_weights(module, copy or name in self._averages) if keep else {}
                    states[name] = NetworkState(weights)
        return states

    def complete(self, states: Mapping[str, NetworkState], where: str) -> tuple[dict[str, NetworkState], list[str]]:
        """Add zeros for parameters that checkpoints of earlier versions lack; return states and lines for the user."""
        completed, lines = {}, []
        for name, state in states.items():
            if name in self._modules:
                state, more = with_added(state, self._modules[name], trained_source(self.roles, name).added, where)
                lines += more
            completed[name] = state
        return completed, lines

    def load(self, states: Mapping[str, NetworkState]) -> None:
        """Load the states of a checkpoint, before any network learns."""
        assert not self._engines
        for name, state in states.items():
            self._load_weights(name, state.weights)
            if isinstance(self.roles[name], Trained):
                self._resting[name] = state

    def start(self) -> list[str]:
        """Load the weights from which the networks of a new run start, before any network learns.

        Returns:
            Lines for the user.

        Raises:
            UmlError: a recipe's `Trained.start` cannot load them.
        """
        assert not self._engines
        lines: list[str] = []
        for name, role in self.roles.items():
            if isinstance(role, Trained) and role.start:
                lines += role.start(self._modules[name])
        self._copy_trained(name for name, role in self.roles.items() if not isinstance(role, Trained))
        return lines

    def start_from(self, weights: Mapping[str, Mapping[str, Tensor]], where: str) -> list[str]:
        """Load weights for fine-tuning, except parameters of another shape (heads of other classes).

        Args:
            weights: network -> parameter or buffer -> tensor. Averages and frozen copies may be missing: they start as
                the networks that they copy.
            where: source of the weights, for error messages.

        Returns:
            Names of the tensors that were not loaded.

        Raises:
            UmlError: a network or a name is missing or not expected.
        """
        skipped, copies = [], []
        for name, module in self._modules.items():
            if name not in weights and not isinstance(self.roles[name], Trained):
                copies.append(name)
                continue
            if name not in weights:
                raise UmlError(f"{where} has no network {name}: it has {', '.join(weights)}")
            own, given = module.state_dict(), weights[name]
            for key in sorted({*own} ^ {*given}):
                lacks = "lacks" if key in own else "has an unexpected"
                raise UmlError(f"{where} {lacks} {name}.{key}: it is of another architecture (model.profile)")
            other = [key for key in own if own[key].shape != given[key].shape]
            module.load_state_dict({key: given[key] for key in own if key not in other}, strict=False)
            skipped += [f"{name}.{key}" for key in other]
        self._copy_trained(copies)
        return skipped

    def _copy_trained(self, names: Iterable[str]) -> None:
        """Load the weights of the trained networks that averages and frozen copies are of."""
        for name in names:
            role = self.roles[name]
            assert not isinstance(role, Trained)
            self._load_weights(name, read_weights(self._modules[role.of]))

    def _load_weights(self, name: str, weights: Mapping[str, Tensor]) -> None:
        self._modules[name].load_state_dict(dict(weights), strict=True)
