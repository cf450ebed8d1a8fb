"""Pictures of a report, for the docs: one pair, with a type that the reference lacks, in a wide window and in that of a phone.

Needs Chromium: ``apt-get install chromium``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import transanno
from benchmarks._data import LABEL, ROOT, load_pair, read_pairs

PAIR, LEFT_OUT = "P2_zheng_pbmc3k", "B cell"
FIGURES = ROOT / "docs" / "_static"
# Width and height of the window, in pixels.
SIZES = {"report_wide.png": (1280, 3400), "report_narrow.png": (390, 2640)}
N_COLORS = 128


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder for the pictures (default: docs/_static)")
    parser.add_argument("--report", type=Path, default=Path("report.html"), help="page to write (default: report.html)")
    args = parser.parse_args(argv)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("No Chromium was found, which draws the page: apt-get install chromium.")
    reference, query = load_pair(read_pairs()[PAIR])
    reference = reference[reference.obs[LABEL] != LEFT_OUT].copy()
    model = transanno.tl.annotate(query, reference, labels_key=LABEL, fdr=0.1)
    transanno.tl.report(query, model, save=args.report, title="Blood of a donor, by a reference without B cells")
    for name, (width, height) in SIZES.items():
        picture = args.out / name
        window = [f"--window-size={width},{height}", f"--screenshot={picture}", args.report.resolve().as_uri()]
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--hide-scrollbars", *window], check=True, stderr=subprocess.DEVNULL
        )
        Image.open(picture).convert("RGB").quantize(N_COLORS).save(picture, optimize=True)
        print(f"Wrote {picture}, {picture.stat().st_size / 1024:.0f} KB")
    return 0
