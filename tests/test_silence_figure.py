"""Who is silent, on which classes and since when."""

from __future__ import annotations

import numpy as np
import pytest

from gpuspike.report.figures.silence import in_words, silence, silent_since


def test_silent_since_goes_back_to_the_last_spike() -> None:
    lines = [[[0, 1]], [[0, 1, 2]], [[1, 2]], [[1, 2, 3]]]
    records = [{"epoch": k + 1, "never_spiking": [line, [[]]]} for k, line in enumerate(lines)]
    assert silent_since(records) == [{1: 1, 2: 2, 3: 4}, {}]
    assert silent_since([{"epoch": 1}]) == []
    assert silent_since([]) == []


@pytest.mark.parametrize(
    ("never", "words"),
    [
        ({}, "each of 120 spikes for some sample"),
        ({4: 7}, "1 of 120 never spike, since epoch 7"),
        ({4: 7, 2: 3}, "2 of 120 never spike, since epochs 3 to 7"),
    ],
)
def test_words(never: dict[int, int], words: str) -> None:
    assert in_words(never, 120) == words


@pytest.mark.parametrize(("n_class", "sizes"), [(1, (1,)), (3, (120,)), (30, (5, 33)), (10, (4,) * 7)])
def test_any_shape_is_drawn(n_class: int, sizes: tuple[int, ...]) -> None:
    shares = [np.random.default_rng(n).random((n_class, n)) for n in sizes]
    names = [f"class_{k}$" for k in range(n_class)]
    figure = silence(shares, names, [{0: 3}])
    figure.canvas.draw()
    assert "1 of " in figure.axes[0].get_title(loc="left")
    assert len(figure.axes) == min(len(sizes), 5) + 1  # and the bar of shades


def test_a_network_without_hidden_layers_has_an_empty_figure() -> None:
    silence([], ["a", "b"], []).canvas.draw()


def test_a_class_without_samples_is_coloured_and_told() -> None:
    share = np.array([[0.0, 1.0], [np.nan, np.nan]])
    (axes, _) = silence([share], ("a", "b"), []).axes
    assert axes.get_xlabel().endswith("; coloured: no sample")
    (axes, _) = silence([share[:1]], ("a",), []).axes
    assert axes.get_xlabel().endswith("most silent")
