"""The table of docs/augmentation.md: what changes of the images bring to mnist_best.

    python scripts/ablation.py [--output outputs/ablation] [--table docs/augmentation.md]

Trains each case that --output has no run of, one seed and 50 epochs each, and prints the table; --table
writes it into the page, between its markers. Ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

STILL = "training.max_shift=0"
FLAT = "training.elastic=0"
STIFF = "training.max_turn=0 training.max_zoom=0 training.max_shear=0"
BASE = "experiment=mnist_best replicas=1 training.epochs=50"

CASES = {
    "images as they are": f"{STILL} {FLAT} {STIFF}",
    "shifted": f"{FLAT} {STIFF}",
    "shifted, turned, zoomed, sheared": FLAT,
    "shifted, bent": STIFF,
    "all of it": "",
}
"""By what a reader is told, what differs from mnist_best."""


def folder_of(case: str, output: Path) -> Path:
    """Where a case's run is."""
    return output / case.replace(",", "").replace(" ", "_")


def trained(case: str, output: Path) -> dict[str, float]:
    """Accuracies of a case, which is trained where it has not been."""
    folder = folder_of(case, output)
    if not (folder / "summary.json").is_file():
        program = Path(sysconfig.get_path("scripts")) / "gpuspike-train"
        overrides = [*BASE.split(), *CASES[case].split(), f"hydra.run.dir={folder}"]
        subprocess.run([program, *overrides], check=True)
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["accuracy"]
    return {split: found[split]["mean"] for split in ("train", "validation", "test")}


def table(output: Path) -> str:
    """The table, in Markdown."""
    lines = [["784-350-10, 50 epochs, one seed", "train %", "validation %", "test %"], ["---"] * 4]
    for case in CASES:
        lines.append([case, *(f"{100 * accuracy:.2f}" for accuracy in trained(case, output).values())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/ablation"), help="folder of the runs")
    parser.add_argument("--table", type=Path, help="the page that gets the table")
    asked = parser.parse_args(argv)
    text = table(asked.output)
    print(text)
    if asked.table is not None:
        page = asked.table.read_text(encoding="utf-8")
        begin, end = "<!-- ablation -->\n", "<!-- end of ablation -->"
        before, rest = page.split(begin, 1)
        page = f"{before}{begin}{text}\n{end}" + rest.split(end, 1)[1]
        asked.table.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
