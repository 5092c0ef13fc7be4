"""The errors a user may meet. Each message is one line: what was expected, and what was got."""

from __future__ import annotations


class GpuspikeError(Exception):
    """Base of every error that gpuspike raises on purpose."""


class ConfigError(GpuspikeError, ValueError):
    """A configuration value, key or choice that cannot be used."""


class PriceError(ConfigError):
    """A term of an energy account that is charged and has no price."""


class ShapeError(GpuspikeError, ValueError):
    """An array whose shape does not fit."""


class DtypeError(GpuspikeError, TypeError):
    """An array of the wrong type: dtype, or NumPy mixed with CuPy."""


class ValueRangeError(GpuspikeError, ValueError):
    """A number outside of what the physics or the algorithm allows, NaN included."""


class BackendError(GpuspikeError, RuntimeError):
    """A backend or device that was asked for and is not there."""


class DataError(GpuspikeError, RuntimeError):
    """A data set or a file that is missing, damaged or of an unknown format."""


class OutputError(GpuspikeError, OSError):
    """A folder or file that cannot be written."""
