"""Build, test, sanitise and measure on a machine with a GPU, offline: ``make gpu-check``.

Writes ``benchmarks/results/gpu.md`` after every step, and copies it to ``$OUT`` if that is set.
A step that has too little time left is skipped, and the file says so. ``--without-gpu`` writes the
file of a machine that has none: the rows and their goals. ``COMMIT`` names the commit where there
is no repository to ask.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "gpu-check"
SITE = BUILD / "site"
RESULT = ROOT / "benchmarks" / "results" / "gpu.md"
BENCHMARKS = {"losses": "bench_gpu_losses.py", "em": "bench_gpu_em.py"}
SANITIZERS = ("memcheck", "racecheck", "initcheck")
# Seconds that a step may take, and below which it is not begun.
TIMES = {"build": (180, 60), "tests": (150, 30), "losses": (120, 40), "em": (200, 40)}
TIMES |= {tool: (45, 20) for tool in SANITIZERS}
AT_HOME = ("test_cuda_build", "test_cuda_tools")  # of the build, of this: the GPU takes no part
TESTS_AT_ONCE = 4
NO_TESTS = 5  # pytest's exit status where all of a file's tests are for the model
PLACEHOLDER = (
    "Not measured yet: no GPU was at hand. `make gpu-check` on a machine with one fills this in."
)
QUESTIONS = """
import json, importlib.metadata, platform, torch
names = "numpy", "scikit-learn", "scipy", "torch"
p = torch.cuda.get_device_properties(0)
print(json.dumps({"GPU": p.name, "compute capability": f"{p.major}.{p.minor}",
    "multiprocessors": p.multi_processor_count, "memory": f"{p.total_memory / 2**30:.0f} GiB",
    "Python": platform.python_version(), **{n: importlib.metadata.version(n) for n in names}}))
"""


class Check:
    """The steps of one run, what they found, and the time that is left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.sections: dict[str, str] = {}
        self.machine: dict[str, str] = {}
        self.failed: list[str] = []
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT / "benchmarks")]),
            "SCIPY_ARRAY_API": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, command: list[str], seconds: float, **more: str) -> tuple[int, str]:
        """Exit status and output; the status of a command that ran out of time is 124."""
        seconds = max(1.0, min(seconds, self.end - time.monotonic()))
        # To a file: a pipe ends only with the last of the children, some of which outlive a kill
        # (compilers in sessions of their own, whatever hangs in the driver).
        with tempfile.TemporaryFile() as file:
            try:
                child = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment | more,
                    stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                return 127, str(error)
            status, note = 124, f"\nstopped after {seconds:.0f} s"
            try:
                status, note = child.wait(seconds), ""
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)  # its own children too: they hold the GPU
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(10)
            file.seek(0)
            return status, file.read().decode(errors="replace") + note

    def step(self, name: str, work: Callable[[float], tuple[bool, str]]) -> bool:
        most, least = TIMES[name]
        left = self.end - time.monotonic()
        if left < least:
            self.sections[name] = f"Skipped: {left:.0f} s were left, {least} are needed."
            self.write()
            return False
        begin = time.monotonic()
        try:
            good, text = work(min(most, left))
        except Exception:  # the later steps and the file are still wanted
            good, text = False, tail(traceback.format_exc())
        print(f"{name}: {'good' if good else 'FAILED'}, {time.monotonic() - begin:.0f} s")
        print(text, flush=True)
        self.sections[name] = text
        if not good:
            self.failed.append(name)
        self.write()
        return good

    def write(self) -> None:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(document(self.machine, self.sections, self.failed))
        if out := os.environ.get("OUT"):
            shutil.copy(RESULT, out)


