"""What pytest's reports and compute-sanitizer's output say, for ``gpu_check.py``."""

from __future__ import annotations

import re
import xml.etree.ElementTree
from pathlib import Path

from gpu_run import FAILED, GOOD, OUT_OF_TIME, UNFINISHED, tail

PRINTED = 10_000  # errors; of initcheck most are not ours, and would hide those that are


def cases(report: Path) -> list[xml.etree.ElementTree.Element]:
    try:
        return list(xml.etree.ElementTree.parse(report).iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError):  # of a process that was killed
        return []


def count(report: Path, stopped: bool = False) -> tuple[dict[str, int], int]:
    """Tests by how they ended; those that passed with the GPU as their device."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    on_device = 0
    found = cases(report)
    if stopped and found and not len(found[-1]):
        found.pop()  # the one that was interrupted
    for case in found:
        kinds = {child.tag for child in case}
        how = "skipped" if "skipped" in kinds else "passed"
        how = "failed" if kinds & {"failure", "error"} else how
        counts[how] += 1
        on_device += how == "passed" and bool(re.search(r"[\[-]cuda[\]-]", case.get("name", "")))
    return counts, on_device


def complaint(report: Path, status: int, said: str) -> str:
    """What is wrong with a test file: its first failure, which may have caused the others."""
    failures = [
        (case.get("name", ""), child.text or child.get("message") or "")
        for case in cases(report)
        for child in case
        if child.tag in ("failure", "error")
    ]
    if not failures:
        return f"exit status {status}\n\n{tail(said)}"
    name, text = failures[0]
    return f"exit status {status}, {len(failures)} failed, the first {name}\n\n{tail(text)}"


def failed_before_the_end(said: str) -> bool:
    """Whether a test file that was stopped had a failure by then, or a test that hung."""
    return bool(re.search(r" (FAILED|ERROR)\b|^Timeout \(\d", said, re.MULTILINE))


def errors(said: str) -> list[str]:
    """Of each error that compute-sanitizer printed, the lines about the device."""
    found: list[str] = []
    on_host = True
    for line in re.findall(r"^=========( .*)", said, re.MULTILINE):
        if not line.startswith("  "):
            on_host = False
            found.append(line)
        elif found and not on_host:
            on_host = "Saved host backtrace" in line or "Host Frame" in line
            found[-1] += "" if on_host else f"\n{line}"
    return [text for text in found if "\n" in text or "Race reported" in text]


def judged(tool: str, status: int, said: str) -> tuple[str, str]:
    """Verdict on what compute-sanitizer printed.

    initcheck watches all kernels, since what one that is left out writes would count as not
    written: what torch's and cuBLAS's read is not held against ours.
    """
    if "Device not supported" in said:  # of a GPU behind a sandbox that hides its debugger
        return UNFINISHED, "compute-sanitizer says `Device not supported` on this machine: not run."
    operators = len(re.findall(r"^ok ", said, re.MULTILINE))
    found = errors(said)
    ours = [text for text in found if "elbokit" in text] if tool == "initcheck" else found
    whose = ""
    if len(ours) < len(found):
        whose = f" {len(ours)} in kernels of elbokit, {len(found) - len(ours)} elsewhere."
    if status == OUT_OF_TIME:
        text = f"Time ran out after {operators} operators, {len(found)} errors so far.{whose}"
        bad = bool(ours) or bool(re.search(r"^failed ", said, re.MULTILINE))
        return (FAILED, f"{text}\n\n{shown(ours, said)}") if bad else (UNFINISHED, text)
    summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY: .*)", said)
    text = f"{operators} operators. {summary[-1] if summary else 'No summary.'}{whose}"
    total = int("".join(re.findall(r"SUMMARY: (\d+)", summary[-1]))) if summary else 1
    good = operators > 0 and not re.search(r"^failed ", said, re.MULTILINE)
    if total and found and not ours and total <= len(found):
        good = good and status in (0, 9)
    else:
        good = good and status == 0 and total == 0
    if good:
        return GOOD, text
    return FAILED, f"{text} Exit status {status}.\n\n{shown(ours, said)}"


def shown(errors: list[str], said: str) -> str:
    """Return the first errors, which may have caused the others; else the last lines."""
    text = "\n".join(errors[:8]).splitlines()
    return tail("\n".join(text[:40]), 40) if text else tail(said, 40)
