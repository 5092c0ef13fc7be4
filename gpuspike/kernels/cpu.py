"""The CPU backend: Numba kernels on NumPy arrays, compiled once a machine and cached."""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import config as numba_config
from numpy.typing import NDArray
from platformdirs import user_cache_path

from gpuspike.kernels.per_neuron import own
from gpuspike.neuron import LIF


def _cache_folder() -> Path:
    """Where compiled kernels are kept: one folder a version of the sources.

    Numba notices a change only in the file of the kernel itself, not in what the kernel calls; a folder named
    after all the sources never serves stale code.
    """
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for source in (folder / "simd.py", *sorted(folder.glob("cpu_*.py"))):
        digest.update(source.read_bytes())
    base = Path(_given or user_cache_path("gpuspike") / "kernels")
    cache = base / digest.hexdigest()[:16]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="gpuspike-kernels-"))


_given = numba_config.CACHE_DIR  # type: ignore[attr-defined]
_cache = str(_cache_folder())
numba_config.CACHE_DIR = _cache  # type: ignore[attr-defined]
try:  # the folder is read when a kernel is declared, that is, while these modules are imported
    _forward = importlib.import_module("gpuspike.kernels.cpu_forward")
    _backward = importlib.import_module("gpuspike.kernels.cpu_backward")
    _mixed = importlib.import_module("gpuspike.kernels.cpu_mixed")
    _solve = importlib.import_module("gpuspike.kernels.cpu_solve")
finally:
    numba_config.CACHE_DIR = _given  # type: ignore[attr-defined]


def _regime(neuron: LIF) -> int:
    if neuron.tau_slow == neuron.tau_fast:
        return _solve.EQUAL
    if neuron.tau_slow == 2.0 * neuron.tau_fast:
        return _solve.DOUBLE
    return _solve.NON_LEAKY if np.isinf(neuron.tau_slow) else _solve.GENERAL


def _constants(neuron: LIF, dtype: np.dtype[Any]) -> tuple[float, ...]:
    """(tau_slow, tau_fast, their rate difference, C span, span, anchor reach, tangential slope).

    Anchors move on after 4 (float32) or 8 (float64) tau_fast: the sums grow with the distance from the
    anchor, and lose digits with it.
    """
    reach = 4.0 if dtype == np.float32 else 8.0
    span = float(neuron.span)
    tangent = 16.0 * float(np.finfo(dtype).eps)
    slow, fast = neuron.tau_slow, neuron.tau_fast
    return slow, fast, neuron.rate_difference, float(neuron.drive), span, reach, tangent


def forward(
    t_in: NDArray[Any], order: NDArray[np.int64], weights: NDArray[Any], neuron: LIF
) -> tuple[NDArray[Any], NDArray[Any]]:
    """First spike times and the membrane's slope there; see `kernels.Kernels.forward`."""
    if not neuron.uniform:
        one = own(neuron, weights.shape[0], weights.shape[2])
        weights = (weights / one.drive).astype(weights.dtype)
        if one.taus is None:
            t_out, slope = forward(t_in, order, weights, one.unit)
        else:
            t_out, slope = _mixed.forward(t_in, order, weights, one.taus)
        return t_out, (slope * one.span).astype(weights.dtype)
    return _forward.forward(
        t_in,
        order,
        weights,
        _regime(neuron),
        _constants(neuron, weights.dtype),
    )


def slopes(t_in: NDArray[Any], weights: NDArray[Any], neuron: LIF, t_out: NDArray[Any]) -> NDArray[Any]:
    """Slope of the membrane at given spike times; see `kernels.Kernels.slopes`."""
    if not neuron.uniform:
        one = own(neuron, weights.shape[0], weights.shape[2])
        weights = (weights / one.drive).astype(weights.dtype)
        if one.taus is None:
            slope = slopes(t_in, weights, one.unit, t_out)
        else:
            slope = _mixed.slopes(t_in, weights, one.taus, t_out)
        return (slope * one.span).astype(weights.dtype)
    constants = _constants(neuron, weights.dtype)
    return _backward.slopes(t_in, weights, t_out, _regime(neuron), constants)


def backward(
    t_in: NDArray[Any],
    weights: NDArray[Any],
    neuron: LIF,
    t_out: NDArray[Any],
    slope: NDArray[Any],
    t_out_grad: NDArray[Any],
    *,
    active: NDArray[np.bool_],
    max_weight_grad: float,
    need_t_in_grad: bool,
) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Gradients by the implicit function theorem; see `kernels.Kernels.backward`."""
    if not neuron.uniform:
        one = own(neuron, weights.shape[0], weights.shape[2])
        # The product with the slope is all that the capacitance is needed for.
        slope = (slope * one.capacitance).astype(weights.dtype)
        if one.taus is not None:
            return _mixed.backward(
                t_in, weights, one.taus, t_out, slope, t_out_grad, active, max_weight_grad, need_t_in_grad
            )
        neuron = one.unit
    return _backward.backward(
        t_in,
        weights,
        t_out,
        slope,
        t_out_grad,
        active,
        max_weight_grad,
        neuron.kernel_peak[1] * float(neuron.capacitance),
        need_t_in_grad,
        _regime(neuron),
        _constants(neuron, weights.dtype),
    )
