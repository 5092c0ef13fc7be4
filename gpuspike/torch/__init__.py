"""First spikes in PyTorch: a function with exact gradients, a layer, losses (extra `torch`)."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("torch") is None:
    raise ModuleNotFoundError("gpuspike.torch needs PyTorch: pip install 'gpuspike[torch]'", name="torch")

from gpuspike.torch.bumping import Bumping as Bumping
from gpuspike.torch.convolution import FirstSpikesConv2d as FirstSpikesConv2d
from gpuspike.torch.losses import FirstSpikeLoss as FirstSpikeLoss
from gpuspike.torch.losses import ShiftInvariant as ShiftInvariant
from gpuspike.torch.losses import TimeMSE as TimeMSE
from gpuspike.torch.losses import TTFSCrossEntropy as TTFSCrossEntropy
from gpuspike.torch.losses import decide as decide
from gpuspike.torch.module import FirstSpikes as FirstSpikes
from gpuspike.torch.networks import layers_of as layers_of
from gpuspike.torch.networks import network_of as network_of
from gpuspike.torch.spikes import first_spikes as first_spikes

__all__ = ["Bumping", "FirstSpikeLoss", "FirstSpikes", "FirstSpikesConv2d", "ShiftInvariant"]
__all__ += ["TTFSCrossEntropy", "TimeMSE", "decide", "first_spikes", "layers_of", "network_of"]