def document(machine: dict[str, str], sections: dict[str, str], failed: list[str]) -> str:
    titles = {
        "build": "Build",
        "tests": "Tests on the device",
        **{tool: f"compute-sanitizer {tool}" for tool in SANITIZERS},
        "losses": "Losses, forward and backward",
        "em": "EM",
    }
    text = "# The CUDA kernels on a GPU\n\n"
    text += (
        "Written by `make gpu-check` (`tools/gpu_check.py`). Times are medians, quartiles in "
        "brackets. The limit of a loss is three passes over the batch at the copy bandwidth "
        "measured in the run; that of an EM iteration is reading the rows, or its products at the "
        "rate of torch's float32 matrix product.\n"
    )
    text += "".join(f"\n- {name}: {value}" for name, value in machine.items())
    if failed:
        text += f"\n\n**Failed: {', '.join(failed)}.**"
    for name, title in titles.items():
        text += f"\n\n## {title}\n\n{sections.get(name, 'Not run.').strip()}"
    return text + "\n"


def tail(text: str, lines: int = 25) -> str:
    return "```\n" + "\n".join(text.strip().splitlines()[-lines:]) + "\n```"


def look(check: Check) -> bool:
    """Whether there is a GPU; versions of everything."""
    status, said = check.run([sys.executable, "-c", QUESTIONS], 60)
    answers = [line for line in said.splitlines() if line.startswith("{")]  # among warnings
    if status or not answers:
        print(f"no GPU that torch can use:\n{said}")
        return False
    check.machine = {name: str(value) for name, value in json.loads(answers[0]).items()}
    smi = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    for name, command in {
        "driver": smi,
        "nvcc": ["nvcc", "--version"],
        "commit": ["git", "describe", "--always", "--dirty"],
    }.items():
        status, said = check.run(command, 20)
        lines = said.strip().splitlines()
        check.machine[name] = lines[-1] if lines and not status else "unknown"
    if commit := os.environ.get("COMMIT"):
        check.machine["commit"] = commit
    return True


