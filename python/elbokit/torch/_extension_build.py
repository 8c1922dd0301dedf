"""Build the C++ extension against the torch of the Python that runs this.

A program, since torch would give what a process builds a second time another name. The
installation runs it where that torch is there already (``cmake/torch_extension.cmake``), and
`load_extension` for any other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["file_name", "main"]

_FLAGS = ["-O2", "-fvisibility=hidden"]


def file_name(sources: Path) -> str:
    """Return the name of the file that the sources in that folder and this torch make."""
    made_of = [" ".join([torch.__version__, str(torch.version.git_version), *_FLAGS]).encode()]
    made_of += [
        file.read_bytes() for file in sorted(sources.iterdir()) if file.suffix in {".cpp", ".h"}
    ]
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:12]
    name = re.sub(r"\W", "_", f"torch_{torch.__version__}_{digest}")
    return f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def _build(sources: Path, built: Path, verbose: bool) -> None:
    from torch.utils import cpp_extension

    built.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own, moved when it is whole: a build that is killed leaves nothing that
    # another would wait for or take.
    with tempfile.TemporaryDirectory(dir=built.parent) as folder, _ninja_on_path():
        module = cpp_extension.load(
            built.name.partition(".")[0],
            [str(sources / "extension.cpp")],
            extra_cflags=_FLAGS,
            build_directory=folder,
            verbose=verbose,
        )
        os.replace(module.__file__, built)


@contextmanager
def _ninja_on_path() -> Iterator[None]:
    """Let ninja be found beside this Python, whether or not its environment is activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, sysconfig.get_path("scripts")])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def main() -> None:
    """Print the name of the file, or build it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--into", type=Path, help="the folder; without it, the name is printed")
    parser.add_argument("--verbose", action="store_true", help="print what the compiler is told")
    parser.add_argument("--optional", action="store_true", help="that it fails is no error")
    given = parser.parse_args()
    name = file_name(given.sources)
    if given.into is None:
        print(name)
        return
    try:
        _build(given.sources, given.into / name, given.verbose)
    except (ImportError, OSError, RuntimeError) as error:
        print(f"elbokit goes without its C++ extension for torch: {error}", file=sys.stderr)
        if not given.optional:
            raise SystemExit(1) from None


if __name__ == "__main__":
    main()
