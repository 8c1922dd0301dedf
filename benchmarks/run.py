"""Run every comparison, or those named on the command line: ``python benchmarks/run.py gmm``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

STEMS = sorted(
    path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")
)

if __name__ == "__main__":
    wanted = sys.argv[1:] or STEMS
    if unknown := set(wanted) - set(STEMS):
        sys.exit(f"no comparison named {', '.join(sorted(unknown))}; there are {', '.join(STEMS)}")
    for stem in wanted:
        importlib.import_module(f"bench_{stem}").main()
