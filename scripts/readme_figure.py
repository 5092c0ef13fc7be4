"""Makes the figure of README.md from a run's figures: side by side, in few colours.

gpuspike-train experiment=yin_yang_best hydra.run.dir=outputs/readme
python scripts/readme_figure.py outputs/readme docs/yin_yang.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

FIGURES = ("plane", "spike_raster", "anytime")
HEIGHT, COLOURS, MOST_BYTES = 420, 128, 100_000
"""Pixels, and what a file in the repository may have."""


def main() -> int:
    """Joins the figures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("figure", type=Path, help="PNG to write")
    given = parser.parse_args()
    try:
        images = [Image.open(given.run / "figures" / f"{name}.png").convert("RGB") for name in FIGURES]
    except OSError as error:
        print(f"readme_figure: error: cannot read the run's figures: {error}", file=sys.stderr)
        return 2
    images = [image.resize((round(image.width * HEIGHT / image.height), HEIGHT)) for image in images]
    whole = Image.new("RGB", (sum(image.width for image in images) + 20 * (len(images) - 1), HEIGHT), "white")
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + 20
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(given.figure, optimize=True)
    size = given.figure.stat().st_size
    print(f"{given.figure}: {whole.width} x {whole.height} pixels, {size / 1000:.0f} kB")
    return 0 if size < MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
