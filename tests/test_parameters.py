"""What a network learns: order and names of its arrays, and what a file must hold."""

from __future__ import annotations

import numpy as np
import pytest

from gpuspike.errors import DataError
from gpuspike.network.layers import Layer
from gpuspike.network.parameters import Parameters
from gpuspike.neuron import LIF

LAYERS = [Layer(3, 5, (0.9,), LIF()), Layer(5, 2, (), LIF())]


def make() -> Parameters:
    return Parameters.of_weights([np.ones((2, 4, 5)), np.full((2, 5, 2), 2.0)])


def test_arrays_have_the_names_that_checkpoints_have() -> None:
    parameters = make()
    assert list(parameters.arrays()) == ["weights_0", "weights_1"]
    assert parameters.arrays()["weights_1"] is parameters.weights[1] is parameters[1].weights
    assert repr(parameters) == "Parameters(weights_0 (2, 4, 5), weights_1 (2, 5, 2))"


def test_map_and_slices_leave_the_original_alone() -> None:
    parameters = make()
    doubled = parameters.map(lambda array: 2.0 * array)
    assert [w.max() for w in doubled.weights] == [2.0, 4.0]
    assert [w.max() for w in parameters.weights] == [1.0, 2.0]
    assert len(parameters[1:]) == 1
    assert parameters[1:].weights[0] is parameters.weights[1]


def test_arrays_of_a_file_become_parameters_again() -> None:
    arrays = make().arrays()
    again = Parameters.from_arrays(arrays | {"other": np.ones(1)}, LAYERS, 2, "float64", "net.npz")
    assert all(again.arrays()[name] is array for name, array in arrays.items())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights_1": np.ones((2, 5, 3))}, r"\(2, 5, 2\), got \(2, 5, 3\)"),
        ({"weights_1": np.ones((2, 5, 2), np.float32)}, "float64, got float32$"),
        ({"weights_1": None}, r"\(2, 5, 2\), got none"),
    ],
)
def test_a_file_with_other_arrays_is_refused(change: dict[str, np.ndarray | None], told: str) -> None:
    arrays = {name: a for name, a in (make().arrays() | change).items() if a is not None}
    with pytest.raises(DataError, match=rf"net.npz: weights_1 must be {told}"):
        Parameters.from_arrays(arrays, LAYERS, 2, "float64", "net.npz")
