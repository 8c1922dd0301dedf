"""The extension module with the CUDA kernels as it was built: no driver or GPU is needed for it."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elbokit import _core, _cuda_library

ROOT = Path(__file__).parent.parent
MODULE = importlib.util.find_spec("elbokit._cuda")
built = pytest.mark.skipif(MODULE is None, reason="built without CUDA")
no_driver = pytest.mark.skipif(bool(glob.glob("/dev/nvidia[0-9]*")), reason="there is a driver")


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def module_path() -> str:
    assert MODULE is not None
    assert MODULE.origin is not None
    return MODULE.origin


def test_built_where_nvcc_is_found() -> None:
    assert (MODULE is None) == bool(_core.without_cuda)
    if shutil.which("nvcc") and _core.without_cuda != "ELBOKIT_CUDA was OFF":
        assert MODULE is not None, _core.without_cuda


@built
def test_imports_without_a_driver() -> None:
    assert output(
        sys.executable, "-c", "from elbokit import _cuda; print(_cuda.version, _cuda.architectures)"
    ).startswith(_core.version + " ")


@built
@pytest.mark.skipif(not shutil.which("readelf"), reason="no readelf")
def test_links_neither_the_driver_nor_torch() -> None:
    dynamic = output("readelf", "-dW", module_path())
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert needed
    usual = ("libstdc++.", "libgcc_s.", "libc.", "libm.", "libpthread.", "libdl.", "librt.", "ld-")
    assert [name for name in needed if not name.startswith(usual)] == []


@built
@pytest.mark.skipif(not shutil.which("nm"), reason="no nm")
def test_exports_its_init_function_alone() -> None:
    """Others, such as those of the static CUDA run-time, would meet torch's."""
    symbols = output("nm", "-D", "--defined-only", module_path()).splitlines()
    assert [line.split()[-1] for line in symbols] == ["PyInit__cuda"]


def test_is_not_imported_before_it_is_needed() -> None:
    pytest.importorskip("torch")
    code = "import elbokit, elbokit.torch, sys; print('elbokit._cuda' in sys.modules)"
    assert output(sys.executable, "-c", code) == "False\n"


@built
@no_driver
def test_says_that_there_is_no_driver() -> None:
    with pytest.raises(RuntimeError, match=r"looking for a GPU: no NVIDIA driver was found"):
        _cuda_library.cuda_kernels().describe_device(0)
    (line,) = (li for li in output(sys.executable, "-m", "elbokit").splitlines() if "CUDA" in li)
    assert re.fullmatch(r"CUDA +kernels for \w[\w, -]*; no NVIDIA driver was found .*", line)


def test_says_what_a_build_without_kernels_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "elbokit._cuda", None)
    monkeypatch.delattr("elbokit._cuda", raising=False)
    monkeypatch.setattr(_core, "without_cuda", "no CUDA compiler (nvcc) was found")
    _cuda_library.cuda_kernels.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"\(nvcc\) was found\. Install .*ELBOKIT_CUDA=ON"):
            _cuda_library.cuda_kernels()
        status = _cuda_library.cuda_status()
        assert status == "not built: no CUDA compiler (nvcc) was found; CPU only"
    finally:
        _cuda_library.cuda_kernels.cache_clear()


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")
@pytest.mark.parametrize(
    ("nvcc", "problem"),
    [
        ("echo 'Cuda compilation tools, release 11.5, V11.5.119'", "of CUDA 11.5, and 12.0 is"),
        ("exit 1", "is no working nvcc"),
        (None, r"no CUDA compiler \(nvcc\) was found"),
    ],
)
def test_finding_nvcc(tmp_path: Path, nvcc: str | None, problem: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUD")}
    if nvcc:
        fake = tmp_path / "nvcc"
        fake.write_text(f"#!/bin/sh\n{nvcc}\n")
        fake.chmod(0o755)
        environment["CUDACXX"] = str(fake)
    else:
        environment["PATH"] = ""
    script = tmp_path / "look.cmake"
    script.write_text(
        f'include("{ROOT}/cmake/find_nvcc.cmake")\nset(CMAKE_SYSTEM_PREFIX_PATH "")\n'
        'elbokit_find_nvcc(found problem)\nmessage("${found}: ${problem}")\n'
    )
    cmake = shutil.which("cmake")
    assert cmake
    said = subprocess.run(
        [cmake, "-P", str(script)], env=environment, capture_output=True, text=True, check=True
    ).stderr
    assert re.match(f"FALSE: .*{problem}", said)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_the_fast_loss_moves_16_bytes_at_once(tmp_path: Path) -> None:
    """Elements of 4 bytes; `tools/cuda_report.py` reads the other kernels' SASS."""
    ptx = tmp_path / "bernoulli.ptx"
    flags = [f"-I{ROOT / folder}" for folder in ("cuda", "cpp", "cpp/include")]
    source = str(ROOT / "cuda" / "kernels" / "bernoulli.cu")
    output("nvcc", "-std=c++17", "-arch=sm_90", "-ptx", *flags, source, "-o", str(ptx))
    entries = re.split(r"^\.(?:visible |weak )?entry ", ptx.read_text(), flags=re.MULTILINE)[1:]
    fast = [text for text in entries if re.match(r"\S*PlainRowsIfff", text)]
    assert fast
    for text in fast:
        assert re.search(r"ld\.global(\.nc)?\.v4", text)
        assert re.search(r"st\.global\.v4", text)
