"""What was built, and what it runs on."""

from __future__ import annotations

from elbokit import _core
from elbokit._cuda_library import cuda_status

__all__ = ["show_versions"]


def _installed(distribution: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _extension() -> str:
    import re
    from pathlib import Path

    version = _installed("torch")
    folder = Path(_core.__file__).parent / "torch" / "extension"
    name = re.sub(r"\W", "_", f"torch_{version}_")  # as `_extension_build.file_name` begins
    if any(file.name.startswith(name) for file in folder.glob("torch_*.so")):
        return f"built with elbokit, for torch {version}"
    return "not built with elbokit for this torch (elbokit.torch.load_extension() builds it)"


def show_versions() -> None:
    """Print the build, the CPU level, threads, CUDA and the versions of the neighbours.

    Also what ``python -m elbokit`` prints. Imports neither torch nor scikit-learn.
    """
    import platform

    built, usable = _core.built_cpu_levels(), _core.cpu_levels()
    lines = {
        "elbokit": _core.version,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "compiler": f"{_core.compiler} ({_core.build_type})",
        "CPU levels": f"built {', '.join(built)}; usable here {', '.join(usable)}",
        "CPU level": f"{_core.cpu_level()} (override: ELBOKIT_CPU_LEVEL)",
        "threads": f"{_core.get_num_threads()} (override: ELBOKIT_NUM_THREADS)",
        "CUDA": cuda_status(),
        "numpy": _installed("numpy"),
        "scikit-learn": _installed("scikit-learn"),
        "torch": _installed("torch"),
        "extension": _extension(),
    }
    for name, value in lines.items():
        print(f"{name:<13} {value}")
