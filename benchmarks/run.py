"""Run every comparison, or those named: ``python benchmarks/run.py gmm gmm_growth``.

``--all`` runs the long form of those that have one.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from pathlib import Path

STEMS = sorted(
    path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py")
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stems", nargs="*", metavar="stem", help=", ".join(STEMS))
    parser.add_argument("--all", action="store_true", help="the long form")
    given = parser.parse_args()
    if unknown := set(given.stems) - set(STEMS):
        parser.error(
            f"no comparison named {', '.join(sorted(unknown))}; there are {', '.join(STEMS)}"
        )
    for stem in given.stems or STEMS:
        main = importlib.import_module(f"bench_{stem}").main
        has_long_form = "everything" in inspect.signature(main).parameters
        main(everything=True) if given.all and has_long_form else main()
