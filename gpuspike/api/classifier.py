"""A classifier with scikit-learn's conventions, on its base classes where it is installed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuspike.api.fit import fit
from gpuspike.api.network import Network
from gpuspike.datasets.encoding import latency
from gpuspike.errors import DtypeError, ShapeError, ValueRangeError
from gpuspike.kinds import whole
from gpuspike.neuron import LIF
from gpuspike.registry import one_of
from gpuspike.training.fit import Recipe

Array = NDArray[Any]

ENCODINGS = ("latency", "times")

BATCH = 50
"""Samples a step, unless others are asked for."""


class _Estimator:
    """What of scikit-learn's protocol a classifier needs, where scikit-learn is not installed."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor, by name."""
        del deep  # none of them is an estimator
        return {name: getattr(self, name) for name in _arguments(type(self))}

    def set_params(self, **params: Any) -> Any:
        """Changes arguments of the constructor."""
        for name, value in params.items():
            one_of("parameter", name, _arguments(type(self)))
            setattr(self, name, value)
        return self

    def score(self, X: Any, y: Any) -> float:
        """Accuracy."""
        return float(np.mean(np.asarray(self.predict(X)) == np.asarray(y)))  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({given})"


def _arguments(kind: type) -> list[str]:
    return [name for name in inspect.signature(kind).parameters]


if TYPE_CHECKING:
    _Bases = _Estimator
else:
    try:
        from sklearn.base import BaseEstimator, ClassifierMixin
    except ImportError:
        _Bases = _Estimator
    else:

        class _Bases(ClassifierMixin, BaseEstimator):
            """scikit-learn's own."""


