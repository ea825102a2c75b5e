"""What `adaptool version check` costs on a repository of many adapters: whole processes, CPU seconds by the kernel.

    python benchmarks/check.py [--adapters 1000] [--changed 5] [--megabytes 1] [--runs 3] [--work build/bench]

The repository holds LoRAs r=8 of one megabyte each with their manifests, in one commit; a second commit trains a few of
them on and bumps their versions. Measured: the whole check of the working tree, the check against the commit before,
and beside them `git status`, which is what asking Git about every file costs, and `sha256sum` of every weight.
`--profile` prints where one run's time goes instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from measuring import Run, measure, spread

PROGRAM = "import sys; from adaptool.cli.main import main; sys.exit(main(sys.argv[1:]))"
PROFILE = """
import cProfile, pstats, sys
from adaptool.cli.main import main
profile = cProfile.Profile()
profile.runcall(main, sys.argv[1:])
pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
"""
WIDTH, RANK, MODULES = 1024, 8, ("q_proj", "k_proj", "v_proj", "o_proj")


def make_repository(folder: Path, adapters: int, changed: int, megabytes: float) -> None:
    """The two commits."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for number in range(adapters):
        write_adapter(folder / "adapters" / f"a{number:04d}", number, "1.0.0", megabytes)
    commit(folder, "all of them")
    for number in range(changed):
        write_adapter(folder / "adapters" / f"a{number * adapters // max(1, changed):04d}", adapters + number, "1.0.1",
                      megabytes)  # fmt: skip
    commit(folder, "some trained on")


def write_adapter(folder: Path, seed: int, version: str, megabytes: float) -> None:
    """An adapter and its manifest."""
    import json

    import numpy as np

    from adaptool.rules.draft import CONFIG, packed
    from adaptool.versioning.record import record_text
    from adaptool.versioning.recording import record_of

    random = np.random.default_rng(seed)
    layers = max(1, round(megabytes * 1e6 / (len(MODULES) * 2 * WIDTH * RANK * 4)))
    tensors = {}
    for layer in range(layers):
        for module in MODULES:
            key = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{key}.lora_A.weight"] = random.normal(0, 0.02, (RANK, WIDTH)).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = random.normal(0, 0.01, (WIDTH, RANK)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    own = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(MODULES)}
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | own))
    content = packed(tensors, dict.fromkeys(tensors, "F32"), {"format": "pt"})
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "adaptool.json").write_text(record_text(replace(record_of(folder), version=version)), encoding="utf-8")


def git(folder: Path, *arguments: str) -> None:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(["git", *arguments], cwd=folder, check=True, env={**os.environ, **who})


def commit(folder: Path, subject: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", subject)


def commands(folder: Path) -> dict[str, list[str]]:
    """Name → command of everything that is measured."""
    check = [sys.executable, "-c", PROGRAM, "version", "check", str(folder)]
    return {
        "check": check,
        "check --against HEAD~1": [*check, "--against", "HEAD~1"],
        "git status": ["git", "-C", str(folder), "status", "--porcelain"],
        "sha256sum": ["sh", "-c", f"find '{folder}' -name '*.safetensors' | xargs sha256sum"],
    }


def table(results: dict[str, list[Run]]) -> str:
    """Markdown: medians and their spread."""
    lines = ["| | CPU s | wall s | peak RSS MB |", "|---|---|---|---|"]
    for name, runs in results.items():
        cpus, walls = spread([run.cpu for run in runs], 2), spread([run.wall for run in runs], 2)
        lines.append(f"| {name} | {cpus} | {walls} | {max(run.rss_mb for run in runs):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--changed", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="default: a temporary folder")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="adaptool-bench-"))
    folder = work / f"{options.adapters}x{options.megabytes:g}-{options.changed}"
    try:
        if not folder.exists():
            make_repository(folder, options.adapters, options.changed, options.megabytes)
        if options.profile:
            for extra in ([], ["--against", "HEAD~1"]):
                subprocess.run([sys.executable, "-c", PROFILE, "version", "check", str(folder), *extra], check=True)
            return
        results: dict[str, list[Run]] = {name: [] for name in commands(folder)}
        for number in range(options.runs + 1):
            for name, line in commands(folder).items():
                run = measure(line, folder, fresh=False)
                if number:  # the first warms the page cache
                    results[name].append(run)
        print(
            f"\n{options.adapters} adapters of {options.megabytes:g} MB, {options.changed} changed\n\n{table(results)}"
        )
    finally:
        if options.work is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
