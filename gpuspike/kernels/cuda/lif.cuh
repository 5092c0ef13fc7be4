// Scalar mathematics of the first spike of one LIF neuron: no indexing, no memory, host and device alike.
//
// Notation and derivation: docs/mathematics.md. With d = 1/tau_fast - 1/tau_slow, times counted from an anchor,
// E(t) = (exp(d t) - 1)/d (which is t where d = 0) and a_i = exp(t_i/tau_slow),
//
//     p = sum w_i a_i,   q = sum w_i a_i E(t_i),   C (u(T) - leak) = exp(-T/tau_fast) (E(T) p - q)
//
// so that in x = E(T) the line x p - q meets the convex curve R(x) = C (threshold - leak) exp(T(x)/tau_fast).
// Source: Goeltz, Kriener et al., Nature Machine Intelligence 3, 823 (2021), for the model and its closed forms.
//
// What is computed in float64 although the inputs are float32, and what that costs: the coefficients of every event
// and the factors of every gradient, O(batch (n_pre + n_post)) exponentials, because float32 would lose e^16 ulps in
// them; and the sums and the solution of crossings flatter than FLAT, because an error of the sums is divided by the
// slope. Pair by pair in float64, and so slow on a device with few such units, are only slopes at given times (not
// those at the crossing), windows longer than one anchor serves, neurons with time constants of their own (MIXED), and the look at
// gradients beyond max_weight_grad. All else that is done for each pair (event, neuron) stays in float32.

namespace gpuspike {

// Ratio tau_slow/tau_fast: 1, 2, infinite, anything else; MIXED: each neuron has time constants of its own.
enum Regime { EQUAL, DOUBLE, NON_LEAKY, GENERAL, MIXED };

// Slope of a crossing, in (threshold - leak)/tau_fast, below which float32 sums are not enough.
inline constexpr double FLAT = 0.02;

// Exponents are clamped here: past exp(60) nothing that a further event adds is seen, and float32 holds the number.
inline constexpr double FAR = 60.0;

template <typename Real>
GPUSPIKE_INLINE Real infinity() {
    return Real(__longlong_as_double(0x7ff0000000000000LL));
}

template <typename Real>
GPUSPIKE_INLINE Real smaller(Real a, Real b) {
    return a < b ? a : b;
}

// The time constants, any unit; slow may be infinite, rate is d.
template <typename Real>
struct Membrane {
    Real slow, fast, rate;
};

// The membrane of two time constants in either order, without loss of digits where they nearly agree.
GPUSPIKE_INLINE Membrane<double> membrane(double tau_mem, double tau_syn) {
    const double slow = tau_mem > tau_syn ? tau_mem : tau_syn, fast = smaller(tau_mem, tau_syn);
    return {slow, fast, slow < infinity<double>() ? (slow - fast) / slow / fast : 1.0 / fast};
}

// Whether d is 0: known when compiling, except where every neuron has its own.
template <int REGIME, typename Real>
GPUSPIKE_INLINE bool equal(const Membrane<Real>& m) {
    return REGIME == EQUAL || (REGIME == MIXED && m.rate == Real(0));
}

// E(t)
template <int REGIME, typename Real>
GPUSPIKE_INLINE Real rise(Real t, const Membrane<Real>& m) {
    if (equal<REGIME>(m)) return t;
    return expm1(smaller(m.rate * t, Real(FAR))) / m.rate;
}

// --- the sums and the tangent test ----------------------------------------------------------------------------

// One input event for all neurons of a sample: what it adds to the sums, and the tangent of R at it, taken at the
// next event. A crossing between the two is possible only where ahead * p - q >= bound, or high * bound where a trial
// has lifted threshold - leak by that factor.
template <typename Real>
struct alignas(16) Event {
    Real growth, moment;  // a and a E(t)
    Real ahead, bound;
};

// What moving the anchor does to the sums.
template <typename Real>
struct Carry {
    Real keep, fade, shift;
};

template <typename Real>
struct Sums {
    Real p, q;

