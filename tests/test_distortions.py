"""Distortions by their names: explained, checked, addressed; a user's own, from its key to training."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import test_compiled_step
from small_training import assert_same_runs
from test_compiled_step import Task
from test_substrate import SEEDS, assert_same, emulate, make_inputs, make_network, make_weights

import gpuspike as gs
from gpuspike import registry
from gpuspike.config.schema import conf_folder, from_values, jobs, read_substrate
from gpuspike.errors import ConfigError, ValueRangeError
from gpuspike.kernels import load
from gpuspike.network.delays import Delays
from gpuspike.network.layers import Moment
from gpuspike.network.network import Architecture
from gpuspike.registry import Registry
from gpuspike.runs.experiment import build
from gpuspike.store.identity import fingerprint, to_values
from gpuspike.substrate import EmulatedChip, Substrate
from gpuspike.substrate.distortions import (
    CHIP,
    DISTORTIONS,
    NO_CHANCE,
    SPIKE,
    TRIAL,
    Distortion,
    spread,
    value,
)
from gpuspike.substrate.silicon import KINDS, TRIAL_KINDS, Dice, Silicon, Trials, digest
from gpuspike.substrate.spec import keys

each = pytest.mark.parametrize("name", list(DISTORTIONS))

DOCS = conf_folder().parent / "docs" / "substrates.md"

ON: dict[str, dict[str, Any]] = {
    "weights": {"weight_max": (0.8,), "weight_bits": 5},
    "write_error": {"write_std": 0.05},
    "gain": {"gain_std": 0.2},
    "dead_synapses": {"dead_synapses": 0.2},
    "dead_neurons": {"dead_neurons": 0.2},
    "stuck_synapses": {"weight_max": (0.8,), "stuck_synapses": 0.2},
    "threshold": {"threshold_shift": 0.05, "threshold_std": 0.1},
    "time_constants": {"tau_mem_shift": 0.1, "tau_syn_shift": 0.2},
    "delays": {"delay_min": 0.4, "delay_max": 0.6},
    "delay_spread": {"delay_std": 0.1},
    "input_jitter": {"input_jitter": 0.1},
    "lost_inputs": {"lost_inputs": 0.1},
    "threshold_noise": {"threshold_noise": 0.1},
    "spike_jitter": {"spike_jitter": 0.1},
    "lost_spikes": {"lost_spikes": 0.1},
    "time_grid": {"time_grid": 0.1},
    "trial_end": {"trial_end": 1.5},
}
"""Values at which each is felt."""

NEEDS = {"weight_bits": {"weight_max": (0.8,)}, "stuck_synapses": {"weight_max": (0.8,)}}
"""Keys without which another one is refused."""

each_key = pytest.mark.parametrize(
    ("name", "key"), [(name, f.name) for name in DISTORTIONS for f in dataclasses.fields(DISTORTIONS[name])]
)


DELAYED = ("delays", "delay_spread")
"""What only a network with delays feels."""


def network_for(name: str) -> Architecture:
    """A network that feels a distortion."""
    network, rng = make_network(), np.random.default_rng(0)
    if name not in DELAYED:
        return network
    delays = [Delays(rng.random((1, one.n_pre)), rng.random((1, one.n_out))) for one in network.layers]
    layers = tuple(replace(one, delays=own) for one, own in zip(network.layers, delays, strict=True))
    return replace(network, layers=layers)


def alone(name: str, key: str) -> Substrate:
    """A chip on which one key is on, and what it needs."""
    return Substrate(**NEEDS.get(key, {}) | {key: ON[name].get(key, 0.1)})


def rows() -> dict[str, list[str]]:
    """Of each key in the table of the documentation, the other cells."""
    text = DOCS.read_text(encoding="utf-8").split("## What a chip does")[1].split("\n## ")[0]
    found = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            first, *others = (cell.strip() for cell in line.strip("|").split("|"))
            found |= {key.strip("` "): others for key in first.split(",")}
    return found


@each
def test_every_key_is_in_the_documentation_s_table_with_its_unit_and_its_scope(name: str) -> None:
    part = DISTORTIONS[name]
    for field in dataclasses.fields(part):
        unit, _, when = rows()[field.name]
        assert when == part.scope
        assert (unit == "tau_syn") == field.metadata["time"], field.name


def test_the_table_has_the_keys_in_the_order_in_which_the_chip_does_it() -> None:
    known = [key for key, _, _ in keys()]
    assert sorted(rows()) == sorted(known)
    assert list(ON) == list(DISTORTIONS)


@each
def test_off_it_is_not_on_the_chip_and_on_it_is_felt(name: str) -> None:
    part = DISTORTIONS[name]()
    part.check_rules()
    assert not part.active
    assert str(part) == ""
    assert Substrate().distortions == ()
    assert any(type(part) is DISTORTIONS[name] for part in Substrate(**ON[name]).distortions)
    network = network_for(name)
    ideal = network.forward(make_weights(network), make_inputs(network, 2))
    _, states = emulate(network, Substrate(**ON[name]))
    assert any((a.t_out != b.t_out).any() for a, b in zip(states, ideal, strict=True))


@each_key
def test_a_key_that_is_on_is_felt_or_names_what_it_needs(name: str, key: str) -> None:
    if key in NEEDS:
        with pytest.raises(
            ValueRangeError, match=f"^substrate.{key} needs a range, substrate.weight_max, got"
        ):
            Substrate(**{key: ON[name][key]})
    network = network_for(name)
    _, without = emulate(network, Substrate(**NEEDS.get(key, {})))
    _, states = emulate(network, alone(name, key))
    assert any((a.t_out != b.t_out).any() for a, b in zip(states, without, strict=True))


@each_key
def test_a_value_that_means_nothing_is_refused_by_its_key(name: str, key: str) -> None:
    wrong = {"weight_max": (-1.0,), "weight_bits": -1}.get(key, math.nan)
    with pytest.raises(ValueRangeError, match=f"^substrate.{key} must be "):
        Substrate(**{key: wrong})


@each_key
def test_only_what_has_a_moment_differs_from_moment_to_moment(name: str, key: str) -> None:
    network, spec = network_for(name), alone(name, key)
    (_, first), (_, again), (_, later) = (emulate(network, spec, Moment(n)) for n in (0, 0, 1))
    assert_same(first, again)
    moved = any((a.t_out != b.t_out).any() for a, b in zip(first, later, strict=True))
    assert moved == (DISTORTIONS[name].scope in (TRIAL, SPIKE))


@each_key
def test_a_kept_chip_is_the_same_in_the_hands_of_another_seed(name: str, key: str) -> None:
    network, spec = network_for(name), alone(name, key)
    chip, states = emulate(network, spec)
    other = EmulatedChip(spec, network.layers, network.kernels, (8, 9))
    other.take(chip.arrays())
    assert chip.arrays().keys() == other.arrays().keys()
    for at, drawn in chip.arrays().items():
        np.testing.assert_array_equal(other.arrays()[at], drawn)
    weights = make_weights(network)
    for a, b in zip(other.effective(weights), chip.effective(weights), strict=True):
        np.testing.assert_array_equal(a, b)
    if DISTORTIONS[name].scope in (CHIP, NO_CHANCE):
        assert_same(other.states(weights, make_inputs(network, 2), Moment()), states)


@pytest.mark.filterwarnings("ignore:.* % of the training spikes come after 1.5 tau_syn")
@each
def test_a_training_on_it_goes_on_through_a_file_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    t_in = rng.uniform(0.15, 2.0, (40, 4))
    labels = t_in[:, :3].argmin(axis=1)
    chip, delays = gs.Chip("ideal", seed=17, **ON[name]), "axonal" if name in DELAYED else "none"
    whole, stopped = (
        gs.Network([4, 12, 3], bias_times=[[0.9], [0.9]], seed=1, delays=delays).on(chip) for _ in range(2)
    )
    gs.fit(whole, t_in, labels, epochs=2, batch_size=20)
    gs.fit(stopped, t_in, labels, epochs=1, batch_size=20)
    stopped.save(tmp_path / "net.npz")
    again = gs.load(tmp_path / "net.npz")
    gs.fit(again, t_in, labels, epochs=1, recipe=again.recipe)
    for a, b in zip(again.parameters.weights, whole.parameters.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(again(t_in, layers=True), whole(t_in, layers=True), strict=True):
        np.testing.assert_array_equal(a, b)


@each
def test_the_compiled_step_trains_on_it_with_the_same_bits_or_says_why_not(name: str) -> None:
    task = Task(substrate=Substrate(**ON[name]), n_train=40)
    reason = task.machine().chip.why_by_pieces()  # type: ignore[union-attr]
    assert (reason is None) == DISTORTIONS[name].compiled
    if reason is None:
        test_compiled_step.assert_same(task)
    else:
        keys_on = ", ".join(f"substrate.{key}" for key in ON[name])
        assert reason == f"{keys_on} is not in the compiled step"


def test_an_error_of_writing_comes_before_the_gain_and_is_kept() -> None:
    network = make_network()
    spec = Substrate(write_std=0.1, weight_lsb=0.1, gain_std=0.2)
    chip = EmulatedChip(spec, network.layers, network.kernels, SEEDS)
    kept, weights = chip.arrays(), make_weights(network)
    for number, w in enumerate(weights):
        written, error, gain = np.rint(w / 0.1) * 0.1, kept[f"error_{number}"], kept[f"gain_{number}"]
        np.testing.assert_allclose(chip.effective(weights)[number], (written + error) * gain, atol=1e-12)
        assert chip.pull_factors()[number] is gain
    assert error.std() == pytest.approx(0.1, rel=0.3)
    other = EmulatedChip(spec, network.layers, network.kernels, (8, 9))
    other.take(kept)
    for a, b in zip(other.effective(weights), chip.effective(weights), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_distortion_that_is_off_leaves_older_fingerprints_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def name(*more: str) -> str:
        (job,) = jobs(["experiment=yin_yang_bss2", *more], multirun=False)
        return fingerprint(job.config)

    before = name()
    borrow(monkeypatch)
    DISTORTIONS.add("drift", Drift)
    assert name() == before
    assert len({before, name("substrate.drift=0.1"), name("substrate.write_std=0.1")}) == 3


def test_neurons_with_time_constants_of_their_own_are_told_as_such() -> None:
    network = make_network()
    chip = EmulatedChip(Substrate(tau_syn_std=0.1), network.layers, network.kernels, SEEDS)
    assert chip.why_by_pieces() == "neurons with time constants of their own are not in the compiled step"


def test_a_chip_s_values_survive_copies_and_other_processes() -> None:
    spec = Substrate(**ON["weights"], name="X")
    for other in (copy.deepcopy(spec), pickle.loads(pickle.dumps(spec)), replace(spec)):
        assert other == spec
        assert other.distortions == spec.distortions
    assert isinstance(spec, Substrate)
    assert "weight_bits=5" in repr(spec)
    with pytest.raises(TypeError, match="gian_std"):
        Substrate(gian_std=0.1)


def test_kinds_without_a_place_in_the_lists_have_numbers_of_their_own() -> None:
    dice, like = Dice(SEEDS, load("cpu")), np.empty((2, 40, 30))
    once = [dice.once(kind, 0, (500,)) for kind in (*KINDS, "mine", "yours")]
    trials = [dice.normals(kind, like, 1, Moment()) for kind in (*TRIAL_KINDS, "mine", "yours")]
    for drawn in (once, trials):
        for n, a in enumerate(drawn):
            for b in drawn[:n]:
                assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5.0 / np.sqrt(a.size)
            assert abs(np.corrcoef(a[0].ravel(), a[1].ravel())[0, 1]) < 5.0 / np.sqrt(a[0].size)
    alone = Dice(SEEDS[1:], load("cpu"))
    np.testing.assert_array_equal(alone.normals("mine", like[1:], 1, Moment())[0], trials[-2][1])
    oracle = Dice(SEEDS, load("reference")).normals("mine", like, 1, Moment())
    np.testing.assert_allclose(trials[-2], oracle, rtol=0.0, atol=1e-5)
    np.testing.assert_allclose(trials[-2][0, 0, :2], PINNED, rtol=0.0, atol=1e-5)


def test_a_seed_of_a_kind_without_a_place_in_the_lists_fits_a_device() -> None:
    given: list[np.ndarray[Any, Any]] = []

    def normals(like: Any, seeds: Any, *_: Any) -> Any:
        given.append(np.array(seeds, np.int64))  # which refuses 2**63 and more, as a device's kernels do
        return like

    dice = Dice(range(100), SimpleNamespace(normals=normals))  # type: ignore[arg-type]
    dice.normals("mine", np.empty((100, 1, 1)), 0, Moment())
    dice.normals("yours", np.empty((100, 1, 1)), 0, Moment())
    assert any(digest(f"mine {seed}") >= 2**63 for seed in range(100))
    assert np.min(given) >= 0
    assert len(np.unique(given)) == 200


PINNED = [0.671142, 1.126788]
"""The address of a kind must never change."""


# --- one of a user's own ------------------------------------------------------


@dataclass(frozen=True)
class Drift(Distortion):
    """Thresholds are higher the later a sample comes in its batch, and inputs come late."""

    scope: ClassVar[str] = TRIAL

    drift: float = spread()
    lag: float = spread(time=True)
    levels: tuple[int, ...] = value(())

    def check(self, substrate: Substrate) -> None:
        if self.lag > substrate.clock.end:
            raise ValueRangeError(f"substrate.lag must be shorter than the trial, got {self.lag!r}")

    def draw(self, silicon: Silicon, substrate: Substrate) -> None:
        silicon.threshold = silicon.threshold + 0.01 * np.abs(silicon.draw("drift", (silicon.layer.n_out,)))

    def arrive(self, times: Any, trials: Trials) -> None:
        times += self.lag

    def lift(self, trials: Trials) -> Any:
        return self.drift * np.abs(trials.normals("drift"))


def borrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is registered is forgotten after the test."""
    monkeypatch.setattr(DISTORTIONS, "_places", dict(DISTORTIONS._places))
    monkeypatch.setattr(DISTORTIONS, "_parts", dict(DISTORTIONS._parts))
    monkeypatch.setattr(registry, "added", list(registry.added))


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Drift]]:
    """Registered for one test."""
    borrow(monkeypatch)
    DISTORTIONS.add("drift", Drift)
    return Drift  # type: ignore[return-value]


