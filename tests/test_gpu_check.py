"""`tools/gpu_check.py` as far as it runs without a GPU: time, log, verdicts, what is kept."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
Answer = tuple[int, str]


@pytest.fixture(autouse=True)
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is copied to; nothing is written anywhere else."""
    for folder in ("benchmarks", "tools"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    import gpu_run

    monkeypatch.setattr(gpu_run, "RESULT", tmp_path / "results" / "gpu.md")
    monkeypatch.setattr(gpu_run, "BUILD", tmp_path / "build")
    monkeypatch.setattr(gpu_run, "SITE", tmp_path / "build" / "site")
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setenv("OUT", str(folder))
    monkeypatch.setenv("COMMIT", "0123abc")
    return folder


def test_file_of_a_machine_without_a_gpu(out: Path) -> None:
    import gpu_check

    assert gpu_check.main(["--without-gpu"]) == 0
    text = (out / "gpu.md").read_text()
    assert "no GPU was at hand" in text
    assert "65,536 × 784, bfloat16 | of the limit ≤ 1.15" in text
    assert "100,000 mixtures of 200 × 2, 3, full, 20 iterations | 0.015 s" in text


def test_commands(out: Path) -> None:
    import gpu_run

    check = gpu_run.Check(40)
    assert check.run([sys.executable, "-c", "print(3); raise SystemExit(5)"], 30) == (5, "3\n")
    # The grandchild, in a session of its own, outlives the kill.
    slow = "import subprocess as s, time; print('began', flush=True); "
    slow += "s.Popen(['sleep', '15'], start_new_session=True)\n"
    slow += "try: time.sleep(15)\nexcept KeyboardInterrupt: print('summary', flush=True)"
    status, said = check.run([sys.executable, "-c", slow], 2, HOW="slow")
    assert status == gpu_run.OUT_OF_TIME
    assert "began\nsummary" in said  # it was interrupted first
    assert check.run(["no-such-program"], 5)[0] == 127
    long = "print('a' * 2 ** 21 + 'b' * 2 ** 20)"
    assert len(check.run([sys.executable, "-c", long], 30)[1]) == 3 * 2**20 + 1
    log = (out / "gpu-check.log").read_text()
    for part in ("3\n\n[status 5", "HOW=slow", "summary", "[status 124", "no-such-program"):
        assert part in log
    assert "[1048577 characters are left out]" in log
    assert len(log) < 2.1 * 2**20


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_run

    monkeypatch.setenv("PYTHONPATH", "given")
    monkeypatch.setattr(gpu_run, "CUDA_BIN", tmp_path)
    environment = gpu_run.Check(1).environment
    paths = [str(gpu_run.SITE), str(ROOT / "benchmarks"), "given"]
    assert environment["PYTHONPATH"].split(os.pathsep) == paths
    assert environment["PATH"].split(os.pathsep)[-1] == str(tmp_path)
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setattr(gpu_run, "CUDA_BIN", tmp_path / "none")
    environment = gpu_run.Check(1).environment
    assert environment["PYTHONPATH"].split(os.pathsep) == paths[:2]
    assert environment["PATH"] == os.environ["PATH"]


def test_steps(out: Path) -> None:
    import gpu_run
    from gpu_run import FAILED, GOOD, UNFINISHED

    check = gpu_run.Check(55)
    assert check.step("memcheck", lambda seconds: (FAILED, f"{seconds <= 55}")) == FAILED
    assert check.step("racecheck", lambda seconds: (GOOD, str(1 // 0))) == FAILED
    assert check.step("tests", lambda seconds: (UNFINISHED, "some")) == UNFINISHED
    assert check.step("build", lambda seconds: pytest.fail("too little time")) == UNFINISHED
    check.verdicts["em"], check.sections["em"] = GOOD, "of an earlier run"
    assert check.step("em", lambda seconds: pytest.fail("too little time")) == UNFINISHED
    text = (out / "gpu.md").read_text()
    assert "**Failed: memcheck, racecheck.**" in text
    assert "**Out of time: tests.**" in text
    assert "ZeroDivisionError" in text
    assert "s were left, 60 are needed" in text
    assert "## EM\n\nof an earlier run" in text


READ = "========= Uninitialized __global__ memory read of size 4 bytes\n"
OURS = f"{READ}=========     at void elbokit::cuda::finish<float>(int)+0x70\n"
OTHER = f"{READ}=========     at cublas::gemm(int)+0x70\n"
OTHER += "=========     Saved host backtrace up to driver entry point\n"
OTHER += "=========         Host Frame: launch in elbokit/_cuda.so\n"


@pytest.mark.parametrize(
    ("tool", "status", "said", "verdict", "shown"),
    [
        ("memcheck", 0, "ok a\nok b\n========= ERROR SUMMARY: 0 errors\n", "good", "2 operators"),
        (
            "racecheck",
            0,
            "ok a\n========= RACECHECK SUMMARY: 0 hazards displayed (0 err",
            "good",
            "",
        ),
        ("memcheck", 9, "ok a\n========= ERROR SUMMARY: 3 errors\n", "failed", "status 9"),
        ("memcheck", 0, "ok a\n========= ERROR SUMMARY: 10 errors\n", "failed", ""),
        ("memcheck", 1, "ok a\nfailed b\n========= ERROR SUMMARY: 0 errors\n", "failed", ""),
        ("memcheck", 0, "ok a\n", "failed", "No summary"),
        ("memcheck", 0, "========= ERROR SUMMARY: 0 errors\n", "failed", ""),
        ("memcheck", 9, f"ok a\n{OTHER}========= ERROR SUMMARY: 1 error\n", "failed", "gemm"),
        ("initcheck", 0, "ok a\n========= ERROR SUMMARY: 0 errors\n", "good", ""),
        ("initcheck", 9, f"ok a\n{OTHER}========= ERROR SUMMARY: 1 error\n", "good", "1 elsewhere"),
        (
            "initcheck",
            9,
            f"ok a\n{OTHER}{OURS}{OTHER}========= ERROR SUMMARY: 3 errors\n",
            "failed",
            "1 in kernels of elbokit, 2 elsewhere",
        ),
        # Errors beyond those printed could be anybody's.
        ("initcheck", 9, f"ok a\n{OTHER}========= ERROR SUMMARY: 2 errors\n", "failed", ""),
        ("initcheck", 9, f"ok a\nfailed b\n{OTHER}========= ERROR SUMMARY: 1 error", "failed", ""),
        ("initcheck", 124, f"ok a\n{OTHER}", "out of time", "after 1 operators, 1 errors so far"),
        ("initcheck", 124, f"ok a\n{OURS}", "failed", "Time ran out after 1 operators, 1 errors"),
        ("memcheck", 124, "ok a\nok b\n", "out of time", "after 2 operators, 0 errors so far"),
        ("memcheck", 124, f"ok a\n{OURS}ok b\n", "failed", "1 errors so far"),
        ("memcheck", 1, "========= Error: Device not supported\n", "out of time", "not run"),
    ],
)
def test_verdict_of_a_sanitizer(
    tool: str, status: int, said: str, verdict: str, shown: str
) -> None:
    import gpu_verdicts

    found, text = gpu_verdicts.judged(tool, status, said)
    assert found == verdict
    assert shown in text


def test_counts_of_tests(tmp_path: Path) -> None:
    import gpu_verdicts

    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a[cuda-3]"/><testcase name="a[3-cuda]"/>'
        '<testcase name="b[cuda-3]"><failure>text</failure></testcase><testcase name="cuda"/>'
        '<testcase name="d[cuda]"><error message="later"/></testcase>'
        '<testcase name="c[cuda]"><skipped/></testcase></testsuite></testsuites>'
    )
    assert gpu_verdicts.count(report) == ({"passed": 3, "failed": 2, "skipped": 1}, 2)
    assert gpu_verdicts.count(report, True)[0]["passed"] == 3  # the last one was skipped
    text = gpu_verdicts.complaint(report, 1, "said")
    assert "2 failed, the first b[cuda-3]" in text
    assert "later" not in text
    report.write_text('<testsuite><testcase name="a"/><testcase name="b"/></testsuite>')
    assert gpu_verdicts.count(report, True)[0]["passed"] == 1
    report.write_text("<testsuites><test")
    assert gpu_verdicts.count(report)[1] == 0
    assert "said" in gpu_verdicts.complaint(report, 1, "said")


class Machine:
    """Answers the commands of a run in the place of a machine with a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import gpu_run

        self.ran: list[str] = []
        self.pytest: Callable[[str, bool], Answer | None] = lambda name, again: None
        monkeypatch.setattr(gpu_run.Check, "_run", lambda check, *given: self.answer(*given))

    def answer(self, command: list[str], seconds: float, more: dict[str, str]) -> Answer:
        import gpu_run

        words = " ".join(command)
        if "get_device_properties" in words:
            return 0, json.dumps({"GPU": "H200", "compute capability": "9.0"})
        if " pip " in words:
            self.ran.append("build")
            (gpu_run.SITE / "elbokit").mkdir(parents=True)
            (gpu_run.SITE / "elbokit" / "_cuda.abi.so").touch()
        elif " pytest " in words:
            return self.tests(command, more)
        elif "compute-sanitizer" in words:
            self.ran.append(command[2])
            return 0, "ok a\n========= ERROR SUMMARY: 0 errors\n"
        elif bench := re.search(r"bench_gpu_(\w+)", words):
            self.ran.append(bench[1])
        return 0, "CUDA compute capability"

    def tests(self, command: list[str], more: dict[str, str]) -> Answer:
        name = Path(next(word for word in command if word.startswith("tests/"))).stem
        if not self.ran or self.ran[-1] != "tests":
            self.ran.append("tests")
        again = "CUDA_LAUNCH_BLOCKING" in more
        assert again == ("-x" in command)
        if answer := self.pytest(name, again):
            return answer
        report = next(word for word in command if word.startswith("--junitxml=")).split("=")[1]
        Path(report).write_text('<testsuite><testcase name="a[cuda]"/></testsuite>')
        return 0, ""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_order_and_what_is_built(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_check
    import gpu_run

    sanitizers = ["memcheck", "racecheck", "initcheck"]
    assert gpu_check.main([]) == 0
    assert machine.ran == ["build", "tests", "losses", "em", *sanitizers]
    machine.ran = []
    assert gpu_check.main(["--only", "racecheck"]) == 0
    assert machine.ran == ["racecheck"]
    machine.ran = []
    monkeypatch.setattr(gpu_run, "digest", lambda: "others")
    gpu_check.main(["--only", "em"])
    assert machine.ran == ["build", "em"]


def test_a_fresh_machine_is_built_for(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_check

    gpu_check.main(["--only", "em"])
    assert machine.ran == ["build", "em"]
    assert "building first: there is no package with CUDA kernels" in capsys.readouterr().out


@pytest.mark.parametrize("same", [True, False])
def test_results_of_the_same_commit_are_merged(
    machine: Machine, out: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_check

    machine.pytest = lambda name, again: (1, "wrong")
    assert gpu_check.main(["--only", "build", "tests"]) == 1
    if not same:
        monkeypatch.setenv("COMMIT", "4567def")
    assert gpu_check.main(["--only", "initcheck"]) == 0
    text = (out / "gpu.md").read_text()
    assert ("**Failed: tests.**" in text) == same
    assert text.count("Not run.") == (4 if same else 6)
    assert "1 operators" in text
    assert (out / "gpu-check.json").exists()


def test_first_failures_and_a_second_run(machine: Machine, out: Path) -> None:
    import gpu_check

    def answer(name: str, again: bool) -> Answer | None:
        return (1, f"illegal access, {again}") if name == "test_cuda_gmm" else None

    machine.pytest = answer
    assert gpu_check.main(["--only", "build", "tests"]) == 1
    text = (out / "gpu.md").read_text()
    assert "test_cuda_gmm.py: exit status 1" in text
    assert "illegal access, False" in text
    assert "Once more with CUDA_LAUNCH_BLOCKING=1: exit status 1" in text
    assert "illegal access, True" in text


def test_files_without_time_are_not_failures(
    machine: Machine, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_check

    now = time.monotonic()
    clock: Any = type("time", (), {"monotonic": staticmethod(lambda: now)})
    monkeypatch.setattr(gpu_check, "time", clock)
    monkeypatch.setattr(gpu_check, "TESTS_AT_ONCE", 1)

    def answer(name: str, again: bool) -> Answer | None:
        nonlocal now
        if name == "test_cuda_categorical":
            return 124, "a[cuda] PASSED\nb[cuda]"
        if name == "test_cuda_elementary":
            now += 1000
        return None

    machine.pytest = answer
    assert gpu_check.main(["--only", "build", "tests"]) == 0
    text = (out / "gpu.md").read_text()
    assert "**Out of time: tests.**" in text
    assert re.search(r"Not run, for lack of time: test_cuda_fit\.py, .*test_cuda_torch\.py\.", text)
    assert "test_cuda_categorical.py was stopped when time ran out" in text
    machine.pytest = lambda name, again: (124, "a[cuda] FAILED\nb[cuda]")
    assert gpu_check.main(["--only", "tests"]) == 1
