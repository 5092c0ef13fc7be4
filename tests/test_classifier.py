"""The classifier: scikit-learn's conventions, with scikit-learn and without."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuspike as gs
from gpuspike.errors import ConfigError, GpuspikeError

Array = NDArray[Any]


def make_data(n: int = 90, seed: int = 0) -> tuple[Array, NDArray[Any]]:
    """Three clouds in a plane, with names."""
    rng = np.random.default_rng(seed)
    names = np.array(["yin", "dot", "yang"])
    labels = rng.integers(3, size=n)
    return np.array([[0.0, 5.0], [4.0, 0.0], [-4.0, -3.0]])[labels] + rng.normal(size=(n, 2)), names[labels]


def make(**change: Any) -> gs.FirstSpikeClassifier:
    given: dict[str, Any] = {
        "hidden": (20,),
        "epochs": 15,
        "batch_size": 20,
        "random_state": 0,
        "backend": "cpu",
    }
    return gs.FirstSpikeClassifier(**given | change)


def test_it_learns_and_answers_with_the_labels_that_it_was_given() -> None:
    X, y = make_data()
    classifier = make().fit(X, y)
    assert list(classifier.classes_) == ["dot", "yang", "yin"]
    assert classifier.n_features_in_ == 2
    assert classifier.score(*make_data(300, 1)) > 0.9
    assert set(classifier.predict(X)) <= set(y)
    assert classifier.history_.step == "compiled"
    assert classifier.network_.sizes == (4, 20, 3)


def test_probabilities_are_a_softmax_of_the_spike_times() -> None:
    X, y = make_data()
    classifier = make(xi=0.1).fit(X, y)
    told, t_out = classifier.predict_proba(X), classifier.spike_times(X).astype(float)
    expected = np.exp(-(t_out - t_out.min(axis=1, keepdims=True)) / 0.1)
    np.testing.assert_allclose(told, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(classifier.classes_[t_out.argmin(axis=1)], classifier.predict(X))


def test_where_no_neuron_spikes_all_classes_are_alike() -> None:
    X, y = make_data()
    classifier = make(epochs=1).fit(X, y)
    for w in classifier.network_.parameters.weights:
        w[...] = -1.0
    np.testing.assert_array_equal(classifier.predict_proba(X), np.full((90, 3), 1 / 3))
    assert set(classifier.predict(X)) == {"dot"}


def test_spike_times_may_be_given() -> None:
    rng = np.random.default_rng(0)
    t_in = rng.uniform(0.2, 2.0, (200, 3))
    labels = t_in.argmin(axis=1)
    t_in[t_in > 1.9] = np.inf
    classifier = make(encoding="times", epochs=30).fit(t_in, labels)
    assert classifier.score(t_in, labels) > 0.85
    assert classifier.network_.sizes == (3, 20, 3)


def test_options_reach_the_network() -> None:
    X, y = make_data()
    neuron = gs.LIF(tau_mem=np.inf, tau_syn=0.1)
    classifier = make(mirror=False, bias_time=None, neuron=neuron, hidden=(), dtype="float64").fit(X, y)
    net = classifier.network_
    assert (net.sizes, net.neuron, net.dtype.name) == ((2, 3), neuron, "float64")
    assert [layer.bias_times for layer in net.architecture.layers] == [()]


def test_the_same_seed_gives_the_same_classifier() -> None:
    X, y = make_data()
    one, other = make(epochs=2).fit(X, y), make(epochs=2).fit(X, y)
    np.testing.assert_array_equal(one.spike_times(X), other.spike_times(X))
    legacy = make(epochs=2, random_state=np.random.RandomState(3)).fit(X, y)
    assert legacy.network_.seeds[0] == int(np.random.RandomState(3).randint(2**31))
    free = [make(epochs=1, random_state=None).fit(X, y).network_.seeds for _ in range(2)]
    assert free[0] != free[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoding": "rate"}, "there is no encoding 'rate'; there are latency, times"),
        ({"random_state": -1}, "random_state must be a whole number, 0 or more, got -1"),
        ({"random_state": "one"}, "random_state must be a whole number"),
        ({"epochs": 0}, "epochs must be a whole number, 1 or more"),
        ({"t_early": 3.0}, "t_early must lie before t_late"),
        ({"hidden": (0,)}, "a layer's size must be a whole number"),
        ({"xi": -1.0}, "xi must be positive"),
    ],
)
def test_options_that_cannot_be_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(GpuspikeError, match=told):
        make(**change).fit(*make_data())


# ---- with scikit-learn


def test_it_passes_scikit_learn_s_own_checks() -> None:
    """All of them: no failure is expected. Two it may skip, for want of pandas and of an array API."""
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(make(hidden=(30,), epochs=40), on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert failed == {}
    assert len(results) > 40


def test_it_can_be_cloned_and_searched_over_in_a_pipeline() -> None:
    base = pytest.importorskip("sklearn.base")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = make_data()
    twin = base.clone(make(hidden=(7,), xi=0.2).fit(X, y))
    assert twin.get_params()["hidden"] == (7,)
    assert not hasattr(twin, "network_")
    pipeline = make_pipeline(StandardScaler(), make())
    grid = {"firstspikeclassifier__hidden": [(3,), (20,)], "firstspikeclassifier__epochs": [1, 15]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_params_["firstspikeclassifier__epochs"] == 15
    assert search.best_score_ > 0.85


def test_a_classifier_that_is_not_fitted_says_so() -> None:
    exceptions = pytest.importorskip("sklearn.exceptions")
    with pytest.raises(exceptions.NotFittedError, match="not fitted yet: call fit first"):
        make().predict(np.ones((2, 2)))


# ---- without

WITHOUT = """
import sys
sys.modules["sklearn"] = None
import numpy as np
import gpuspike as gs
from gpuspike.errors import GpuspikeError
rng = np.random.default_rng(0)
y = rng.integers(2, size=60)
X = rng.normal(size=(60, 3)) + 3.0 * y[:, None]
classifier = gs.FirstSpikeClassifier(hidden=(10,), epochs=15, batch_size=20, random_state=0, backend="cpu")
def refused(call, told):
    try:
        call()
    except GpuspikeError as error:
        assert told in str(error), error
    else:
        raise AssertionError(told)
refused(lambda: classifier.predict(X), "not fitted yet")
classifier.set_params(epochs=20)
assert classifier.get_params()["epochs"] == 20
refused(lambda: classifier.set_params(epoch=20), "did you mean epochs?")
assert classifier.fit(X, list("ab"[k] for k in y)).score(X, list("ab"[k] for k in y)) > 0.9
assert "epochs=20" in repr(classifier) and classifier.n_features_in_ == 3
refused(lambda: classifier.fit(X, None), "requires y")
refused(lambda: classifier.fit(X, y[1:]), "one label for each of the 60 samples")
refused(lambda: classifier.fit(X[0], y), "X must be (n_samples, n_features)")
refused(lambda: classifier.fit(X * np.nan, y), "X must hold finite numbers")
refused(lambda: classifier.fit([["a"] * 3] * 60, y), "X must be numbers")
refused(lambda: classifier.predict(X[:, :2]), "X must have 3 features, as in fit, got 2")
classifier.set_params(encoding="times")
refused(lambda: classifier.fit(X * np.nan, y), "X must hold spike times")
"""


def test_it_works_where_scikit_learn_is_not_installed() -> None:
    answer = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises((ValueError, ConfigError), match="epoch"):
        make().set_params(epoch=3)
