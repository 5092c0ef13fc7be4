"""Matplotlib, which is imported at the first figure alone."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


def lazy_matplotlib() -> Any:
    """Matplotlib with its figure (and so lines, patches, tickers) and Agg, without pyplot."""
    if "matplotlib" not in sys.modules and (asked := os.environ.pop("MPLBACKEND", None)) is not None:
        # One that there is not would end the import, and is nothing to figures that have their own.
        try:
            import matplotlib

            with contextlib.suppress(ValueError):
                matplotlib.rcParams["backend"] = asked
        finally:
            os.environ["MPLBACKEND"] = asked
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.textpath

    return matplotlib
