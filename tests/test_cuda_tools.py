"""The tools around the CUDA kernels, as far as they run without a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import elbokit
from elbokit.torch._cuda import _gmm_kernels as kernels

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN1a6finishIfEEvi' for 'sm_90'
ptxas info    : Function properties for _ZN1a6finishIfEEvi
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8 bytes smem
ptxas info    : Compiling entry function '_ZN1a6finishIdEEvi' for 'sm_90'
ptxas info    : Function properties for _ZN1a6finishIdEEvi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers
"""
SASS = """
.text._ZN1a6finishIfEEvi:
        /*0300*/                   LDG.E.128 R20, desc[UR6][R30.64] ;
        /*0310*/              @!P0 STG.E.64 desc[UR6][R4.64], R2 ;
        /*0320*/                   LDL R1, [R2] ;
.text._ZN1a6finishIdEEvi:
        /*0300*/               @P1 LDG.E.128.CONSTANT R20, desc[UR6][R30.64] ;
"""


def test_cuda_report() -> None:
    import cuda_report

    kernels = cuda_report.parse_ptxas(PTXAS, "finish.cu")
    assert [(k.registers, k.shared, k.frame, k.spilled) for k in kernels.values()] == [
        (40, 8, 8, 4),
        (12, 0, 0, 0),
    ]
    for name, instructions in cuda_report.parse_sass(SASS).items():
        kernels[name].instructions = instructions
    single, double = kernels.values()
    counts = {name: single.count(p) for name, p in cuda_report.SHOWN.items()}
    assert counts["16-byte loads"] == counts["stores"] == counts["local"] == 1
    assert counts["16-byte stores"] == counts["matrix"] == 0
    assert double.count(cuda_report.SHOWN["16-byte loads"]) == 1
    assert cuda_report.faults(double, "sm_90") == []
    assert re.search("finish.cu: .* stack frame of 8", cuda_report.faults(single, "sm_90")[0])
    single.name = "bernoulli_kernel<float, PlainRows<float, float, float, float, 32> >"
    assert len(cuda_report.faults(single, "sm_90")) == 2  # the 16-byte stores are missing too
    assert "| 40 | 8 | 8 | 4 | 1 |" in cuda_report.report({"sm_90": [single]}, "13.0", True)


def test_readable_names() -> None:
    import cuda_report

    long = "void elbokit::cuda::(anonymous namespace)::finish<float, f<(int)3> >(float const*)"
    assert cuda_report.readable(long) == "finish<float, f<(int)3> >"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_errors_of_the_losses(dtype: str) -> None:
    import bench_gpu_losses as bench

    given = bench.inputs(131, 33, 5, bench.DTYPES[dtype], "cpu")
    found = bench.errors(bench.fused, given)
    bench.check(found, dtype)
    with pytest.raises(AssertionError, match=f"loss of {dtype} is off"):
        bench.check(bench.errors(lambda *x: 1.1 * bench.fused(*x), given), dtype)


@pytest.mark.parametrize(
    ("kind", "d", "batch"), [("diag", 5, 1), ("full", 5, 1), ("full", 2, 1), ("full", 2, 4)]
)
def test_em_in_torch(kind: str, d: int, batch: int) -> None:
    import bench_gpu_em as bench

    case = bench.Case(517, d, 3, kind, 0.0, 0.0, batch)
    x, start = bench.data(case, "cpu")
    assert bench.error(case, x, start) < bench.ALLOWED
    plain = bench.gpu_em_torch.step_diag
    if kind == "full":
        plain = bench.gpu_em_torch.step_small if d == 2 else bench.gpu_em_torch.step_full
    parameters: Any = [t.double() for t in start]
    for _ in range(3):
        parameters, _ = plain(x.double(), parameters)
    ours = elbokit.ops.gmm_fit(x.double(), *start, kind, tol=0.0, max_iter=3)
    for a, b in zip(parameters, (ours.weights, ours.means, ours.precisions_cholesky), strict=True):
        torch.testing.assert_close(a, torch.as_tensor(b), rtol=1e-6, atol=1e-6)


def test_limits_of_em() -> None:
    import bench_gpu_em as bench

    case = bench.Case(1000, 4, 2, "full", 0.0, 0.0)
    assert case.limit(1e9, 1e30) == 4 * 4000 / 1e9
    assert case.limit(1e30, 1e9) == 4 * 1000 * 2 * 10 / 1e9


def test_rows_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_timing

    path = tmp_path / "rows.json"
    clock = gpu_timing.Clock(gpu_timing.arguments("", ["--seconds", "100", "--json", str(path)]))
    seconds = {"elbokit": [1e-3, 2e-3, 3e-3], "eager": [4e-3, 8e-3, 12e-3]}
    row = gpu_timing.Row("a case", seconds, 1e-3, {"limit": 1.15, "eager": 5.0, "gone": 2.0})
    row.notes["gone"] = "OutOfMemoryError"
    clock.run("a case", 10, lambda: clock.add(row))
    clock.run("no room", 1e9, lambda: pytest.fail("began"))
    clock.run("wrong", 1, lambda: torch.zeros(2).reshape(3))
    assert clock.failed
    assert gpu_timing.read_rows(path)[0] == [row]
    text = gpu_timing.as_section(path)
    for part in (
        "2 ms (1.5 ms to 2.5 ms)",
        "of the limit 2.00 ≤ 1.15",
        "eager ÷ ours 4.0 ≥ 5.0",
        "| OutOfMemoryError |",
        "gone: not measured, goal 2.0",
        "Left out: no room; wrong (RuntimeError",
    ):
        assert part in text
    assert "No case" in gpu_timing.as_section(tmp_path / "nothing.json")


@pytest.mark.parametrize("bench", ["bench_gpu_losses", "bench_gpu_em"])
def test_benchmarks_say_that_there_is_no_gpu(
    bench: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    __import__(bench).main(["--seconds", "1"])
    assert "no GPU here" in capsys.readouterr().out


def test_smoke_on_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What compute-sanitizer will see has both ways of many components in it."""
    import gpu_smoke

    from gpu import emulated_dispatch, emulation

    attempt, taken = kernels.attempted_statistics, set()

    def watched(name: str, X: torch.Tensor, *more: Any) -> Any:
        found = attempt(name, X, *more)
        if found is not None and int(found[1]) == 0:
            taken.add((name, X.dtype, X.data_ptr() % 16 == 0))
        return found

    monkeypatch.setattr(kernels, "attempted_statistics", watched)
    with emulated_dispatch(), emulation(5, hopper=True):
        status = gpu_smoke.main(["--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert status == 0
    assert len(lines) > 30
    sparse = {("sparse", t, b) for t in (torch.float32, torch.bfloat16) for b in (True, False)}
    assert taken == sparse | {("products", torch.float32, True)}
