"""Counts the spikes of a batch in a pass over its spike times (Numba)."""

from __future__ import annotations

import math

from gpuspike.kernels.cache import njit


@njit(nogil=True, error_model="numpy")
def earliest(t_out, t_decision):
    """Each sample's first output spike, (n_replica, n_batch); inf where all neurons are silent."""
    for r in range(t_out.shape[0]):
        for b in range(t_out.shape[1]):
            first = t_out[r, b, 0]
            for i in range(1, t_out.shape[2]):
                first = min(first, t_out[r, b, i])
            t_decision[r, b] = first


@njit(nogil=True, error_model="numpy")
def count(times, t_decision, trials, totals, first, stride, steps_per_unit, course):
    """Adds up each neuron's spikes until the end of the trial, and until the decision if that is earlier.

    A counter a neuron, not a sample: only then does the inner loop become vector instructions.

    Args:
        times: (n_replica or 1, n_batch, n_neuron).
        t_decision: (n_replica, n_batch).
        trials: (n_trial,) ends, in the type of the times.
        totals: (2, n_replica, n_trial, n_neuron) int32, added to: spikes until the end, until the decision.
        first: number of the batch's first sample in its split;  stride: every so manieth sample also counts
            for the course.
        steps_per_unit: steps of the course in a unit of time, in the type of the times.
        course: (2, n_replica, n_step, n_neuron) int32, added to: all spikes by the step in which they fall,
            and those not later than the decision (the others fall into the last). Step k holds the times up
            to k/steps_per_unit, step 0 all up to 0, the last one the rest.
    """
    last = course.shape[2] - 1
    for r in range(t_decision.shape[0]):
        shared = r if times.shape[0] > 1 else 0
        for b in range(t_decision.shape[1]):
            decision = t_decision[r, b]
            for k in range(len(trials)):
                end = trials[k]
                stop = min(end, decision)
                for i in range(times.shape[2]):
                    totals[0, r, k, i] += times[shared, b, i] <= end
                    totals[1, r, k, i] += times[shared, b, i] <= stop
            if (first + b) % stride == 0:
                for i in range(times.shape[2]):
                    t = times[shared, b, i]
                    position = t * steps_per_unit
                    step = max(math.ceil(position), 0) if position < last else last
                    course[0, r, step, i] += 1
                    # Selected, not branched to: nobody can predict it.
                    course[1, r, step if t <= decision else last, i] += 1
