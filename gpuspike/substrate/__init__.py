"""The emulated chip: what it does to weights, neurons and spikes, and how a network is trained on it."""

from gpuspike.substrate.chip import Chip, EmulatedChip
from gpuspike.substrate.files import FileChip
from gpuspike.substrate.loop import OnChip, gradient_angles
from gpuspike.substrate.spec import Substrate

__all__ = ["Chip", "EmulatedChip", "FileChip", "OnChip", "Substrate", "gradient_angles"]
