"""Spike patterns with jitter: which of a few fixed patterns over many inputs was it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuspike.datasets.samples import Samples
from gpuspike.datasets.splits import Dataset, Split, check_sizes
from gpuspike.errors import ValueRangeError, together

WINDOW = 2.0
"""Of a pattern, in tau_syn."""


@dataclass(frozen=True)
class Patterns(Samples):
    """Random patterns of single spikes, one a class; a sample is a pattern whose spikes moved or got lost.

    Each input of a pattern spikes once, at a time uniform in [0, 2] tau_syn. A rate would tell nothing: all
    classes have as many spikes, and only their times differ.

    Attributes:
        n_inputs: of a pattern.
        n_patterns: classes.
        jitter: standard deviation of a spike's time from its pattern's, in tau_syn; cut at 0.
        lost: share of spikes that are not there.
        pattern_seed: other patterns come of another one; the samples' own draws come of it, too.

    Source: random latencies as patterns, R. Guetig and H. Sompolinsky, Nature Neuroscience 9, 420 (2006).
    """

    n_train: int = 2000
    n_validation: int = 500
    n_test: int = 500
    n_inputs: int = 40
    n_patterns: int = 5
    jitter: float = 0.2
    lost: float = 0.1
    pattern_seed: int = 0

    @property
    def image_side(self) -> int:
        """See `Samples.image_side`."""
        return 0

    def load(self) -> Dataset:
        """The samples, spike times in tau_syn, inf = lost.

        Raises:
            ValueRangeError: a value that no pattern can have.
        """
        check_sizes(self.n_train, self.n_validation, self.n_test)
        least = (("n_inputs", 1), ("n_patterns", 2), ("pattern_seed", 0))
        values: list[tuple[str, float, bool, str]] = [
            (name, getattr(self, name), getattr(self, name) >= low, f"at least {low}") for name, low in least
        ]
        values += [
            ("jitter", self.jitter, 0.0 <= self.jitter < np.inf, "finite and 0 or more"),
            ("lost", self.lost, 0.0 <= self.lost < 1.0, "at least 0 and below 1"),
        ]
        wrong = [f"{name} must be {words}, got {got}" for name, got, right, words in values if not right]
        if wrong:
            raise together(map(ValueRangeError, wrong))
        own, *others = np.random.SeedSequence(self.pattern_seed).spawn(4)
        patterns = np.random.default_rng(own).uniform(0.0, WINDOW, (self.n_patterns, self.n_inputs))
        sizes = (self.n_train, self.n_validation, self.n_test)
        train, validation, test = (
            self._split(patterns, n, seed) for n, seed in zip(sizes, others, strict=True)
        )
        names = tuple(f"pattern {number}" for number in range(self.n_patterns))
        return Dataset("patterns", train, validation, test, names, spike_times=True)

    def _split(self, patterns: NDArray[np.float64], n: int, seed: np.random.SeedSequence) -> Split:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, self.n_patterns, n)
        times = patterns[labels] + self.jitter * rng.standard_normal((n, self.n_inputs))
        times = np.where(rng.random(times.shape) < self.lost, np.inf, np.maximum(times, 0.0))
        return Split(times, labels)
