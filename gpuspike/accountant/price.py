"""A network evaluated, counted and priced: the one way of runs, of evaluations and of Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from gpuspike.accountant.account import NOTED, TIES_NOTED, UNKNOWN, account
from gpuspike.accountant.activity import Activity, Counter
from gpuspike.accountant.anytime import anytime
from gpuspike.accountant.neurobench import neurobench
from gpuspike.accountant.prices import Prices
from gpuspike.errors import GpuspikeError
from gpuspike.network.network import Architecture, Machine
from gpuspike.substrate import EmulatedChip, OnChip, Substrate
from gpuspike.training.evaluation import Evaluation, Labelled, evaluate
from gpuspike.training.losses import Loss

Array = NDArray[Any]

Figure = float | list[float] | None
"""A number; [low, high] where the evidence gives a range; None where a price or a time is not known."""


@dataclass(frozen=True)
class Observed:
    """A network on some splits.

    Attributes:
        results: by split.
        activity: counted on one of them.
        in_steps: the same with spikes at a clocked chip's time steps, see `activity_in_steps`.
    """

    results: dict[str, Evaluation]
    activity: Activity
    in_steps: Callable[[Prices], Activity | None]


def observe(
    machine: Machine,
    weights: Sequence[Array],
    data: Mapping[str, Labelled],
    counted: str,
    prices: Sequence[Prices],
    loss: Loss,
    batch_size: int,
    tau_syn: float,
) -> Observed:
    """Evaluates splits, and counts what one of them takes.

    Args:
        machine: what answers.
        data: by name;  counted: the one whose spikes are counted.
        prices: of the chips that are going to be accounted for, whose trials differ.
        batch_size: samples a forward pass.
        tau_syn: the network's, in its unit of time.
    """
    # A weight that the chip's grid has rounded to 0 is no synapse.
    held = machine.chip.program(weights) if isinstance(machine, OnChip) else weights
    counter = Counter(machine.layers, held, len(data[counted]), [chip.trial for chip in prices], tau_syn)
    results = {
        name: evaluate(machine, weights, split, loss, batch_size, counter if name == counted else None)
        for name, split in data.items()
    }
    split = data[counted]
    return Observed(
        results,
        counter.activity(results[counted].t_out, split.labels),
        lambda chip: activity_in_steps(machine, weights, split, chip, loss, batch_size, tau_syn),
    )


def activity_in_steps(
    machine: Machine,
    weights: Sequence[Array],
    data: Labelled,
    prices: Prices,
    loss: Loss,
    batch_size: int,
    tau_syn: float,
) -> Activity | None:
    """What a network does whose spikes are heard at a chip's next time step; in between membranes are exact.

    None: without a clock, where a chip is emulated already, and where none can be.
    """
    if not isinstance(machine, Architecture) or not prices.clocked:
        return None
    seeds = range(len(weights[0]))  # a grid leaves nothing to chance
    try:
        clocked = Substrate(time_grid=tau_syn / prices.steps_per_tau)
        chip = EmulatedChip(clocked, machine.layers, machine.kernels, seeds)
        network = OnChip(machine, chip)
        return observe(network, weights, {"all": data}, "all", [prices], loss, batch_size, tau_syn).activity
    except GpuspikeError:
        return None


@dataclass(frozen=True, eq=False)
class Cost:
    """What a chip would have needed for some samples. docs/accounting.md says what each figure covers.

    Attributes:
        name: of the chip;  setting: what the prices hold for.
        scope: "all_in" or "per_term".
        accuracy: share of the samples decided rightly within the chip's trial, mean over replicas; None where
            nobody knows the labels.
        energy_per_classification_J: of whole trials;  energy_terms_J: by term.
        time_to_decision_s: "mean", "p50" and "p99", of the samples that are decided; None without a time.
        seconds_per_sample, samples_per_s: reset and transfer included where they are known.
        evidence, time_evidence: the weakest grade among what joules are made of, and among the times.
        refused: why there is no energy; None where there is one.
        summary: all of it, as "chip" in summary.json; "time_unit" says which tau_syn is taken for the chip's,
            where that of the network is not one number.
        anytime: accuracy and energy by the time that one listens, as "anytime" in summary.json.
        neurobench: the counts under NeuroBench's names.
    """

    name: str
    setting: str
    scope: str
    accuracy: float | None
    energy_per_classification_J: Figure
    energy_terms_J: dict[str, Figure] | None
    time_to_decision_s: dict[str, Figure] | None
    seconds_per_sample: Figure
    samples_per_s: Figure
    evidence: str
    time_evidence: str
    refused: str | None
    summary: dict[str, Any]
    anytime: dict[str, Any]
    neurobench: dict[str, Any]

    def __repr__(self) -> str:
        mean = None if self.time_to_decision_s is None else self.time_to_decision_s["mean"]
        undecided = self.summary["undecided_share"]
        when = "never decided" if undecided == 1.0 else f"decided after {_told(mean, 's')}"
        when += f", {100 * undecided:.3g} % never" if NOTED <= undecided < 1.0 else ""
        ties = self.summary["tied_share"]
        when += f", {100 * ties:.3g} % at a tie, for the lowest class" if ties >= TIES_NOTED else ""
        clocked = self.summary.get("in_steps")
        exact = " of spike times between its steps" if self.summary.get("between_steps_share") else ""
        if clocked is not None:
            exact = f" of exact spike times, {100 * clocked['accuracy']:.2f} % in its time steps"
        right = "" if self.accuracy is None else f"accuracy {100 * self.accuracy:.2f} %{exact}, "
        energy = f"{_told(self.energy_per_classification_J, 'J')} a classification"
        if self.refused:
            energy = f"no energy, since {self.refused.removeprefix(f'{self.name}: ')}"
        grade = "" if self.refused else f" ({self.evidence})"
        unit = f"; {self.summary['time_unit']}" if "time_unit" in self.summary else ""
        return (
            f"Cost({self.name}{self._room()}: {right}{energy}{grade}, {when}, "
            f"{_told(self.seconds_per_sample, 's')} a sample{unit})"
        )

    def _room(self) -> str:
        """Of how many chips it is, or why of none."""
        chips, why = self.summary["chips_needed"], self.summary["does_not_fit"]
        if why:
            return ", room for it unknown" if why == UNKNOWN else f" does not hold it, {why}"
        return f", {chips} chips" if (chips or 1) > 1 else ""


def cost_of(
    activity: Activity,
    prices: Prices,
    class_names: Sequence[str],
    time_unit: str = "",
    steps: float = 1.0,
    in_steps: Callable[[], Activity | None] = lambda: None,
) -> Cost:
    """Prices what has been counted.

    Args:
        activity: counted with these prices among those of `observe`.
        in_steps: `activity_in_steps`, asked where the counted spike times lie between the chip's steps.
        time_unit: what is to be said of the tau_syn that is taken for the chip's.
        steps: see `neurobench`.
    """
    told = account(activity, prices, class_names, in_steps)
    if time_unit:
        told["time_unit"] = time_unit
    own = ("summary", "anytime", "neurobench")
    given = {name: told[name] for name in Cost.__dataclass_fields__ if name not in own}
    return Cost(
        **given, summary=told, anytime=anytime(activity, prices), neurobench=neurobench(activity, steps)
    )


def _told(figure: Figure, unit: str) -> str:
    if figure is None:
        return "unknown"
    ends = figure if isinstance(figure, list) else [figure]
    told = dict.fromkeys(f"{end:.3g}" for end in ends)  # ends that read alike are one
    return f"{' to '.join(told)} {unit}"
