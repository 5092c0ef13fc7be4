"""What a trained constant is: numbers that training may move anywhere, and the neurons they stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from numpy.typing import NDArray

from gpuspike.network.passes import Pulled
from gpuspike.neuron import LIF

Array = NDArray[Any]


class TrainedConstant(ABC):
    """A constant that each neuron of a layer has for itself and learns, as (n_replica, n_post) free numbers.

    A free number has no unit and begins at 0, where the neuron is as the model describes it. Training may
    move it far; the constant that it stands for must stay physical.

    Attributes:
        NEEDS_TAUS: whether its gradient needs those by the time constants, which take a pass of their own.
        DEVICE: whether it is learnt on a device too. Then its methods take arrays that are computed later, of
            free numbers, of constants, and in what is found: `kernels.cuda.lazy` says what these can.
    """

    NEEDS_TAUS: ClassVar[bool] = False
    DEVICE: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def neuron(model: LIF, free: Array) -> LIF:
        """The model's neurons with the constants that (n_replica, n_post) free numbers stand for."""

    @staticmethod
    @abstractmethod
    def gradient(free: Array, model: LIF, neuron: LIF, weights: Array, found: Pulled) -> Array:
        """Gradient of the free numbers.

        Args:
            free: (n_replica, n_post);  model: as for `neuron`.
            neuron: those whose spikes the gradient is of: on a chip, with what it makes of the constant.
            weights: (n_replica, n_pre, n_post), that these neurons got.
            found: gradients of those weights, `by_scale` and, where it NEEDS_TAUS, of the neurons' time
                constants.
        """
