"""Steps of a ReLU network in PyTorch, which `benchmark_gpu_training.py` puts beside those of a device.

The network has the layers of a spiking one, dense or convolutional: what it has of pooling takes the largest
answer where the spiking network takes the earliest spike. All ways of making a step do the same work: the
batch is gathered on the device from data that lie there, by a permutation that lies there, then loss,
backward and Adam. Products are as PyTorch comes: float32, TF32 in its convolutions.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

WARM = 20
"""Steps before the clock runs: compilers, and the libraries' choice of an algorithm, are done by then."""

BATCHES = 10
"""That the data hold."""


def torch_module() -> Any | None:
    """PyTorch, None where there is none or it knows no CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")
    return torch if torch.cuda.is_available() else None


def network(torch: Any, layers: Sequence[Any]) -> Any:
    """A ReLU network of the sizes of spiking layers, see `gpuspike.network.layers.Layer`."""
    nn, parts, flat = torch.nn, [], False
    for layer in layers:
        maps = layer.convolution
        if maps is None:
            parts += [] if flat else [nn.Flatten()]
            flat = True
            parts += [nn.Linear(layer.n_in, layer.n_out), nn.ReLU()]
            continue
        parts += [nn.Conv2d(maps.shape[2], maps.n_maps, maps.kernel, maps.stride, maps.padding), nn.ReLU()]
        parts += [nn.MaxPool2d(maps.pool)] if maps.pool > 1 else []
    return nn.Sequential(*parts[:-1])  # the last layer's answers are the classes' logits


class Steps:
    """A network, its optimiser and its data on a device, and the work of a step.

    Attributes:
        network: as above.
    """

    def __init__(self, torch: Any, layers: Sequence[Any], batch: int, device: str = "cuda") -> None:
        self._torch, self._batch, first = torch, batch, layers[0]
        self.network = network(torch, layers).to(device)
        # A graph needs an Adam that counts on the device; it has one kernel for all weights.
        fast = {"capturable": True, "fused": True} if device == "cuda" else {}
        self._optimizer = torch.optim.Adam(self.network.parameters(), **fast)
        maps = first.convolution
        shape = (first.n_in,) if maps is None else (maps.shape[2], *maps.shape[:2])
        self._inputs = torch.rand(BATCHES * batch, *shape, device=device)
        self._labels = torch.randint(layers[-1].n_out, (BATCHES * batch,), device=device)
        self._order = torch.randperm(BATCHES * batch, device=device)
        self._samples = self._order[:batch].clone()  # a graph reads it at one address
        self._loss_of = torch.nn.CrossEntropyLoss()
        self.forward: Callable[[Any, Any], Any] = self._forward

    def _forward(self, inputs: Any, labels: Any) -> Any:
        return self._loss_of(self.network(inputs), labels)

    def choose(self, number: int) -> None:
        """The next batch; before the work, which may be a graph."""
        first = number % BATCHES * self._batch
        self._samples.copy_(self._order[first : first + self._batch])

    def work(self) -> None:
        """All else of a step."""
        self._optimizer.zero_grad()
        self.forward(self._inputs[self._samples], self._labels[self._samples]).backward()
        self._optimizer.step()


# --- ways of making a step ----------------------------------------------------------


def eager(torch: Any, steps: Steps) -> Callable[[], None]:
    """Kernel by kernel."""
    del torch
    return steps.work


COMPILER = "inductor"


def compiled(torch: Any, steps: Steps) -> Callable[[], None]:
    """Network and loss compiled, forward and backward; the optimiser is one kernel already."""
    torch.compiler.reset()  # another case's network counts against what may be compiled anew
    steps.forward = torch.compile(steps.forward, dynamic=False, backend=COMPILER)
    return steps.work


def captured(torch: Any, steps: Steps) -> Callable[[], None]:
    """Everything as one CUDA graph."""
    cuda = torch.cuda
    aside = cuda.Stream()
    aside.wait_stream(cuda.current_stream())
    with cuda.stream(aside):  # as PyTorch wants it: what is first done once must not be captured
        for _ in range(3):
            steps.work()
    cuda.current_stream().wait_stream(aside)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        steps.work()
    return graph.replay


WAYS = {"PyTorch us": eager, "compiled us": compiled, "graph us": captured}
"""By column."""


def timed(torch: Any, steps: Steps, work: Callable[[], None], n_steps: int, repeats: int) -> float:
    """Seconds of a step on the device: events around `n_steps` queued ones, the median of the repeats."""

    def queue(count: int) -> None:
        for number in range(count):
            steps.choose(number)
            work()

    queue(WARM)
    torch.cuda.synchronize()
    found = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        queue(n_steps)
        end.record()
        end.synchronize()
        found.append(1e-3 * start.elapsed_time(end) / n_steps)
    return statistics.median(found)


_told: set[tuple[str, str]] = set()
_known: dict[Any, dict[str, float | None]] = {}


def _tell(column: str, problem: Exception) -> None:
    """What failed, once; of a compiler's page, the first line."""
    text = f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"
    if (column, text) not in _told:
        _told.add((column, text))
        print(f'no "{column}": {text}', file=sys.stderr)


def columns(layers: Sequence[Any], batch: int, n_steps: int, repeats: int) -> dict[str, float | None]:
    """Microseconds of a step by column; None without PyTorch for this device, and where a way fails.

    Of networks and batches that a run has met before it is what was found then: compilers take their time.
    """
    shape = batch, *((layer.n_in, layer.n_out, layer.convolution) for layer in layers)
    if shape not in _known:
        _known[shape] = _columns(layers, batch, n_steps, repeats)
    return _known[shape]


def _columns(layers: Sequence[Any], batch: int, n_steps: int, repeats: int) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys(WAYS)
    try:
        torch = torch_module()
    except (ImportError, OSError) as problem:  # one that is installed, but not for this machine
        _tell("PyTorch us", problem)
        torch = None
    if torch is None:
        return found
    for column, way in WAYS.items():
        try:
            steps = Steps(torch, layers, batch)
            found[column] = 1e6 * timed(torch, steps, way(torch, steps), n_steps, repeats)
        except Exception as problem:  # of a compiler, a capture or memory: the others are still measured
            _tell(column, problem)
        steps = None
        with suppress(Exception):
            torch.cuda.empty_cache()  # the next case's memory is counted
    return found
