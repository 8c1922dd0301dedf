"""Build, test, measure and sanitise on a machine with a GPU, offline: ``make gpu-check``.

Writes ``benchmarks/results/gpu.md`` after every step, and copies it to ``$OUT`` if that is set.
A step that has too little time left is skipped, and the file says so. Sections that earlier runs
wrote for the same sources and commit are kept (``build/gpu-check/gpu-check.json``), and
``gpu-check.log`` has all that the commands printed. ``--without-gpu`` writes the file of a machine
that has none: the rows and their goals. ``COMMIT`` names the commit where there is no repository
to ask.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import gpu_run
import gpu_verdicts
from gpu_run import FAILED, GOOD, OUT_OF_TIME, ROOT, UNFINISHED, Check, Work, tail

BENCHMARKS = {"losses": "bench_gpu_losses.py", "em": "bench_gpu_em.py"}
SANITIZERS = ("memcheck", "racecheck", "initcheck")
AT_HOME = ("test_cuda_build", "test_cuda_tools")  # of the build, of this: the GPU takes no part
TESTS_AT_ONCE = 4
LEAST_OF_A_FILE = 15.0  # seconds; most is the import of torch
MOST_FAILURES = 20  # of a file: after an illegal access all that follows fails
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


def look(check: Check) -> bool:
    """Whether there is a GPU; versions of everything."""
    status, said = check.run([sys.executable, "-c", QUESTIONS], 180)  # torch, from a cold disk
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
    check.machine["sources"] = gpu_run.digest()
    return True


def build(check: Check) -> Work:
    architecture = check.machine["compute capability"].replace(".", "") + "-real"

    def work(seconds: float) -> tuple[str, str]:
        shutil.rmtree(gpu_run.SITE, ignore_errors=True)
        built_from().unlink(missing_ok=True)
        command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
        command += [
            "--no-index",
            "--target",
            str(gpu_run.SITE),
            f"-Cbuild-dir={gpu_run.BUILD / 'cmake'}",
        ]
        # The extension is for losses on the CPU, and would import torch, for minutes on some disks.
        command += ["-Ccmake.define.ELBOKIT_CUDA=ON", "-Ccmake.define.ELBOKIT_TORCH_EXTENSION=OFF"]
        command += [f"-Ccmake.define.CMAKE_CUDA_ARCHITECTURES={architecture}", "."]
        begin = time.monotonic()
        status, said = check.run(command, seconds)
        if status:
            return FAILED, tail(said)
        took = time.monotonic() - begin
        _, said = check.run([sys.executable, "-m", "elbokit"], 60)
        lines = [line for line in said.splitlines() if line.startswith("CUDA")]
        text = f"For {architecture}, CPU kernels included: {took:.0f} s.\n\n{tail(said)}"
        if not lines or "compute capability" not in lines[0]:
            return FAILED, text
        built_from().write_text(check.machine["sources"])
        return GOOD, text

    return work


def built_from() -> Path:
    """Where the digest of the sources is that the package was built from."""
    return gpu_run.BUILD / "built-from"


def unbuilt(check: Check) -> str:
    """Why the package has to be built before anything else; nothing where it need not."""
    if not any(gpu_run.SITE.glob("elbokit/_cuda.*so")) or not built_from().exists():
        return f"there is no package with CUDA kernels in {gpu_run.SITE}"
    same = built_from().read_text() == check.machine["sources"]
    return "" if same else f"the package in {gpu_run.SITE} was built from other sources"


def tests(check: Check) -> Work:
    """Each file in a process of its own: after an error of the device nothing works in one."""
    folder, end = gpu_run.BUILD / "tests", 0.0

    def run(file: Path, *more: str, again: str = "", **environment: str) -> tuple[int, str] | None:
        left = end - time.monotonic()
        if left < LEAST_OF_A_FILE:
            return None
        command = [sys.executable, "-m", "pytest", str(file.relative_to(ROOT)), "-v", "--tb=short"]
        # What other versions of the neighbours deprecate is no failure of the kernels.
        command += ["-k", "not emulated", "-W", "default", "-p", "no:cacheprovider"]
        command += ["-o", "faulthandler_timeout=60", f"--maxfail={MOST_FAILURES}", *more]
        command += [f"--junitxml={folder / again / file.stem}.xml"]
        return check.run(command, left, **environment)

    def report(file: Path, again: str = "") -> Path:
        return folder / again / f"{file.stem}.xml"

    def blocking(file: Path) -> str:
        """Where launches wait, an error is that of the test which shows it."""
        found = run(file, "-x", again="again", CUDA_LAUNCH_BLOCKING="1")
        if found is None:
            return ""
        text = "it passed"
        if found[0]:
            text = gpu_verdicts.complaint(report(file, "again"), *found)
        return f"\n\nOnce more with CUDA_LAUNCH_BLOCKING=1: {text}"

    def work(seconds: float) -> tuple[str, str]:
        nonlocal end
        end = time.monotonic() + seconds
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = sorted(f for f in (ROOT / "tests").glob("test_cuda_*.py") if f.stem not in AT_HOME)
        with concurrent.futures.ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
            found = dict(zip(files, pool.map(run, files), strict=True))
        total, on_device = {"passed": 0, "failed": 0, "skipped": 0}, 0
        for file, ended in found.items():
            interrupted = ended is not None and ended[0] == OUT_OF_TIME
            counts, there = gpu_verdicts.count(report(file), interrupted)
            total = {name: n + counts[name] for name, n in total.items()}
            on_device += there
        text = ", ".join(f"{n} {name}" for name, n in total.items())
        text += f"; {on_device} of those that passed were tests of the device itself."
        left_out = [file.name for file, ended in found.items() if ended is None]
        ends = {file: ended for file, ended in found.items() if ended}
        stopped = {
            file: said
            for file, (status, said) in ends.items()
            if status == OUT_OF_TIME and not gpu_verdicts.failed_before_the_end(said)
        }
        fine = (0, NO_TESTS)
        bad = [f for f, (status, _) in ends.items() if status not in fine and f not in stopped]
        if left_out:
            text += f"\n\nNot run, for lack of time: {', '.join(left_out)}."
        for file, said in stopped.items():
            text += f"\n\n{file.name} was stopped when time ran out:\n\n{tail(said, 5)}"
        for file in bad:
            text += f"\n\n{file.name}: {gpu_verdicts.complaint(report(file), *ends[file])}"
            if ends[file][0] != OUT_OF_TIME:
                text += blocking(file)
        if bad or (on_device == 0 and not left_out and not stopped):
            return FAILED, text
        return UNFINISHED if left_out or stopped else GOOD, text

    return work


def sanitizer(check: Check, tool: str) -> Work:
    def work(seconds: float) -> tuple[str, str]:
        end = time.monotonic() + seconds
        smoke = [sys.executable, str(ROOT / "tools" / "gpu_smoke.py")]
        program = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        # torch's own kernels are not on trial; nor shall its cache hide what is out of bounds.
        own = ["--kernel-name", "kns=elbokit"]
        if tool == "initcheck":
            own = []  # what is written by a kernel that is left out counts as not written
            program += ["--print-limit", str(gpu_verdicts.PRINTED), "--show-backtrace", "no"]
        elif tool == "memcheck":
            own += ["--report-api-errors", "no"]  # torch asks the driver for what it may not have
        for filters in (own, []) if own else ([],):
            left = end - time.monotonic()
            status, said = check.run([*program, *filters, *smoke], left, **no_cache())
            if re.search(r"^(ok|failed) ", said, re.MULTILINE) or status == OUT_OF_TIME:
                break
        return gpu_verdicts.judged(tool, status, said)

    return work


def no_cache() -> dict[str, str]:
    return {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def benchmark(check: Check, name: str) -> Work:
    def work(seconds: float) -> tuple[str, str]:
        seconds -= 12  # for the table
        path = gpu_run.BUILD / f"{name}.json"
        path.unlink(missing_ok=True)
        script = str(ROOT / "benchmarks" / BENCHMARKS[name])
        command = [sys.executable, script, "--json", str(path), "--seconds", f"{seconds - 15:.0f}"]
        status, said = check.run(command, seconds)
        code = "import sys, pathlib, gpu_timing as g\n"
        code += "print(g.as_section(pathlib.Path(sys.argv[1])))"
        _, table = check.run([sys.executable, "-c", code, str(path)], 60)
        if status == 0:
            return GOOD, table
        stopped = status == OUT_OF_TIME and not re.search(r"^failed: ", said, re.MULTILINE)
        return UNFINISHED if stopped else FAILED, f"{table}\n\n{tail(said)}"

    return work


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=480.0, help="for all steps together")
    parser.add_argument(
        "--only", nargs="+", choices=gpu_run.TIMES, help="these steps; the build is kept"
    )
    parser.add_argument("--without-gpu", action="store_true", help="write rows and goals alone")
    options = parser.parse_args(given)
    check = Check(options.seconds)
    if options.without_gpu:
        check.sections = dict.fromkeys(gpu_run.TIMES, PLACEHOLDER) | goals()
        check.write()
        return 0
    if not look(check):
        return 1
    check.recall()
    gpu_run.BUILD.mkdir(parents=True, exist_ok=True)
    steps = {"build": build(check), "tests": tests(check)}
    steps |= {name: benchmark(check, name) for name in BENCHMARKS}
    steps |= {tool: sanitizer(check, tool) for tool in SANITIZERS}
    wanted = [name for name in steps if name in (options.only or steps)]
    if "build" not in wanted and (why := unbuilt(check)):
        print(f"building first: {why}", flush=True)
        wanted.insert(0, "build")
    done = {}
    for name in wanted:
        done[name] = check.step(name, steps[name])
        if name == "build" and done[name] != GOOD:
            break
    print(f"written to {gpu_run.RESULT}, all output to {check.log}")
    return 1 if FAILED in done.values() else 0


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
