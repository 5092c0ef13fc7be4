"""How a training is made: its recipe in plain values, and the trainer with the fastest step for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from numpy.typing import NDArray

from gpuspike.errors import BackendError, ConfigError, ValueRangeError
from gpuspike.kernels import Kernels
from gpuspike.kinds import take_kinds, whole
from gpuspike.network.network import Architecture, Machine
from gpuspike.network.parameters import Parameters
from gpuspike.neuron import LIF, weight_unit
from gpuspike.plugins import NotGivenError
from gpuspike.registry import Registry, one_of
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training import when_read
from gpuspike.training.augmentation import RandomShift, RandomWarp, WithOpposites
from gpuspike.training.bumping import Bumping
from gpuspike.training.compiled import compiled_step, why_by_pieces
from gpuspike.training.device import DeviceStep, refuse_without_text
from gpuspike.training.devices import DevicesStep, Share
from gpuspike.training.leaf import Leaf
from gpuspike.training.losses import LOSSES, Loss, TTFSCrossEntropy
from gpuspike.training.optimizers import OPTIMIZERS, Adam, Descent, Optimizer
from gpuspike.training.piecewise import PiecewiseStep
from gpuspike.training.schedule import Schedule
from gpuspike.training.step import StepKind, TrainingRule
from gpuspike.training.trainer import Trainer
from gpuspike.training.waking import Waking

Array = NDArray[Any]

L = TypeVar("L", bound=Leaf)

HIDDEN_SILENT, OUTPUT_SILENT = 0.3, 0.05
"""Silent fractions above which a hidden layer and the last one are bumped, unless given."""

NEURON_SILENT = 0.9
"""That of a hidden neuron above which it is woken by a gradient."""

SILENCE = ("bumping", "waking", "none")
"""What may be done about silent neurons."""


USUAL_LOSS, USUAL_OPTIMIZER = TTFSCrossEntropy(xi=0.05), Adam()


COUNTS = ("epochs", "batch_size", "evaluation_batch_size", "trials")
"""Values of a recipe that are 1 or more."""


@dataclass(frozen=True)
class Recipe:
    """A training in plain values; times in tau_syn.

    learning_rate, bump_value and max_weight_grad are in units of the weights. Where they are None, `suited`
    to a neuron makes them 0.005, 0.0005 and 0.2 in units of C (threshold - leak)/tau_fast.

    Attributes:
        epochs: of the training.
        batch_size: samples a step; all of them where there are fewer.
        evaluation_batch_size: samples a forward pass where nothing is trained; changes memory and speed only.
        learning_rate: of the first epoch;  schedule: "constant", "step" or "cosine", see `schedule.Schedule`;
            step_size, gamma: of "step".
        optimizer, loss: with their values; a name stands for one with its usual values, see OPTIMIZERS and
            LOSSES. Times of a loss are in tau_syn here.
        silence: what wakes silent neurons: "bumping", see `bumping.Bumping`; "waking", a gradient, see
            `waking.Waking`; or "none".
        waking: its strength.
        max_silent: of each layer the silent fraction above which it is bumped, or a neuron of it pulled;
            None: HIDDEN_SILENT or NEURON_SILENT, and OUTPUT_SILENT for the last one.
        bump_value, bump_exponential, bump_targeted: how it is bumped.
        bump_replaces_step: a bumped batch makes no gradient step, as in the paper.
        max_weight_grad: limit of |dL/dw| for one (sample, neuron); inf for none.
        input_noise: standard deviation of the noise on input times.
        trials: times that a step presents each of its samples, each time with jitter, noise and losses of its
            own; the gradient is the mean, and max_weight_grad limits a trial of a pair to its share of it.
        match_noise: the loss is made to suit the noise of the spike times on a chip, see `Loss.matched`.
        cuda_graph: a device replays its step as a graph; changes nothing but speed.
    """

    epochs: int = 100
    batch_size: int = 100
    evaluation_batch_size: int = 1000
    learning_rate: float | None = None
    schedule: str = "constant"
    step_size: int = 20
    gamma: float = 0.95
    optimizer: Optimizer = USUAL_OPTIMIZER
    loss: Loss = USUAL_LOSS
    silence: str = "bumping"
    waking: float = 1.0
    max_silent: Sequence[float] | None = None
    bump_value: float | None = None
    bump_exponential: bool = True
    bump_targeted: bool = True
    bump_replaces_step: bool = False
    max_weight_grad: float | None = None
    input_noise: float = 0.0
    trials: int = 1
    match_noise: bool = False
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        take_kinds(self)
        for name in COUNTS:
            whole(name, getattr(self, name), 1)
        object.__setattr__(self, "loss", _leaf(self.loss, LOSSES, USUAL_LOSS))
        object.__setattr__(self, "optimizer", _leaf(self.optimizer, OPTIMIZERS, USUAL_OPTIMIZER))

    def changed(self, **values: Any) -> Recipe:
        """The same with other values, those of its loss and optimiser among them: changed(xi=0.1).

        Warns:
            UserWarning: a value that nothing reads, since another one of the recipe has it so.

        Raises:
            ConfigError: a value that neither of them knows, or that both do.
        """
        result = with_values(self, values)
        for text in when_read.notes(values, vars(result)):
            warnings.warn(text, stacklevel=2)
        return result

    def plain(self) -> dict[str, Any]:
        """Its values as numbers, texts and lists, for a file."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        leaves = {name: own[name] for name in ("loss", "optimizer")}
        return own | {name: {"name": leaf_name(a), "values": leaf_values(a)} for name, a in leaves.items()}

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Recipe:
        """What `plain` has told.

        Raises:
            NotGivenError: a loss or an optimiser that nobody has registered.
        """
        rest, made, lacking = dict(values), {}, []
        for name, parts in (("loss", LOSSES), ("optimizer", OPTIMIZERS)):
            told = rest.pop(name)
            if isinstance(told, str):  # older files have all values side by side, whoever they are for
                told = {"name": told, "values": rest}
            if told["name"] not in parts:
                lacking.append(f"the {parts.kind} {told['name']}")
                continue
            part: Any = parts[told["name"]]
            values = told["values"]
            made[name] = part(**{value: values[value] for value in leaf_values(part()) if value in values})
        if lacking:
            raise NotGivenError(
                f"the training used {' and '.join(lacking)}, which nobody has registered: import what does, "
                "or call gpuspike.plugins.load(FILE)"
            )
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in rest.items() if name in known}, **made)

    def suited(self, neuron: LIF) -> Recipe:
        """The same with numbers that suit a neuron of numbers where none are given."""
        unit = weight_unit(neuron)
        # A loss has no unit, so that a gradient has the inverse of a weight's.
        rate = 0.005 * unit**self.optimizer.RATE_UNITS
        return replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            bump_value=0.0005 * unit if self.bump_value is None else self.bump_value,
            max_weight_grad=0.2 / unit if self.max_weight_grad is None else self.max_weight_grad,
        )

    def make_loss(self, kernels: Kernels, tau_syn: float, noise: float = 0.0) -> Loss:
        """The loss in a network's unit of time, computed by a backend.

        Args:
            noise: standard deviation of what makes spike times uncertain, in tau_syn; see `match_noise`.
        """
        loss = self.loss.matched(noise) if self.match_noise and noise > 0.0 else self.loss
        return replace(loss, tau_syn=tau_syn, kernels=kernels)

    def make_bumping(self, n_layer: int, n_replica: int) -> Bumping:
        """What wakes silent neurons.

        Raises:
            ValueRangeError: a value that it cannot have, or limits for another number of layers.
        """
        if self.silence not in SILENCE:
            raise ValueRangeError(f"silence must be {', '.join(SILENCE)}, got {self.silence!r}")
        wakes, limits = self.silence == "waking", self.max_silent
        if limits is None:
            limits = [*[NEURON_SILENT if wakes else HIDDEN_SILENT] * (n_layer - 1), OUTPUT_SILENT]
        if len(limits) != n_layer:
            raise ValueRangeError(
                f"max_silent needs one entry for each of the {n_layer} layers after the inputs, "
                f"got {len(limits)}"
            )
        if self.silence == "none":
            limits = [1.0] * n_layer
        values = limits, _given(self.bump_value), n_replica, self.bump_exponential, self.bump_targeted
        return Waking(*values, self.waking) if wakes else Bumping(*values)

    def make_rule(
        self, tau_syn: float, augment: RandomShift | RandomWarp | WithOpposites | None = None
    ) -> TrainingRule:
        """How a step is made.

        Raises:
            ValueRangeError: a value that it cannot have.
        """
        return TrainingRule(
            batch_size=self.batch_size,
            trials=self.trials,
            evaluation_batch_size=self.evaluation_batch_size,
            max_weight_grad=_given(self.max_weight_grad),
            bump_replaces_step=self.bump_replaces_step,
            input_noise=self.input_noise * tau_syn,
            augment=augment,
        )

    def make_schedule(self) -> Schedule:
        """The learning rate by epoch.

        Raises:
            ValueRangeError: a value that it cannot have.
        """
        length = max(self.epochs, 1)  # what is less has been refused by its own name
        return Schedule(_given(self.learning_rate), self.schedule, self.step_size, self.gamma, length)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """`Recipe.changed`, without its warnings."""
    own = {item.name for item in fields(Recipe)}
    given = {name: value for name, value in values.items() if name in own}
    for name in ("loss", "optimizer"):  # one that goes by its name and is there already stays as it is
        if isinstance(asked := given.get(name), str) and asked == leaf_name(getattr(recipe, name)):
            del given[name]
    result = replace(recipe, **given)
    loss, optimizer = leaf_values(result.loss), leaf_values(result.optimizer)
    for name in values.keys() - own:
        one_of("value of a recipe", name, sorted(own | loss.keys() | optimizer.keys()))
        if name in loss and name in optimizer:
            raise ConfigError(
                f"both {result.loss!r} and {result.optimizer!r} have the value {name}: give one whole"
            )
    return replace(
        result,
        loss=replace(result.loss, **{n: values[n] for n in loss if n in values}),
        optimizer=replace(result.optimizer, **{n: values[n] for n in optimizer if n in values}),
    )


