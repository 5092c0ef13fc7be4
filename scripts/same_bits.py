"""Whether a change of the code has changed one bit of what training gives.

    python scripts/same_bits.py --write before.json                 the code of this environment
    python scripts/same_bits.py --against before.json               again, and compared
    python scripts/same_bits.py --command OTHER/bin/gpuspike-train  the code of another environment

Each case is an experiment of conf/ trained for two epochs by the command that users have, with one thread and
with two; what is compared are hashes of all arrays of its checkpoint: weights, the optimiser's moments, the
bumping's memory, the chips. Hashes hold for one machine, Python and NumPy: write them with the code from
before a change, on the machine that then compares. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CHIP = ("substrate.gradient=nominal", "substrate.gradient=exact", "substrate.gradient=ideal")

CASES: dict[str, tuple[str, ...]] = {
    **{name: (f"experiment={name}",) for name in ("yin_yang", "yin_yang_best", "mnist", "mnist_best")},
    **{
        f"{name}, {gradient.split('=')[1]}": (f"experiment={name}", gradient)
        for name in ("mnist16_bss2", "yin_yang_bss2")
        for gradient in CHIP
    },
    "yin_yang, sgd and squared errors": (
        "experiment=yin_yang", "optimizer=sgd", "training.loss=time_mse", "replicas=3",
    ),
    "yin_yang, time grid": ("experiment=yin_yang", "substrate.time_grid=0.05", "replicas=2"),
    "yin_yang, spreads of tau": ("experiment=yin_yang", "substrate.tau_syn_std=0.1", "dataset.n_train=600"),
    "yin_yang, a new chip each step": (
        "experiment=yin_yang_bss2", "substrate.new_chip=step", "dataset.n_train=2000",
    ),
}  # fmt: skip
THREADS = (1, 2)


def hashes(command: str, overrides: tuple[str, ...], threads: int) -> dict[str, str]:
    """By name, the hash of each array in the checkpoint of a run of two epochs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        given = [*overrides, "backend=cpu", "training.epochs=2", f"hydra.run.dir={out}"]
        environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [command, *given], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{command} {' '.join(given)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        with np.load(out / "checkpoint.npz") as archive:
            return {
                name: hashlib.sha256(archive[name].tobytes()).hexdigest()[:16]
                for name in archive.files
                if name != "header"
            }


def main() -> int:
    """Runs the cases and tells what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", default=str(Path(sys.executable).with_name("gpuspike-train")))
    parser.add_argument("--case", default="", help="only cases whose names hold this")
    parser.add_argument("--write", type=Path, help="file for the hashes")
    parser.add_argument("--against", type=Path, help="file of hashes to compare with")
    given = parser.parse_args()
    before = json.loads(given.against.read_text()) if given.against else None
    found: dict[str, dict[str, str]] = {}
    differing = 0
    for name, overrides in CASES.items():
        if given.case not in name:
            continue
        for threads in THREADS:
            key = f"{name}; threads {threads}"
            found[key] = hashes(given.command, overrides, threads)
            told = f"{len(found[key])} arrays"
            if before is not None:
                known = before.get(key, {})
                other = [array for array, digest in known.items() if found[key].get(array) != digest]
                differing += bool(other or not known)
                told = f"DIFFERS in {', '.join(other) or 'everything'}" if other or not known else "same"
            print(f"{key}: {told}", flush=True)
    if given.write:
        given.write.write_text(json.dumps(found, indent=1) + "\n")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
