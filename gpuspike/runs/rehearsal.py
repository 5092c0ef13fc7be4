"""Each kernel run once on nothing much, so that compiling is neither silent nor timed as the work."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
from rich.console import Console

from gpuspike.accountant import Counter, Prices
from gpuspike.accountant.price import activity_in_steps
from gpuspike.backend import crowded
from gpuspike.kernels import LayerState
from gpuspike.report.figures.library import lazy_matplotlib
from gpuspike.runs.experiment import Experiment, new_trainer
from gpuspike.runs.memory import uncollected
from gpuspike.screen import LINE, warn
from gpuspike.substrate import EmulatedChip, OnChip
from gpuspike.training.evaluation import Labelled, evaluate


def prepare_kernels(
    parts: Experiment, console: Console, *more: Callable[[], object], training: bool = True
) -> None:
    """Runs each kernel once on nothing much, so that compiling is neither silent nor timed as the work.

    Args:
        more: what runs others, at the end.
        training: those that only training needs, too.
    """
    if parts.backend.name == "cpu" and (said := crowded()) is not None:
        warn(said, console)
    start = time.perf_counter()
    evaluating, learning = (_on_a_device if parts.backend.name == "cuda" else _on_the_host)(parts)
    compiling = getattr(parts.network.kernels, "compiling", lambda _: nullcontext())
    beside = getattr(parts.network.kernels, "with_second_process", lambda _: nullcontext(lambda: None))
    first, others = (learning[:1], evaluating + learning[1:]) if training else ((), evaluating)
    others += more
    what = what_runs(parts, training=training)

    compiled: list[bool] = []

    def say() -> None:
        compiled.append(True)
        console.print(
            f"kernels  compiling those for {what}, once for each such kind on a machine: up to a minute",
            soft_wrap=True,
            highlight=False,
        )

    def hear() -> None:
        console.print("kernels  stops when this one is compiled; Ctrl-C again stops at once", **LINE)

    with (
        console.status("preparing kernels"),
        compiling(say),
        beside((*others, _read_matplotlib)) as join,
        StopRequest(hear) as stop,  # the compiler loses an interruption that comes at the wrong moment
        uncollected(lasting=True),
    ):
        # A step's job first: another process can compile a share of it, and then all of the rest.
        for prepare in (*first, join, *others):
            prepare()
            if stop.asked:
                raise KeyboardInterrupt
    seconds = time.perf_counter() - start
    if seconds > 2.0 and (compiled or parts.backend.name == "cuda"):
        from gpuspike.kernels import cache

        console.print(f"kernels  compiled in {seconds:.0f} s, {cache.told()}", **LINE)


def rehearse_steps(parts: Experiment, prices: Sequence[Prices]) -> None:
    """What `activity_in_steps` runs, for the first of the chips that have time steps."""
    if parts.substrate.ideal and (clocked := [one for one in prices if one.clocked]):
        parts = parts.of_replica(0)
        network, dtype = parts.network, parts.config.dtype.value
        weights = [np.ones((1, layer.n_pre, layer.n_post), dtype) for layer in network.layers]
        t_in = np.zeros((1, 1, network.layers[0].n_in), dtype)
        data = Labelled(network.receive(t_in), np.zeros(1, np.int64))
        activity_in_steps(network, weights, data, clocked[0], parts.loss, 1, parts.config.model.tau_syn)


def _read_matplotlib() -> None:
    """Python keeps what it has read of a library in a form that it reads faster at the first figure."""
    lazy_matplotlib()
    import matplotlib.backends.backend_pdf  # noqa: F401


def what_runs(parts: Experiment, *, training: bool) -> str:
    """What kernels are for, as far as others would be compiled for something else."""
    learns = parts.config.optimizer.name, parts.config.training.loss, parts.config.training.silence.value
    work = f"training ({', '.join(learns)}) and answers" if training else "evaluations"
    chip = "" if parts.substrate.ideal else ", on an emulated chip"
    taus = ", with time constants of their own" if _own_taus(parts) else ""
    return f"{work} in {parts.config.dtype.value}{chip}{taus}"


def _own_taus(parts: Experiment) -> bool:
    """Whether neurons on the run's chip differ in their time constants, for which there are kernels apart."""
    machine = parts.of_replica(0).on_chip(parts.chip_seeds[:1])
    chip = machine.chip if isinstance(machine, OnChip) else None
    return isinstance(chip, EmulatedChip) and not all(neuron.shares_taus for neuron in chip.neurons)


Rehearsal = tuple[tuple[Callable[[], object], ...], tuple[Callable[[], object], ...]]
"""What runs the kernels of an evaluation, and those of a training, on nothing much."""


def _on_the_host(parts: Experiment) -> Rehearsal:
    parts = parts.of_replica(0)
    network, dtype = parts.network, parts.config.dtype.value
    machines = dict.fromkeys([parts.network, parts.on_chip(parts.chip_seeds[:1])])  # one, if ideal
    weights = [np.ones((1, layer.n_pre, layer.n_post), dtype) for layer in network.layers]
    t_in = np.zeros((1, 1, network.layers[0].n_in), dtype)
    states: list[LayerState] = []

    def there() -> None:
        for machine in machines:
            states[:] = machine.forward(weights, network.receive(t_in))

    def train() -> None:
        data = Labelled(network.receive(t_in, sort=parts.rule.keeps_inputs), np.zeros(1, np.int64))
        next(new_trainer(parts).train(data, data, 1))

    def back() -> None:  # gradients of a chip are compared after the training
        everybody, t_out_grad = np.ones(1, np.bool_), np.zeros_like(states[-1].t_out)
        for machine in list(machines)[1:]:
            machine.backward(weights, states, t_out_grad, active=everybody, max_weight_grad=1.0)

    evaluating = (
        there,
        lambda: parts.loss(states[-1].t_out, np.zeros((1, 1), np.int64)),
        lambda: Counter(network.layers, weights, 1, [1.0])(0, 1, states),
    )
    return evaluating, (train, back)


def _on_a_device(parts: Experiment) -> Rehearsal:
    network, dtype = parts.network, parts.config.dtype.value
    t_in = np.zeros((1, 2, network.layers[0].n_in), dtype)
    data = Labelled(network.receive(t_in, sort=False), np.zeros(2, np.int64))
    weights = [np.ones((1, layer.n_pre, layer.n_post), dtype) for layer in network.layers]
    counter = Counter(network.layers, weights, 2, [1.0])

    def train() -> None:  # one sample kernel by kernel, the other as a graph
        next(new_trainer(replace(parts, rule=replace(parts.rule, batch_size=1))).train(data, data, 1))

    def answers() -> None:
        evaluate(network, weights, data, parts.loss, 2, counter)
        if not parts.substrate.ideal:  # whose kernels are others, also for each replica's own numbers
            there = [np.repeat(w, len(parts.chip_seeds), axis=0) for w in weights]
            evaluate(parts.on_chip(parts.chip_seeds), there, data, parts.loss, 2)

    return (answers,), (train,)


class StopRequest:
    """Turns Ctrl-C into a request that is met between two batches, never while a file is written.

    A second Ctrl-C stops at once.
    """

    def __init__(self, heard: Callable[[], object] = lambda: None) -> None:
        """`heard` is called when it is asked."""
        self.asked, self._heard = False, heard

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers; elsewhere the program around us handles Ctrl-C.
        self._ours = threading.current_thread() is threading.main_thread()
        if self._ours:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._heard()