def _refuse_on_device(machine: OnChip) -> None:
    """Refuses chips that answer from the host, or do there what no device knows; raises BackendError."""
    chip, alone = machine.chip, f"a {type(machine.chip).__name__}"
    if isinstance(chip, EmulatedChip):
        alone = chip.substrate.host_only
    if alone:
        raise BackendError(f"{alone} has no device step: it needs backend=cpu")


def end_of_trial(machine: Machine) -> float:
    """When a trial of a machine ends, as far as that is known; in its unit of time."""
    chip = machine.chip if isinstance(machine, OnChip) else None
    return chip.substrate.clock.last if isinstance(chip, EmulatedChip) else math.inf


def leaf_values(leaf: Leaf) -> dict[str, Any]:
    """What a user sets of a loss or an optimiser, by name: its fields, but for those of its kind."""
    kind = {item.name for item in fields(Loss if isinstance(leaf, Loss) else Optimizer)}
    return {item.name: getattr(leaf, item.name) for item in fields(leaf) if item.name not in kind}


def leaf_name(leaf: Leaf) -> str:
    """What a loss or an optimiser is registered as; that of its class where it is not."""
    parts: Registry[Any] = LOSSES if isinstance(leaf, Loss) else OPTIMIZERS
    return next((name for name in parts if parts[name] is type(leaf)), type(leaf).__qualname__)


