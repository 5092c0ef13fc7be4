"""What pip is told on this machine (indexes, constraints), as options of uv, which does not hear it.

    python scripts/uv_options.py

One option a line. Ends with 1 where pip is told of a proxy, or of what uv has from the environment alone.
"""

from __future__ import annotations

import ast
import subprocess
import sys

OPTIONS = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "constraint": "--constraint",
}
"""By pip's names; each takes values with spaces in between."""


def options(told: str) -> list[str]:
    """Of uv, for what `pip config list` has told.

    Raises:
        ValueError: a setting that uv cannot be told.
    """
    found: list[str] = []
    for line in told.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in ("proxy", "no-index", "trusted-host"):
            raise ValueError(f"uv cannot be told pip's {name}")
        if name in OPTIONS:
            found += [f"{OPTIONS[name]}={one}" for one in str(ast.literal_eval(value)).split()]
    # pip takes the newest of all indexes, uv of the first that has any.
    return [*found, "--index-strategy=unsafe-best-match"] if any("extra" in one for one in found) else found


def main() -> None:
    """Prints them."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    try:
        told = subprocess.run(asked, check=True, capture_output=True, text=True)
        print("\n".join(options(told.stdout)))
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"uv_options.py: {error}")


if __name__ == "__main__":
    main()
