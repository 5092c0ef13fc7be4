"""Crossings of many neurons with time constants of their own, vectorised (Numba).

The notation is that of `gpuspike.kernels.cpu.own_taus`.
"""

from __future__ import annotations

import math

from gpuspike.kernels.constants import EQUAL, GENERAL
from gpuspike.kernels.cpu.compiler import njit
from gpuspike.kernels.cpu.own_taus_events import fraction_series
from gpuspike.kernels.cpu.solve import exp_vectorised, solve

STEPS = (2, 1, 2)
"""For all neurons at once, and for all that need more; who needs more than that goes on alone."""

SCRATCH = 12
"""Numbers that a neuron needs while it is solved for."""


@njit(error_model="numpy")
def crossings(n, v, p, room, slow, fast, rate, delay, steep, enough, scratch, place):
    """Delays from events to crossings, as `solve.solve` finds them, and the slopes there.

    In x = E(s), from its left, a step of Newton's method, or to second order where the third derivative of R allows
    it, goes to the left of the crossing; so does log(1 + z) > 2 z/(2 + z), which takes x back to s without a
    logarithm.

    Args:
        n: how many neurons there are; arrays hold at least as many.
        v, p: potential and sum at the event, over C (threshold - leak).
        room: time that is left; where it is finite, the potential is known to reach the threshold.
        slow, fast, rate: 1/tau_slow, 1/tau_fast, and their difference.
        delay, steep: out; inf where the threshold is never reached.
        enough: what a step may leave, in tau_fast.
        scratch, place: (SCRATCH, n) and (n,) int64, space to work in.
    """
    v_now, p_now, slow_now, fast_now, rate_now, s = (
        scratch[0],
        scratch[1],
        scratch[2],
        scratch[3],
        scratch[4],
        scratch[5],
    )
    rising, need, risen, step, rest, inverse = (
        scratch[6],
        scratch[7],
        scratch[8],
        scratch[9],
        scratch[10],
        scratch[11],
    )
    for m in range(n):
        v_now[m], p_now[m], place[m] = v[m], p[m], m
        slow_now[m], fast_now[m], rate_now[m] = slow[m], fast[m], rate[m]
    for m in range(n):
        inverse[m] = 1.0 / rate[m]
    for m in range(n):
        s[m] = 0.0
    live = n
    for part in range(len(STEPS)):
        for number in range(STEPS[part]):
            if part == 0 and number == 0:
                for m in range(live):
                    need[m] = 1.0 - v_now[m]
                for m in range(live):
                    rising[m] = p_now[m] - fast_now[m]
            else:
                for m in range(live):
                    rising[m] = exp_vectorised(-slow_now[m] * s[m])
                for m in range(live):
                    need[m] = exp_vectorised(-rate_now[m] * s[m])
                for m in range(live):
                    y = rate_now[m] * s[m]
                    risen[m] = s[m] * fraction_series(y) if y < 0.25 else (1.0 - need[m]) * inverse[m]
                for m in range(live):
                    need[m] = 1.0 - rising[m] * (need[m] * v_now[m] + risen[m] * p_now[m])
                for m in range(live):
                    rising[m] = rising[m] * p_now[m] - fast_now[m]
            for m in range(live):
                bend = slow_now[m] * fast_now[m] if 2.0 * slow_now[m] >= fast_now[m] else 0.0
                discriminant = rising[m] * rising[m] - 2.0 * bend * need[m]
                ahead = rising[m] + math.sqrt(max(discriminant, 0.0))
                further = 4.0 * need[m] / (2.0 * ahead + 2.0 * rate_now[m] * need[m])
                possible = (rising[m] > 0.0) & (discriminant >= 0.0)
                step[m] = (further if possible else math.inf) if need[m] > 0.0 else 0.0
            for m in range(live):
                # From -1, which stands for no crossing, there is no way back.
                s[m] = s[m] + step[m] if (s[m] >= 0.0) & (step[m] < math.inf) else -1.0
        for m in range(live):
            a, b = slow_now[m], fast_now[m]
            bend = a * b if 2.0 * a >= b else 0.0
            z = b * step[m]
            flat = rising[m] * rising[m] - 2.0 * bend * need[m]
            third = z * z * b * (z + (0.0 if bend > 0.0 else a / b))
            # What taking x back to s leaves, too: it is all there is where the threshold is next to nothing.
            w = rate_now[m] * rate_now[m] * step[m] * step[m] * z - 12.0 * enough
            rest[m] = max(third * third - (enough * enough) * flat, w)
        kept = 0
        for m in range(live):
            j, after, further = place[m], s[m], step[m]
            if after < 0.0:
                delay[j] = math.inf
            elif further == 0.0 or rest[m] <= 0.0:
                a = slow_now[m] * further
                delay[j] = after
                steep[j] = (rising[m] + fast_now[m]) * (1.0 - a * (1.0 - 0.5 * a)) - fast_now[m]
            else:
                s[kept], place[kept], v_now[kept], p_now[kept] = after, j, v_now[m], p_now[m]
                slow_now[kept], fast_now[kept], rate_now[kept] = slow_now[m], fast_now[m], rate_now[m]
                inverse[kept] = inverse[m]
                kept += 1
        live = kept
        if live == 0:
            break
    for m in range(live):
        delay[place[m]] = -1.0
    for m in range(n):
        if delay[m] < 0.0 or (delay[m] == math.inf and room[m] < math.inf):
            mode = EQUAL if rate[m] == 0.0 else GENERAL
            delay[m] = solve(v[m], p[m], room[m], mode, 1.0 / slow[m], 1.0 / fast[m], rate[m])
            steep[m] = (
                p[m] * math.exp(-min(delay[m], room[m]) * slow[m]) - fast[m]
                if min(delay[m], room[m]) < math.inf
                else 0.0
            )
        delay[m] = min(delay[m], room[m])
