"""What nvcc makes of the CUDA kernels: registers, shared memory, spills, instructions.

``make cuda-report`` writes ``benchmarks/results/cuda_ptxas.md``. Fails if a kernel uses local
memory without a reason in ``ALLOWED``, or lacks an instruction of ``MEANT``. The instructions are
read from SASS by nvdisasm, from the ``PATH`` or ``--nvdisasm``; without one they are left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "cuda_ptxas.md"
FLAGS = ["-std=c++17", '-DELBOKIT_CUDA_ARCHITECTURES=""']
FLAGS += [flag for folder in ("cuda", "cpp", "cpp/include") for flag in ("-I", str(ROOT / folder))]
ARCHITECTURES = ("sm_90", "sm_75")

# Kernels that may spill so many bytes, by a pattern of their names, and why.
ALLOWED: dict[str, tuple[int, str]] = {
    r"^gaussian_kernel<float, PlainRows<.*, true, 256>": (
        4,
        "none in the loop over columns: once for the rows of a block",
    ),
    r"^fit_many<": (
        340,
        "none in the loops over rows: once for an iteration or for 64 rows of a lane",
    ),
    r"_kernel<double, AnyRows<": (
        32,
        "the general way in double, which computes more than it moves",
    ),
    r"^categorical_kernel<": (24, "once for a position, beside a sweep over all classes"),
    r"^(move|search)_kernel<": (24, "one block, or a few, once for an iteration or a center"),
    r"^responsibilities_kernel": (28, "of sm_75, which has no units that it could follow"),
    r"^small_weights": (64, "returns at once unless a weight is below 2^-60"),
    r"^(triangular_slopes<float, 4>|add_moments_kernel<double, false>|assign_kernel<float>)": (
        24,
        "on sm_75 alone",
    ),
    r"^responsibilities<(float, 64|double, 32), true>": (
        128,
        "logits that wait in the first cache, instead of being read again from the second",
    ),
    r"^merge<": (24, "on sm_75 alone; once for a pass"),
}
# Kernels by a pattern of their names, and what their SASS for sm_90 must have.
MEANT = {
    r"bernoulli_kernel<.*PlainRows<\w+, (float|double), \1, ": ["LDG.E.128", "STG.E.128"],
    r"bernoulli_kernel<.*PlainRows<float, BFloat16, BFloat16, ": ["LDG.E.128", "STG.E.128"],
    r"gaussian_kernel<float, PlainRows<float, float, float, ": ["LDG.E.128", "STG.E.128"],
    r"^kl_kernel<": ["LDG.E.128", "STG.E.128"],
    r"^filter_kernel": ["HMMA.16816.F32.BF16"],
    r"^product_(logits|moments)": ["HMMA.16816.F32", "LDS.128"],
    r"^full_logits": ["HMMA.1688.F32.TF32", "LDS.128"],
    r"^full_scatter<4>": ["HMMA.1688.F32.TF32", "LDGSTS.E.128"],
}
SHOWN = {
    "16-byte loads": re.compile(r"LDG\.E.*\.128"),
    "16-byte stores": re.compile(r"STG\.E.*\.128"),
    "loads": re.compile(r"LDG\."),
    "stores": re.compile(r"STG\."),
    "matrix": re.compile(r"(HMMA|HGMMA|DMMA|IMMA)\b"),
    "FMA": re.compile(r"(FFMA|DFMA)\b"),
    "local": re.compile(r"(LDL|STL)\b"),
}


@dataclass
class Kernel:
    """One entry of the table."""

    name: str
    source: str
    registers: int = 0
    shared: int = 0
    frame: int = 0
    spilled: int = 0
    instructions: Counter[str] = field(default_factory=Counter)

    def count(self, pattern: re.Pattern[str]) -> int:
        return sum(n for name, n in self.instructions.items() if pattern.match(name))


def readable(demangled: str) -> str:
    """The name without what all have in common: ``finish<float>``."""
    name = demangled.removeprefix("void ").replace("(anonymous namespace)::", "")
    name = name.replace("elbokit::cuda::", "").replace("elbokit::ELBOKIT_LEVEL::", "math::")
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0 and i:
            return name[:i]
    return name


def demangle(names: list[str]) -> list[str]:
    if not names:
        return []
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return [readable(line) for line in done.stdout.splitlines()]


def parse_ptxas(text: str, source: str) -> dict[str, Kernel]:
    """Kernels by mangled name, from what ``ptxas -v`` prints."""
    kernels: dict[str, Kernel] = {}
    kernel = None
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)'", line):
            kernel = kernels.setdefault(found[1], Kernel(found[1], source))
        elif "Function properties for" in line and kernel and kernel.name not in line:
            kernel = None  # a function that is called, not inlined: its frame is the caller's
        elif kernel and (found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill", line)):
            kernel.frame, kernel.spilled = int(found[1]), int(found[2])
        elif kernel and (found := re.search(r"Used (\d+) registers", line)):
            kernel.registers = int(found[1])
            if smem := re.search(r"(\d+) bytes smem", line):
                kernel.shared = int(smem[1])
    return kernels


def parse_sass(text: str) -> dict[str, Counter[str]]:
    """Instructions of each kernel by mangled name, from what nvdisasm prints."""
    kernels: dict[str, Counter[str]] = {}
    mine: Counter[str] = Counter()
    for line in text.splitlines():
        if found := re.match(r"\.text\.(\S+):", line):
            mine = kernels.setdefault(found[1], Counter())
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", line):
            mine[found[1]] += 1
    return kernels


def compiled(source: Path, architecture: str, nvdisasm: str | None) -> list[Kernel]:
    name = str(source.relative_to(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        command = ["nvcc", *FLAGS, f"-arch={architecture}", "-cubin", "-Xptxas", "-v"]
        done = subprocess.run(
            [*command, str(source), "-o", cubin], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{name} for {architecture}:\n{done.stderr}")
        kernels = parse_ptxas(done.stdout + done.stderr, name)
        if nvdisasm and kernels:
            said = subprocess.run([nvdisasm, cubin], capture_output=True, text=True, check=True)
            for mangled, instructions in parse_sass(said.stdout).items():
                if mangled in kernels:
                    kernels[mangled].instructions = instructions
    for kernel, plain in zip(kernels.values(), demangle(list(kernels)), strict=True):
        kernel.name = plain
    return sorted(kernels.values(), key=lambda kernel: kernel.name)


def faults(kernel: Kernel, architecture: str) -> list[str]:
    """What is wrong with it, one line each."""
    found = []
    excused = max(
        (most for p, (most, _) in ALLOWED.items() if re.search(p, kernel.name)), default=-1
    )
    if (kernel.frame or kernel.spilled) and kernel.spilled > excused:
        found.append(f"stack frame of {kernel.frame} bytes, {kernel.spilled} bytes spilled")
    if kernel.instructions and architecture == "sm_90":
        for pattern, names in MEANT.items():
            if re.search(pattern, kernel.name):
                found += [f"no {n}" for n in names if not kernel.count(re.compile(re.escape(n)))]
    return [f"{kernel.source}: {kernel.name}: {fault} ({architecture})" for fault in found]


def table(kernels: list[Kernel], sass: bool) -> str:
    header = ["kernel", "registers", "shared", "stack", "spills", *(SHOWN if sass else [])]
    lines = []
    for source in dict.fromkeys(kernel.source for kernel in kernels):
        lines += [f"\n`{source}`\n", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        for kernel in (kernel for kernel in kernels if kernel.source == source):
            cells: list[object] = [f"`{kernel.name}`", kernel.registers, kernel.shared]
            cells += [kernel.frame, kernel.spilled]
            cells += [kernel.count(pattern) for pattern in SHOWN.values()] if sass else []
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def report(sections: dict[str, list[Kernel]], release: str, sass: bool) -> str:
    text = (
        "# What nvcc makes of the CUDA kernels\n\nWritten by `make cuda-report` "
        f"(`tools/cuda_report.py`) with nvcc {release}. Registers are per thread; shared memory is "
        "what is set at compile time, beside which each launch asks for its own; stack and spills "
        "are bytes per thread, and must be 0."
    )
    for architecture, kernels in sections.items():
        with_sass = sass and architecture == "sm_90"
        text += f"\n\n## {architecture}\n"
        if with_sass:
            text += "\nInstructions are counted in SASS (nvdisasm): places in the code, not runs.\n"
        text += table(kernels, with_sass)
    excused = "".join(
        f"\n- `{pattern}`, {most} bytes at most: {reason}"
        for pattern, (most, reason) in ALLOWED.items()
    )
    return text + (f"\n\nAllowed to use local memory:\n{excused}\n" if excused else "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", type=Path, help="default: all of cuda/")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args(arguments)
    sources = [path.resolve() for path in given.sources] or sorted((ROOT / "cuda").rglob("*.cu"))
    release = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"V([\d.]+)", release.stdout)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sections = {}
        for architecture in given.architectures:
            nvdisasm = given.nvdisasm if architecture == "sm_90" else None
            done = pool.map(lambda s, a=architecture, d=nvdisasm: compiled(s, a, d), sources)
            sections[architecture] = [kernel for kernels in done for kernel in kernels]
    found = [f for a, kernels in sections.items() for kernel in kernels for f in faults(kernel, a)]
    given.output.write_text(
        report(sections, version[1] if version else "unknown", bool(given.nvdisasm))
    )
    print(f"{sum(map(len, sections.values()))} kernels, written to {given.output}")
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