class FirstSpikeClassifier(_Bases):
    """A network of spiking neurons that answers with the class whose neuron spikes first.

    Features become spike times: each is scaled to [0, 1] by its range in the training samples (what lies
    beyond is cut off), and spikes the later the larger it is. Where the samples are spike times already,
    encoding="times" passes them on; inf is no spike.

    Args:
        hidden: neurons of each hidden layer; a number: of the only one.
        epochs, batch_size, learning_rate: of the training, with Adam; a rate of None suits the neuron.
        xi: temperature of the softmax over spike times, in training and in `predict_proba` [tau_syn].
        encoding: "latency" or "times".
        mirror: each feature is also given as 1 - x, so that every value has an early spike; "latency" alone.
        t_early, t_late: when the smallest and the largest value spike [tau_syn]; "latency" alone.
        bias_time: of one bias spike on each layer [tau_syn]; None: none.
        neuron: a gs.LIF; None: one with all constants 1.
        dtype, backend: as for `gs.Network`.
        random_state: a seed, a generator of NumPy's old kind, or None for a new network each time.

    Attributes:
        classes_: labels that were seen, sorted;  n_features_in_: features of a sample.
        network_: the trained `gs.Network`;  history_: its training.
        low_, span_: each feature's smallest value and range; "latency" alone.
    """

    def __init__(
        self,
        hidden: Sequence[int] | int = (100,),
        *,
        epochs: int = 100,
        batch_size: int = BATCH,
        learning_rate: float | None = None,
        xi: float = 0.05,
        encoding: str = "latency",
        mirror: bool = True,
        t_early: float = 0.15,
        t_late: float = 2.0,
        bias_time: float | None = 0.9,
        neuron: LIF | None = None,
        dtype: str = "float32",
        backend: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.xi = xi
        self.encoding = encoding
        self.mirror = mirror
        self.t_early = t_early
        self.t_late = t_late
        self.bias_time = bias_time
        self.neuron = neuron
        self.dtype = dtype
        self.backend = backend
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> FirstSpikeClassifier:
        """Trains a new network.

        Args:
            X: (n_samples, n_features) numbers, or spike times.
            y: (n_samples,) labels of any sortable kind.

        Raises:
            ValueError, TypeError: what was expected and what was got.
        """
        one_of("encoding", self.encoding, ENCODINGS)
        if y is None:
            raise ValueRangeError("a classifier requires y to be passed, but the target y is None")
        X, y = self._checked(X, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if self.encoding == "latency":
            self.low_ = X.min(axis=0)
            self.span_ = np.ptp(X, axis=0)
        t_in = self._encoded(X)
        neuron = self.neuron or LIF()
        hidden = [int(self.hidden)] if isinstance(self.hidden, Integral) else list(self.hidden)  # type: ignore[arg-type]
        bias = [] if self.bias_time is None else [self.bias_time * float(neuron.tau_syn)]
        self.network_ = Network(
            [t_in.shape[1], *hidden, len(self.classes_)],
            [bias] * (len(hidden) + 1),
            seed=_seed(self.random_state),
            neuron=neuron,
            dtype=self.dtype,
            backend=self.backend,
        )
        # Nobody is told of few samples who has not asked for more.
        batch_size = min(BATCH, len(t_in)) if self.batch_size == BATCH else self.batch_size
        recipe = Recipe(epochs=self.epochs, batch_size=batch_size, learning_rate=self.learning_rate).changed(
            xi=self.xi
        )
        self.history_ = fit(self.network_, t_in, labels.astype(np.int64).ravel(), recipe=recipe)
        return self

    def predict(self, X: Any) -> Array:
        """(n_samples,) labels of the classes whose neurons spike first; the first one where none does.

        Raises:
            ValueError: what was expected and what was got.
        """
        times = self.spike_times(X)
        return self.classes_[times.argmin(axis=1)]

    def predict_proba(self, X: Any) -> Array:
        """(n_samples, n_classes) probabilities: the softmax of -t/(xi tau_syn), even where no neuron spikes.

        Raises:
            ValueError: what was expected and what was got.
        """
        t_out = self.spike_times(X).astype(np.float64)
        first = t_out.min(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            late = np.where(np.isinf(first), 0.0, (t_out - first) / (self.xi * self.network_.tau_syn))
        odds = np.exp(-late)
        return odds / odds.sum(axis=1, keepdims=True)

    def spike_times(self, X: Any) -> Array:
        """(n_samples, n_classes) first spike times of the output neurons, inf = no spike.

        Raises:
            ValueError: what was expected and what was got.
        """
        self._fitted()
        X, _ = self._checked(X)
        return self.network_(self._encoded(X))

    def _encoded(self, X: Array) -> Array:
        if self.encoding == "times":
            return X
        span = np.where(self.span_ > 0.0, self.span_, 1.0)
        values = np.clip((X - self.low_) / span, 0.0, 1.0)
        if self.mirror:
            values = np.concatenate([values, 1.0 - values], axis=1)
        unit = float((self.neuron or LIF()).tau_syn)
        return latency(values, self.t_early * unit, self.t_late * unit)

    def _fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise _not_fitted()(f"this {type(self).__name__} is not fitted yet: call fit first")

    def _checked(self, X: Any, y: Any = None) -> tuple[Array, Any]:
        """Samples as (n_samples, n_features) float64, and labels; scikit-learn checks where it is there."""
        finite = self.encoding != "times"
        try:
            from sklearn.utils.multiclass import check_classification_targets
            from sklearn.utils.validation import validate_data
        except ImportError:
            return _plain(self, X, y, finite)
        check: Any = validate_data
        given = {"dtype": np.float64, "ensure_all_finite": finite}
        if y is None:
            return check(self, X, reset=False, **given), None
        X, y = check(self, X, y, **given)
        check_classification_targets(y)
        return X, y


def _plain(self: Any, X: Any, y: Any, finite: bool) -> tuple[Array, Any]:
    """The checks where scikit-learn is not installed."""
    try:
        X = np.asarray(X, np.float64)
    except (TypeError, ValueError):
        raise DtypeError("X must be numbers, got something else") from None
    if X.ndim != 2 or 0 in X.shape:
        raise ShapeError(f"X must be (n_samples, n_features), one or more of each, got {X.shape}")
    if np.isnan(X).any() or (finite and np.isinf(X).any()):
        raise ValueRangeError(
            f"X must hold {'finite numbers' if finite else 'spike times'}, got NaN or infinity"
        )
    if y is None:
        if X.shape[1] != self.n_features_in_:
            raise ShapeError(f"X must have {self.n_features_in_} features, as in fit, got {X.shape[1]}")
        return X, None
    y = np.asarray(y)
    if y.shape != X.shape[:1]:
        raise ShapeError(f"y must be one label for each of the {len(X)} samples, got shape {y.shape}")
    self.n_features_in_ = X.shape[1]
    return X, y


def _seed(random_state: Any) -> int:
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    return whole("random_state", random_state, 0)


def _not_fitted() -> type[Exception]:
    try:
        from sklearn.exceptions import NotFittedError
    except ImportError:
        return ValueRangeError
    return NotFittedError
