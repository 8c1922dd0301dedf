"""Run every comparison, or those named on the command line: ``python benchmarks/run.py gmm``."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

STEMS = sorted(
    path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "stems",
        nargs="*",
        choices=STEMS,
        default=STEMS,
        metavar="stem",
        help=f"any of: {', '.join(STEMS)}",
    )
    for stem in parser.parse_args().stems:
        importlib.import_module(f"bench_{stem}").main()
