"""Exact, vectorised simulation and training of spiking networks that code with first spike times."""

from gpuspike.kernels import first_spikes as first_spikes
from gpuspike.kernels import first_spikes_vjp as first_spikes_vjp
from gpuspike.neuron import LIF as LIF
from gpuspike.neuron import NO_SPIKE as NO_SPIKE

__all__ = ["LIF", "NO_SPIKE", "first_spikes", "first_spikes_vjp"]