@pytest.mark.usefixtures("drift")
def test_a_user_s_distortion_has_its_keys_everywhere(tmp_path: Path) -> None:
    given = ["substrate.drift=0.2", "substrate.lag=0.1", "substrate.levels=[1,2]", "model.tau_syn=2"]
    (job,) = jobs(["experiment=yin_yang_bss2", *given], multirun=False)
    parts = build(job.config)
    assert [parts.substrate.drift, parts.substrate.lag, parts.substrate.levels] == [0.2, 0.2, (1, 2)]
    assert to_values(job.config)["substrate"]["lag"] == 0.1
    assert from_values(to_values(job.config)) == job.config
    (tmp_path / "mine.yaml").write_text("name: mine\ndrift: 0.3\n")
    assert read_substrate(tmp_path / "mine.yaml").drift == 0.3  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"lags.*valid keys:.*lag"):
        jobs(["+substrate.lags=1"], multirun=False)
    with pytest.raises(ValueRangeError, match=r"substrate.lag must be 0 or more and finite, got -1"):
        Substrate(lag=-1.0)
    with pytest.raises(ValueRangeError, match=r"substrate.lag must be shorter than the trial, got 3"):
        Substrate(lag=3.0, trial_end=2.0)


def test_without_it_nobody_knows_the_key() -> None:
    with pytest.raises(ConfigError, match="drift"):
        jobs(["substrate.drift=0.1"], multirun=False)


