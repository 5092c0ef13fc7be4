"""The accountant: counts first, prices after; from activity to a real chip's seconds and joules."""

from gpuspike.accountant.account import account, energy_terms, fit
from gpuspike.accountant.activity import Activity, Counter, Counts
from gpuspike.accountant.anytime import anytime
from gpuspike.accountant.neurobench import neurobench
from gpuspike.accountant.prices import ALL_IN, PER_TERM, Prices, find, of_kept, read_prices

__all__ = [
    "ALL_IN",
    "PER_TERM",
    "Activity",
    "Counter",
    "Counts",
    "Prices",
    "account",
    "anytime",
    "energy_terms",
    "find",
    "fit",
    "neurobench",
    "of_kept",
    "read_prices",
]