def _leaf(asked: Any, parts: Registry[Any], usual: L) -> L:
    """A leaf that stands for itself, or for which its name does."""
    if isinstance(asked, str):
        part = parts[asked]
        return usual if type(usual) is part else part()
    if not isinstance(asked, type(usual).__bases__[0]):
        raise ConfigError(
            f"the {parts.kind} must be one of {', '.join(parts)}, or made of one, got {asked!r}"
        )
    return asked


def _given(value: float | None) -> float:
    if value is None:
        raise ValueRangeError("a recipe without its numbers must be suited to a neuron first")
    return value


@dataclass(frozen=True)
class _Later(Schedule):
    """A schedule that begins with a later epoch."""

    first_epoch: int = 0

    def at(self, epoch: int) -> float:
        return super().at(epoch - self.first_epoch)

    def progress(self, epoch: int) -> float:
        return super().progress(epoch - self.first_epoch)


def step_kind(
    trained: Machine,
    loss: Loss,
    optimizer: Optimizer,
    rule: TrainingRule,
    n_replica: int,
    constants: Sequence[str] = (),
    *,
    on_device: bool,
    wakes: bool = False,
) -> StepKind:
    """The fastest step that there is for some parts; arguments as for `make_trainer`.

    Nothing is compiled to find out.

    Args:
        constants: of the neurons, which are learnt beside the weights.
        wakes: silent neurons are pulled to their thresholds, `silence` of a recipe.

    Raises:
        BackendError: a loss or an optimiser that the device cannot compute.
    """
    if on_device:
        if isinstance(trained, OnChip):
            _refuse_on_device(trained)
        refuse_without_text(loss, optimizer)
        return StepKind("device")
    reason = why_by_pieces(trained, loss, optimizer, rule, n_replica, constants, wakes=wakes)
    return StepKind("compiled") if reason is None else StepKind("piecewise", reason)


