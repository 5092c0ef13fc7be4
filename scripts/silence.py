"""The tables of docs/silence.md: what waking silent neurons brings, and a loss that suits the noise.

    python scripts/silence.py [--output outputs/silence] [--table docs/silence.md] [--only noise]

Trains each case that --output has no run of, and prints the tables; --table writes them into
the page, each between its markers. Three quarters of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLAIN = "replicas=10 dataset.turned=false training.max_weight_grad=0.2"
"""With the paper's limit on gradients, of samples that are not turned."""

BEST = f"experiment=yin_yang_best {PLAIN}"
FEW = f"experiment=yin_yang_delays model.delays=none {PLAIN}"
FIVE = f"experiment=yin_yang_few {PLAIN}"
NOISY = "hydra.mode=RUN training.epochs=200 training.batch_size=300"
UNAWARE = "training.match_noise=false training.silence=bumping training.bump_replaces_step=false"
LONGER = NOISY.replace("epochs=200", "epochs=800")
WAKING = "training.silence=waking training.max_silent=[0.9,0.0]"
MATCHED = f"training.match_noise=true training.waking=5 {WAKING}"

TABLES: dict[str, tuple[Sequence[str], dict[str, Sequence[str]]]] = {
    "networks": (
        ("network", "bumping", "waking", "none"),
        {
            "4-120-3": (
                BEST,
                f"{BEST} training.waking=100 {WAKING}",
                f"{BEST} training.silence=none",
            ),
            "4-30-3": (FEW, f"{FEW} training.waking=30 {WAKING}", f"{FEW} training.silence=none"),
            "4-5-3": (
                f"{FIVE} training.silence=bumping training.max_silent=[0.3,0.0]",
                FIVE,
                f"{FIVE} training.silence=none",
            ),
        },
    ),
    "noise": (
        ("distortion", "bumping, xi as it is", "matched noise, waking", "the same, 800 epochs"),
        {
            f"{key} = {value}": (
                f"experiment=robustness/{key} substrate.{key}={value} {NOISY} {UNAWARE}",
                f"experiment=robustness/{key} substrate.{key}={value} {NOISY} {MATCHED}",
                f"experiment=robustness/{key} substrate.{key}={value} {LONGER} {MATCHED}",
            )
            for key, value in (("spike_jitter", 0.1), ("spike_jitter", 0.2), ("time_grid", 0.2))
        },
    ),
}


def name_of(overrides: str) -> str:
    """A folder's name for a case."""
    short = re.sub(r"experiment=|training\.|hydra\.", "", overrides)
    return re.sub(r"[^\w.]+", "-", short).strip("-")


def run(overrides: str, output: Path) -> dict[str, Any]:
    """The summary of a case, which is trained where it has not been."""
    folder = output / name_of(overrides)
    if not (folder / "summary.json").is_file():
        program = Path(sysconfig.get_path("scripts")) / "gpuspike-train"
        subprocess.run([program, *overrides.split(), f"hydra.run.dir={folder}"], check=True)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def cell(summary: dict[str, Any]) -> str:
    """Test accuracy, mean and deviation, and the lowest of all seeds."""
    test = summary["accuracy"]["test"]
    return (
        f"{100 * test['mean']:.2f} ± {100 * test['std']:.2f}, at least {100 * min(test['per_replica']):.1f}"
    )


def table(name: str, output: Path) -> str:
    """One of the tables, in Markdown."""
    head, cases = TABLES[name]
    rows = [[row, *(cell(run(case, output)) for case in columns)] for row, columns in cases.items()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(page: str, name: str, text: str) -> str:
    """The page with a table between its markers."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = page.split(begin, 1)
    return f"{before}{begin}{text}\n{end}" + rest.split(end, 1)[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/silence"), help="folder of the runs")
    parser.add_argument("--table", type=Path, help="the page that gets the tables")
    parser.add_argument("--only", choices=sorted(TABLES), help="one of the tables")
    asked = parser.parse_args(argv)
    for name in [asked.only] if asked.only else TABLES:
        text = table(name, asked.output)
        print(f"{text}\n")
        if asked.table is not None:
            page = asked.table.read_text(encoding="utf-8")
            asked.table.write_text(written(page, name, text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