def build(check: Check) -> Callable[[float], tuple[bool, str]]:
    architecture = check.machine["compute capability"].replace(".", "") + "-real"

    def work(seconds: float) -> tuple[bool, str]:
        shutil.rmtree(SITE, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
        command += ["--no-index", "--target", str(SITE), f"-Cbuild-dir={BUILD / 'cmake'}"]
        command += ["-Ccmake.define.ELBOKIT_CUDA=ON"]
        command += [f"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES={architecture}", "."]
        begin = time.monotonic()
        status, said = check.run(command, seconds)
        if status:
            return False, tail(said)
        took = time.monotonic() - begin
        _, said = check.run([sys.executable, "-m", "elbokit"], 60)
        lines = [line for line in said.splitlines() if line.startswith("CUDA")]
        good = bool(lines) and "compute capability" in lines[0]
        return good, f"For {architecture}, CPU kernels included: {took:.0f} s.\n\n{tail(said)}"

    return work


def tests(check: Check) -> Callable[[float], tuple[bool, str]]:
    """Each file in a process of its own: after an error of the device nothing works in one."""
    folder = BUILD / "tests"

    def run(file: Path) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", str(file.relative_to(ROOT)), "-q"]
        # What other versions of the neighbours deprecate is no failure of the kernels.
        command += ["-k", "not emulated", "-W", "default", "-p", "no:cacheprovider"]
        command += ["-o", "faulthandler_timeout=60", f"--junitxml={folder / file.stem}.xml"]
        return check.run(command, end - time.monotonic())

    def work(seconds: float) -> tuple[bool, str]:
        nonlocal end
        end = time.monotonic() + seconds
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = sorted(f for f in (ROOT / "tests").glob("test_cuda_*.py") if f.stem not in AT_HOME)
        with concurrent.futures.ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
            ends = dict(zip(files, pool.map(run, files), strict=True))
        total, on_device = {"passed": 0, "failed": 0, "skipped": 0}, 0
        for report in folder.glob("*.xml"):
            counts, there = count(report)
            total = {name: n + counts[name] for name, n in total.items()}
            on_device += there
        text = ", ".join(f"{n} {name}" for name, n in total.items())
        text += f"; {on_device} of those that passed were tests of the device itself."
        bad = {file: said for file, (status, said) in ends.items() if status not in (0, NO_TESTS)}
        for file, said in bad.items():
            text += f"\n\n{file.name}, exit status {ends[file][0]}:\n\n{tail(said)}"
        return not bad and on_device > 0, text

    end = 0.0
    return work


def count(report: Path) -> tuple[dict[str, int], int]:
    """Tests by how they ended; those that passed with the GPU as their device."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    on_device = 0
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        how = "skipped" if "skipped" in kinds else "passed"
        how = "failed" if kinds & {"failure", "error"} else how
        counts[how] += 1
        on_device += how == "passed" and bool(re.search(r"[\[-]cuda[\]-]", case.get("name", "")))
    return counts, on_device


def sanitizer(check: Check, tool: str) -> Callable[[float], tuple[bool, str]]:
    def work(seconds: float) -> tuple[bool, str]:
        smoke = [sys.executable, str(ROOT / "tools" / "gpu_smoke.py")]
        program = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        # torch's own kernels are not on trial; nor shall its cache hide what is out of bounds.
        own = ["--kernel-name", "kns=elbokit"]
        if tool == "initcheck":
            own = []  # what is written by a kernel that is left out counts as not written
        elif tool == "memcheck":
            own += ["--report-api-errors", "no"]  # torch asks the driver for what it may not have
        for filters in (own, []) if own else ([],):
            status, said = check.run([*program, *filters, *smoke], seconds, **no_cache())
            if re.search(r"ok \w|failed \w", said) or status == 124:
                break
        return judged(status, said)

    return work


def no_cache() -> dict[str, str]:
    return {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def judged(status: int, said: str) -> tuple[bool, str]:
    """Verdict on what compute-sanitizer printed."""
    operators = len(re.findall(r"^ok ", said, re.MULTILINE))
    summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", said)
    text = f"{operators} operators. {summary[-1] if summary else 'No summary.'}"
    clean = bool(summary) and re.search(r"SUMMARY: 0 (errors|hazards)", summary[-1]) is not None
    good = status == 0 and clean and operators > 0
    return good, text if good else f"{text} Exit status {status}.\n\n{tail(said, 40)}"


def benchmark(check: Check, name: str) -> Callable[[float], tuple[bool, str]]:
    def work(seconds: float) -> tuple[bool, str]:
        path = BUILD / f"{name}.json"
        path.unlink(missing_ok=True)
        script = str(ROOT / "benchmarks" / BENCHMARKS[name])
        command = [sys.executable, script, "--json", str(path), "--seconds", f"{seconds - 15:.0f}"]
        status, said = check.run(command, seconds)
        code = "import sys, pathlib, gpu_timing as g\n"
        code += "print(g.as_section(pathlib.Path(sys.argv[1])))"
        _, table = check.run([sys.executable, "-c", code, str(path)], 60)
        return status == 0, table if status == 0 else f"{table}\n\n{tail(said)}"

    return work


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=480.0, help="for all steps together")
    parser.add_argument("--only", nargs="+", choices=TIMES, help="these steps; the build is kept")
    parser.add_argument("--without-gpu", action="store_true", help="write rows and goals alone")
    options = parser.parse_args(given)
    check = Check(options.seconds)
    if options.without_gpu:
        check.sections = dict.fromkeys(TIMES, PLACEHOLDER) | goals()
        check.write()
        return 0
    if not look(check):
        return 1
    BUILD.mkdir(parents=True, exist_ok=True)
    steps = {"build": build(check), "tests": tests(check)}
    steps |= {tool: sanitizer(check, tool) for tool in SANITIZERS}
    steps |= {name: benchmark(check, name) for name in BENCHMARKS}
    for name, work in steps.items():
        if options.only and name not in options.only:
            continue
        if not check.step(name, work) and name == "build":
            break
    print(f"written to {RESULT}")
    return 1 if check.failed else 0


def goals() -> dict[str, str]:
    """The rows of the benchmarks with their goals, where nothing has been measured."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bench_gpu_em
    import bench_gpu_losses
    import gpu_timing

    return {
        name: f"{PLACEHOLDER}\n\n{gpu_timing.as_goals(module.goals())}"
        for name, module in (("losses", bench_gpu_losses), ("em", bench_gpu_em))
    }


if __name__ == "__main__":
    sys.exit(main())