    GPUSPIKE_INLINE void add(Real weight, const Event<Real>& event) {
        p = fma(weight, event.growth, p);
        q = fma(weight, event.moment, q);
    }
    GPUSPIKE_INLINE void move(const Carry<Real>& by) {
        q = fma(by.fade, q, by.shift * p);
        p *= by.keep;
    }
    GPUSPIKE_INLINE bool may_cross(const Event<Real>& event, Real high) const {
        return fma(event.ahead, p, -q) >= high * event.bound;
    }
};

// The tangent test's side of an event.
//   since, next: times of the event and of the next one from the anchor, inf after the last one;  drive: C (threshold - leak).
//   tied: the next event is at the same time. Of simultaneous events only the last one closes a causal set.
template <typename Real, int REGIME>
GPUSPIKE_INLINE Event<Real> event(double since, double next, bool tied, double drive, const Membrane<double>& m) {
    const double growth = exp(smaller(since / m.slow, FAR)), position = rise<REGIME>(since, m);
    const double ahead = rise<REGIME>(smaller(next, 1e3 * m.fast), m);
    const double bound = drive * growth * (1.0 + m.rate * position + (ahead - position) / m.fast);
    return {Real(growth), Real(growth * position), Real(ahead), tied ? infinity<Real>() : Real(bound)};
}

// The anchor moves on by `gap`.
template <typename Real, int REGIME>
GPUSPIKE_INLINE Carry<Real> carry(double gap, const Membrane<double>& m) {
    const double keep = exp(-gap / m.slow);
    const double back = equal<REGIME>(m) ? -gap : expm1(-m.rate * gap) / m.rate;
    return {Real(keep), Real(exp(-gap / m.fast)), Real(keep * back)};
}

// --- solving for one crossing ---------------------------------------------------------------------------------

// A neuron at an event, as `solve` takes it: v = (u - leak)/(threshold - leak), and p anchored there, in C (threshold
// - leak).
template <typename Real>
struct Start {
    Real v, p;
};

template <typename Real>
GPUSPIKE_INLINE Start<Real> start(const Sums<Real>& s, Real growth, Real position, Real drive, const Membrane<Real>& m) {
    const Real scale = Real(1) / (growth * drive);
    return {product(fma(position, s.p, -s.q), scale / fma(m.rate, position, Real(1))), product(s.p, scale)};
}

// Delay from the event (inf: none before the next one), and du/dt there in units of threshold - leak.
template <typename Real>
struct Crossing {
    Real delay, slope;
};

// Solves for the crossing from an event on, if that lies within `room`.
//
// Two closed forms (a quadratic, a logarithm); else Newton's method on a concave difference, which started from its
// left never overshoots. Taking R to second order makes it cubic, and keeps it left of the crossing where R''' >= 0.
// For tau_mem = tau_syn this is Lambert's W next to its branch point -1/e as well: the potential and its slope are
// what is iterated on, so no argument of W is ever formed and no digit of it lost.
template <typename Real, int REGIME>
GPUSPIKE_INLINE Crossing<Real> solve(const Start<Real>& from, Real room, const Membrane<Real>& m) {
    const Crossing<Real> none = {infinity<Real>(), Real(0)};
    const Real v = from.v, p = from.p, rate_fast = Real(1) / m.fast, missing = Real(1) - from.v;
    const Real pull = p - rate_fast;
    if (v >= Real(1)) return {Real(0), pull};  // crossed within rounding before the event
    if (!(pull > Real(0))) return none;
    if constexpr (REGIME == NON_LEAKY) {
        const Real s = m.fast * log1p(missing / (pull * m.fast));
        if (s > room) return none;
        return {s, pull};
    } else if constexpr (REGIME == DOUBLE) {
        const Real b = product(Real(2) * pull, m.fast), discriminant = fma(b, b, Real(-4) * missing);
        if (discriminant < Real(0)) return none;
        const Real z = Real(2) * missing / (b + sqrt(discriminant)), s = Real(2) * m.fast * log1p(z);
        if (s > room) return none;
        return {s, p / (Real(1) + z) - rate_fast};
    } else {
        const Real ulp = sizeof(Real) == 4 ? Real(6e-8) : Real(1e-16);
        const Real bend = m.slow > Real(2) * m.fast ? Real(0) : rate_fast / m.slow;
        Real x = Real(0), s = Real(0), curve = Real(1), growth = Real(1);
        for (int step_number = 0; step_number < 200; ++step_number) {
            const Real gap = fma(x, p, v) - curve;
            if (gap >= Real(0)) break;
            const Real slope = p - curve / (growth * m.fast);
            if (!(slope > Real(0))) return none;
            const Real discriminant = fma(slope, slope, Real(2) * gap * bend * curve / (growth * growth));
            if (discriminant < Real(0)) return none;
            const Real step = Real(-2) * gap / (slope + sqrt(discriminant));
            x += step;
            const Real turn = product(m.rate, x);
            s = equal<REGIME>(m) ? x : log1p(turn) / m.rate;
            if (s > room) return none;
            if (!(step > ulp * x)) break;
            curve = exp(s / m.fast);
            growth = Real(1) + turn;
        }
        return {s, p * exp(-s / m.slow) - rate_fast};
    }
}

// --- time constants of one's own ------------------------------------------------------------------------------

// A neuron whose time constants nobody shares has no use for coefficients common to a sample: its anchor is the
// event it is at, and moves on with every event. Three exponentials a pair, in float64 for both types of input, since
// the rounding of every event is carried on to the next.
struct Step {
    double keep, fade, shift, turn;