def make_trainer(
    architecture: Architecture,
    trained: Machine,
    examined: Machine,
    learnt: Parameters | Sequence[Array],
    recipe: Recipe,
    loss: Loss,
    rule: TrainingRule,
    seeds: Sequence[int],
    *,
    on_device: bool,
    first_epoch: int = 0,
    frozen: bool = False,
    shares: Sequence[Share] = (),
) -> Trainer:
    """A trainer with the fastest step that there is for its parts: `trainer.step.kind` says which.

    Args:
        architecture: the network without a chip.
        trained: what the gradient is taken of;  examined: what is validated.
        learnt: in place; a list of arrays is weights alone.
        loss, rule: of the recipe, `make_loss` and `make_rule`.
        seeds: of the replicas.
        on_device: the backend is a device, whose steps stay there.
        first_epoch: with which the schedule of the learning rate begins.
        frozen: weights stay as they are, neither stepped nor bumped; what is learnt beside them alone steps.
        shares: of several devices; none: one device trains all replicas.

    Raises:
        GpuspikeError: a value of the recipe that cannot be used.
    """
    parameters = Parameters.of(learnt)
    schedule = _Later(**vars(recipe.make_schedule()), first_epoch=first_epoch)
    trained.having(parameters)  # refuses constants that cannot be trained there
    unit = weight_unit(architecture.models[0])
    descent = Descent(recipe.optimizer, parameters, architecture.kernels, unit, frozen=frozen)
    if frozen:  # nothing wakes the silent but their weights
        recipe = replace(recipe, max_silent=[1.0] * len(parameters))
    bumping = recipe.make_bumping(len(parameters), len(seeds))
    if isinstance(bumping, Waking):
        bumping.watch(trained.layers, end_of_trial(trained))
    parts = (parameters, loss, descent, bumping, rule, seeds)
    constants = parameters.trained
    wakes = isinstance(bumping, Waking)
    kind = step_kind(
        trained, loss, recipe.optimizer, rule, len(seeds), constants, on_device=on_device, wakes=wakes
    )
    if kind.name == "device" and shares:
        step = DevicesStep(shares, *parts, graph=recipe.cuda_graph)
    elif kind.name == "device":
        step = DeviceStep(trained, *parts, examined=examined, graph=recipe.cuda_graph)
    elif kind.name == "compiled":
        step = compiled_step(trained, examined, *parts)
    else:
        step = PiecewiseStep(trained, examined, *parts, reason=str(kind.reason))
    return Trainer(trained, parameters, loss, descent, schedule, bumping, rule, seeds, examined, step)
