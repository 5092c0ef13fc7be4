"""The accountant: counts first, prices after; from activity to a real chip's seconds and joules."""

from gpuspike.accountant.account import account, energy_terms, fit
from gpuspike.accountant.activity import Activity, Counter, Counts
from gpuspike.accountant.anytime import anytime
from gpuspike.accountant.neurobench import neurobench
from gpuspike.accountant.prices import ALL_IN, PER_TERM, Prices, answer_keys, find, of_kept, read_prices

__all__ = [
    "ALL_IN",
    "PER_TERM",
    "Activity",
    "Counter",
    "Counts",
    "Prices",
    "account",
    "answer_keys",
    "anytime",
    "energy_terms",
    "find",
    "fit",
    "neurobench",
    "of_kept",
    "read_prices",
]