    GPUSPIKE_INLINE Step(double gap, const Membrane<double>& m) {
        const double fall = expm1(-m.rate * gap);
        keep = exp(-gap / m.slow);
        fade = exp(-gap / m.fast);
        turn = 1.0 + fall;
        shift = m.rate == 0.0 ? gap : -fall / m.rate;
    }
    // The tangent test, multiplied by exp(-d gap) so that nothing overflows.
    GPUSPIKE_INLINE bool may_cross(const Start<double>& s, const Membrane<double>& m) const {
        return s.v * turn + shift * (s.p - 1.0 / m.fast) >= turn;
    }
    GPUSPIKE_INLINE Start<double> after(const Start<double>& s) const {
        return {fade * s.v + keep * shift * s.p, keep * s.p};
    }
};

// --- gradients ------------------------------------------------------------------------------------------------

// C k(delay), the kernel for delay > 0.
template <int REGIME>
GPUSPIKE_INLINE double kernel(double delay, const Membrane<double>& m) {
    const double rises = equal<REGIME>(m) ? delay : -expm1(-m.rate * delay) / m.rate;
    return exp(-delay / m.slow) * rises;
}

// C k'(delay)
template <int REGIME>
GPUSPIKE_INLINE double kernel_slope(double delay, const Membrane<double>& m) {
    return exp(-delay / m.fast) - kernel<REGIME>(delay, m) / m.slow;
}

// Delay of the kernel's maximum; the kernel rises before it and falls after it.
template <int REGIME>
GPUSPIKE_INLINE double peak_delay(const Membrane<double>& m) {
    if (equal<REGIME>(m)) return m.slow;
    if (!(m.slow < infinity<double>())) return m.slow;
    return log1p((m.slow - m.fast) / m.fast) / m.rate;
}

// Factors of the rank-2 products that belong to a spike at t after the anchor:
//   scale k = -(p1 a_i + p2 a_i E(t_i)),   scale k' = q1 a_i + q2 a_i E(t_i)
struct Factors {
    double p1, p2, q1, q2;
};

template <int REGIME>
GPUSPIKE_INLINE Factors factors(double t, double scale, const Membrane<double>& m) {
    const double x = rise<REGIME>(t, m), decay = exp(-t / m.fast) * scale;
    return {-decay * x, decay, decay * (1.0 - x / m.slow), decay / m.fast};
}

// u'(T) tau_fast/(threshold - leak) from the sums over the causal set; 0 where it is not above `tangent`.
//   pull: sum w_i exp(-(T - t_i)/tau_slow),  potential: C (u(T) - leak), drive: C (threshold - leak).
GPUSPIKE_INLINE double steepness(double pull, double potential, double drive, double tangent, const Membrane<double>& m) {
    const double rising = (pull * m.fast - potential) / drive;
    return rising > tangent ? rising : 0.0;
}

// Likewise where the membrane of this state, continued to all times, meets the threshold from below.
template <int REGIME>
GPUSPIKE_INLINE double steepness_at_crossing(const Start<double>& now, double tangent, const Membrane<double>& m) {
    // Where x = -v/p the potential is 0, left of every crossing. Without such a time the membrane comes from above.
    const double back = now.v / now.p, shrinks = m.rate * back;
    if (!(now.p > 0.0 && shrinks < 1.0)) return 0.0;
    const double age = equal<REGIME>(m) ? back : -log1p(-shrinks) / m.rate;
    const Start<double> origin = {0.0, now.p * exp(age / m.slow)};
    const double rising = solve<double, REGIME>(origin, infinity<double>(), m).slope * m.fast;
    return rising > tangent ? rising : 0.0;
}

}  // namespace gpuspike