@pytest.mark.usefixtures("drift")
def test_a_user_s_distortion_is_applied_in_training_and_told() -> None:
    chip = test_compiled_step.CHIP
    plain = Task(substrate=Substrate(**{f.name: getattr(chip, f.name) for f in dataclasses.fields(chip)}))
    assert plain.machine().chip.why_by_pieces() is None  # type: ignore[union-attr]
    drifting = replace(plain, substrate=replace(plain.substrate, drift=0.1))
    assert test_compiled_step.reason(drifting) == "substrate.drift is not in the compiled step"
    found = drifting.machine().chip  # type: ignore[union-attr]
    assert found.why_by_pieces() == "substrate.drift is not in the compiled step"
    without, with_it = (task.trained(compiled=False, n_epochs=1)[0] for task in (plain, drifting))
    assert all((a != b).any() for a, b in zip(without.weights, with_it.weights, strict=True))
    both, alone = (t.trained(compiled=False, n_epochs=1) for t in (drifting, replace(drifting, seeds=(4,))))
    assert_same_runs(both, alone, 1, 0)
    kept = found.arrays()
    other = replace(drifting, seeds=(8, 9)).machine().chip  # type: ignore[union-attr]
    other.take(kept)
    np.testing.assert_array_equal(other.arrays()["threshold_0"], kept["threshold_0"])


