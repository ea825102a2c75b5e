"""Measuring commands as whole processes: CPU seconds and peak memory as the kernel counts them, time to the disk."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Run:
    """One finished process."""

    wall: float
    cpu: float
    rss_mb: float


def measure(command: list[str], out: Path, *, fresh: bool = True) -> Run:
    """Run a command from a clean output (``fresh``: removed here) to the output on the disk."""
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    os.sync()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{errors.decode()[-2000:]}")
    subprocess.run(["sync", "-f", str(out)], check=True)
    return Run(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def written_mb(out: Path) -> float:
    """Megabytes of all files in the output."""
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6


def spread(values: list[float], digits: int = 1) -> str:
    """Median (smallest–largest)."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
