"""Values of the configuration that are one of a few names."""

from __future__ import annotations

import enum


class BackendName(enum.Enum):
    """What computes."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"
    reference = "reference"


class Dtype(enum.Enum):
    """Type of times and weights."""

    float32 = "float32"
    float64 = "float64"


class ScheduleName(enum.Enum):
    """Courses of the learning rate."""

    constant = "constant"
    step = "step"
    cosine = "cosine"


class GradientName(enum.Enum):
    """What a network on a chip learns from."""

    nominal = "nominal"
    exact = "exact"
    ideal = "ideal"


class SilenceName(enum.Enum):
    """What wakes silent neurons."""

    bumping = "bumping"
    waking = "waking"
    none = "none"


class NewChip(enum.Enum):
    """When a training gets a new piece of silicon."""

    run = "run"
    step = "step"


class TrackerName(enum.Enum):
    """Where a run can be watched, beside its own folder."""

    none = "none"
    wandb = "wandb"
    mlflow = "mlflow"
    tensorboard = "tensorboard"


class TrackingMode(enum.Enum):
    """Whether Weights & Biases sends what it has, or keeps it in the run's folder."""

    online = "online"
    offline = "offline"


USUAL_PRICES = "brainscales2"
"""What a chip is priced as that names no prices of its own."""