@pytest.mark.usefixtures("drift")
def test_what_it_does_is_what_it_says() -> None:
    network, silent = make_network(), {"dead_neurons": 0.3, "threshold_shift": -0.9, "threshold_std": 0.5}
    ideal, (first, *_) = emulate(network, Substrate())[1], emulate(network, Substrate(lag=0.25))[1]
    np.testing.assert_allclose(first.t_in[..., :4], ideal[0].t_in[..., :4] + 0.25)
    np.testing.assert_array_equal(first.t_in[..., 4:], ideal[0].t_in[..., 4:])
    chip, (state, _) = emulate(network, Substrate(drift=5.0, **silent))
    kept = chip.arrays()
    for name, time in (("dead_0", np.inf), ("always_on_0", 0.0)):
        assert kept[name].any()
        assert (state.t_out[np.broadcast_to(kept[name][:, None], state.t_out.shape)] == time).all()


@pytest.mark.parametrize("hook", ["arrive", "lift", "delay", "clock"])
def test_a_distortion_that_promises_too_much_is_left_to_the_step_by_pieces(
    hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saying `compiled` is no way to be left out of the trials without a word."""
    own = {hook: lambda self, *given: given[0], "compiled": True, "scope": TRIAL}
    made = dataclasses.make_dataclass(
        "Promise", [("promise", float, spread())], bases=(Distortion,), frozen=True, namespace=own
    )
    borrow(monkeypatch)
    DISTORTIONS.add("promise", made)
    network = make_network()
    chip = EmulatedChip(Substrate(promise=0.1), network.layers, network.kernels, SEEDS)
    assert chip.why_by_pieces() == "substrate.promise is not in the compiled step"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("gain_std", float, 0.0), "the distortion mine has the key gain_std, which the distortion gain has"),
        (("prices", float, 0.0), "the distortion mine has the key prices, which every substrate has"),
        (("own", float), "the value own of the distortion mine needs a default, got none"),
    ],
)
def test_keys_that_cannot_be_are_refused(
    declared: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    borrow(monkeypatch)
    own = {"scope": TRIAL, "arrive": lambda self, times, trials: None}
    made = dataclasses.make_dataclass("Mine", [declared], bases=(Distortion,), frozen=True, namespace=own)

    def added_and_used() -> None:  # refused when it is added, or when the keys come together
        DISTORTIONS.add("mine", made)
        Substrate()

    with pytest.raises(ConfigError, match=message):
        added_and_used()


def test_the_registry_names_what_there_is() -> None:
    assert isinstance(DISTORTIONS, Registry)
    with pytest.raises(ConfigError, match=r"there is no distortion 'gian'; .*did you mean gain"):
        DISTORTIONS["gian"]


def test_the_page_s_own_distortion_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    borrow(monkeypatch)
    page = (conf_folder().parent / "docs" / "own_chip.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "page_s_distortion.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("page_s_distortion").mine
    network = make_network()
    _, states = emulate(network, mine)
    _, still = emulate(network, replace(mine, flicker=0.0))
    _, ideal = emulate(network, Substrate())
    for a, b in ((states, still), (still, ideal)):
        assert any((x.t_out != y.t_out).any() for x, y in zip(a, b, strict=True))


def delayed(self: Any, delay: Any, trials: Trials) -> Any:
    own = np.full(trials.like.shape, self.strange, trials.like.dtype)
    return own if delay is None else delay + own


def drawn(self: Any, silicon: Silicon, substrate: Substrate) -> None:
    silicon.threshold = silicon.threshold + self.strange


def late(self: Any, times: Any, trials: Trials) -> None:
    times += self.strange


HOOKS: dict[str, Any] = {
    "program": lambda self, weights, layer: weights * (1.0 - self.strange),
    "draw": drawn,
    "arrive": late,
    "lift": lambda self, trials: np.full(trials.like.shape, self.strange, trials.like.dtype),
    "delay": delayed,
    "clock": lambda self, clock: clock._replace(end=1.0),
}
"""A distortion for each hook of the guide."""


@pytest.mark.filterwarnings("ignore:.* % of the training spikes come after 1 tau_syn")
@pytest.mark.parametrize(
    ("hook", "compiled"), [*((hook, False) for hook in HOOKS), ("program", True), ("draw", True)]
)
def test_a_user_s_distortion_acts_wherever_a_network_answers(
    hook: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast path has what it knows; for all else training goes piecewise and says so."""
    own = {hook: HOOKS[hook], "compiled": compiled, "scope": TRIAL}
    made = dataclasses.make_dataclass(
        "Strange", [("strange", float, spread())], bases=(Distortion,), frozen=True, namespace=own
    )
    borrow(monkeypatch)
    DISTORTIONS.add("strange", made)
    why = "" if compiled else "substrate.strange is not in the compiled step"

    small = ["dataset.n_train=200", "dataset.n_validation=50", "dataset.n_test=50", "training.batch_size=50"]
    (job,) = jobs([*small, "backend=cpu", "substrate.strange=0.3"], multirun=False)
    kind = build(job.config).step_kind()  # as gpuspike-plan and a run tell it
    assert (kind.name, kind.reason or "") == ("compiled" if compiled else "piecewise", why)

    data = gs.dataset("yin_yang", n_train=200, n_validation=50, n_test=50)
    said = []
    for strange in (0.0, 0.3):
        chip = gs.Chip(
            "ideal", seed=17, weight_max=[9.0], strange=strange
        )  # trained in the loop without it, too
        net = gs.Network([4, 30, 3], bias_times=[[0.9], [0.9]], seed=1).on(chip)
        before = net(data.test.t_in)
        _, times = gs.decide(net, data.test.t_in)
        gs.fit(net, *data.train, epochs=1, batch_size=50)
        said.append(
            (before, times, net.parameters.weights[0], net.history.step, net.history.step_reason or "")
        )
    assert [said[0][3:], said[1][3:]] == [("compiled", ""), (kind.name, why)]
    for without, with_it in zip(said[0][:3], said[1][:3], strict=True):
        assert (without != with_it).any()
    np.testing.assert_array_equal(said[1][1], said[1][0].min(axis=1))


@dataclass(frozen=True)
class Coarse(Distortion):
    """Delays come in steps."""

    scope: ClassVar[str] = NO_CHANCE

    coarse: float = spread(time=True)

    def hold(self, delays: Any) -> Any:
        return (np.rint(delays / self.coarse) * self.coarse).astype(delays.dtype)


@dataclass(frozen=True)
class Late(Distortion):
    """Limits delays while it draws, where it might say so in `hold`."""

    scope: ClassVar[str] = NO_CHANCE

    late: float = spread(time=True)

    def draw(self, silicon: Any, substrate: Any) -> None:
        del substrate
        if silicon.held_delays is not None:
            silicon.held_delays = silicon.held_delays.map(lambda _, delays: np.minimum(delays, self.late))


def test_a_distortion_that_limits_delays_while_it_draws_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    borrow(monkeypatch)
    DISTORTIONS.add("late", Late)
    net = gs.Network([4, 3], delays="axonal", backend="cpu").on(gs.Chip("ideal", late=0.3))
    gs.fit(net, np.ones((5, 4)), np.zeros(5, int), epochs=1, batch_size=5)
    assert net.machine.layers[0].delays.axonal.max() > 0.3
    assert net.machine.chip.held_delays[0].axonal.max() == 0.3


@pytest.mark.parametrize("kind", ["axonal", "dendritic", "synaptic"])
def test_what_a_user_s_distortion_makes_keeps_the_network_s_type(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    borrow(monkeypatch)
    monkeypatch.setattr(
        Coarse, "hold", lambda self, delays: np.minimum(delays.astype(np.float64), self.coarse)
    )
    monkeypatch.setattr(Coarse, "program", lambda _, weights, layer: weights.astype(np.float64))
    DISTORTIONS.add("coarse", Coarse)
    rng = np.random.default_rng(0)
    net = gs.Network([4, 3], seed=1, delays=kind, backend="cpu", dtype=np.float32)
    net = net.on(gs.Chip("ideal", coarse=0.25))
    gs.fit(net, rng.uniform(0.0, 2.0, (5, 4)), rng.integers(3, size=5), epochs=1, batch_size=5)
    assert net.machine.chip.held_delays[0].items().__next__()[1].dtype == np.float32


def test_a_user_s_distortion_may_say_what_is_held_of_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    borrow(monkeypatch)
    DISTORTIONS.add("coarse", Coarse)
    rng = np.random.default_rng(0)
    t_in = rng.uniform(0.0, 2.0, (5, 4))
    net = gs.Network([4, 3], seed=1, delays="axonal+synaptic", backend="cpu").on(
        gs.Chip("ideal", coarse=0.25)
    )
    held = net.machine.chip.held_delays[0]
    for kind, delays in net.machine.layers[0].delays.items():
        np.testing.assert_allclose(getattr(held, kind), np.rint(delays / 0.25) * 0.25, rtol=1e-12)
        assert not np.allclose(getattr(held, kind), delays)
    gs.fit(net, t_in, rng.integers(3, size=5), epochs=1, batch_size=5)
