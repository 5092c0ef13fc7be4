"""What a chip does to a network: one distortion a file, with its values and checks, and a line here."""

from typing import Any

from gpuspike.errors import ConfigError
from gpuspike.registry import Registry, extends
from gpuspike.substrate.distortions.base import (
    CHIP,
    HOOKS,
    NO_CHANCE,
    SPIKE,
    TRIAL,
    Distortion,
    share,
    shift,
    spread,
    value,
)


def _check(name: str, part: Any) -> None:
    """Refuses what `extends` does, and a distortion that would do nothing: a hook misspelt, for example."""
    extends("distortion", Distortion)(name, part)
    scopes = (CHIP, TRIAL, SPIKE, NO_CHANCE)
    if getattr(part, "scope", None) not in scopes:
        raise ConfigError(f"the distortion {name} must have a scope: CHIP, TRIAL, SPIKE or NO_CHANCE")
    if not any(getattr(part, hook) is not getattr(Distortion, hook) for hook in HOOKS):
        raise ConfigError(f"the distortion {name} must have one of the hooks {', '.join(HOOKS)}, got none")


_HERE = "gpuspike.substrate.distortions"

DISTORTIONS: Registry[type[Distortion]] = Registry(
    "distortion",
    {
        "weights": f"{_HERE}.weights:Weights",
        "write_error": f"{_HERE}.write_error:WriteError",
        "gain": f"{_HERE}.gain:Gain",
        "dead_synapses": f"{_HERE}.dead_synapses:DeadSynapses",
        "dead_neurons": f"{_HERE}.dead_neurons:DeadNeurons",
        "stuck_synapses": f"{_HERE}.stuck_synapses:StuckSynapses",
        "threshold": f"{_HERE}.threshold:Threshold",
        "time_constants": f"{_HERE}.time_constants:TimeConstants",
        "delays": f"{_HERE}.delays:DelayRange",
        "delay_spread": f"{_HERE}.delay_spread:DelaySpread",
        "input_jitter": f"{_HERE}.input_jitter:InputJitter",
        "lost_inputs": f"{_HERE}.lost_inputs:LostInputs",
        "threshold_noise": f"{_HERE}.threshold_noise:ThresholdNoise",
        "spike_jitter": f"{_HERE}.spike_jitter:SpikeJitter",
        "lost_spikes": f"{_HERE}.lost_spikes:LostSpikes",
        "time_grid": f"{_HERE}.time_grid:TimeGrid",
        "trial_end": f"{_HERE}.trial_end:TrialEnd",
    },
    _check,
)
"""By name, in the order in which the chip asks them; see `base.Distortion`."""

__all__ = [
    "CHIP",
    "DISTORTIONS",
    "NO_CHANCE",
    "SPIKE",
    "TRIAL",
    "Distortion",
    "share",
    "shift",
    "spread",
    "value",
]
