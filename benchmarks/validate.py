"""What `adaptool validate` costs, value checks and all: whole processes, CPU seconds and peak memory by the kernel.

    python benchmarks/validate.py [--sizes 40,160] [--types F32,BF16] [--runs 5] [--work build/bench] [--only adaptool]

The adapters are LoRA r=16 on all linear layers of a Llama of width 2048, with seeded normal factors. Beside the whole
command its parts: starting Python with adaptool's rules imported and nothing validated, and the same command on the
header alone (--ignore VAL). Peers: `cat` and `sha256sum`, which read every byte once and see nothing; `import peft`,
where anyone who checks an adapter with its own library begins; and that followed by reading every tensor and looking
for NaN. `--profile` prints where one run's time goes instead.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import Run, measure, spread

WIDTH, RANK = 2048, 16
KEYS, INNER = WIDTH // 4, WIDTH * 11 // 4
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (KEYS, WIDTH), "self_attn.v_proj": (KEYS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip

NOTHING = "import adaptool.api, adaptool.rules, adaptool.cli.main, adaptool.cli.validate"

WITH_PEFT = """
import sys, peft, torch
from safetensors.torch import load_file
tensors = load_file(sys.argv[1] + "/adapter_model.safetensors")
print(sum(int((~torch.isfinite(tensor)).sum()) for tensor in tensors.values()))
"""

PROFILE = """
import cProfile, pstats, sys
from adaptool.cli.main import main
profile = cProfile.Profile()
profile.runcall(main, ["validate", sys.argv[1], "--workers", "1"])
pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
"""


def make_adapter(folder: Path, megabytes: int, kind: str) -> None:
    """An adapter of about this size, with as many layers as that takes."""
    import numpy as np

    from adaptool.rules.draft import CONFIG, packed
    from adaptool.tensors.dtypes import DTYPES, narrow

    layer = sum(sum(shape) for shape in SHAPES.values()) * RANK * DTYPES[kind].itemsize
    random = np.random.default_rng(0)
    tensors = {}
    for number in range(max(1, round(megabytes * 1e6 / layer))):
        for name, (rows, columns) in SHAPES.items():
            key = f"base_model.model.model.layers.{number}.{name}"
            for part, shape, size in (("lora_A", (RANK, columns), 0.02), ("lora_B", (rows, RANK), 0.01)):
                values = random.normal(0, size, shape).astype(np.float32)
                tensors[f"{key}.{part}.weight"] = narrow(values, DTYPES[kind])
    folder.mkdir(parents=True)
    own = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": [name.rpartition(".")[2] for name in SHAPES]}
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | own))
    content = packed(tensors, dict.fromkeys(tensors, kind), {"format": "pt"})
    (folder / "adapter_model.safetensors").write_bytes(content)


def commands(adapter: Path) -> dict[str, list[str]]:
    """Name → command of everything that can run here."""
    weights, python = str(adapter / "adapter_model.safetensors"), sys.executable
    program = [python, "-c", "import sys; from adaptool.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    found = {
        "adaptool validate": [*program, "validate", str(adapter)],
        "adaptool validate --ignore VAL": [*program, "validate", str(adapter), "--ignore", "VAL"],
        "adaptool, imported only": [python, "-c", NOTHING],
        "cat": ["cat", weights],
        "sha256sum": ["sha256sum", weights],
    }
    if subprocess.run([python, "-c", "import importlib.util as u; exit(not u.find_spec('peft'))"]).returncode == 0:
        found["import peft"] = [python, "-c", "import peft"]
        found["import peft, load, look for NaN"] = [python, "-c", WITH_PEFT, str(adapter)]
    return found


def table(results: dict[str, list[Run]]) -> str:
    """Markdown: medians and their spread."""
    lines = ["| | CPU s | wall s | peak RSS MB |", "|---|---|---|---|"]
    for name, runs in results.items():
        cpus, walls = spread([run.cpu for run in runs], 2), spread([run.wall for run in runs], 2)
        lines.append(f"| {name} | {cpus} | {walls} | {statistics.median(run.rss_mb for run in runs):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="40,160", help="megabytes")
    parser.add_argument("--types", default="F32,BF16")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, help="default: a temporary folder")
    parser.add_argument("--only", default="", help="commands whose name begins so")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        folder, megabytes, kind = options.make
        return make_adapter(Path(folder), int(megabytes), kind)
    work = options.work or Path(tempfile.mkdtemp(prefix="adaptool-bench-"))
    try:
        for size in map(int, options.sizes.split(",")):
            for kind in options.types.split(","):
                adapter = work / f"{kind}-{size}"
                if not adapter.exists():  # in a process of its own: what this one holds counts as its children's peak
                    subprocess.run([sys.executable, __file__, "--make", str(adapter), str(size), kind], check=True)
                if options.profile:
                    subprocess.run([sys.executable, "-c", PROFILE, str(adapter)], check=True)
                    continue
                chosen = {name: line for name, line in commands(adapter).items() if name.startswith(options.only)}
                results: dict[str, list[Run]] = {name: [] for name in chosen}
                for number in range(options.runs + 1):
                    for name, line in chosen.items():
                        run = measure(line, adapter, fresh=False)
                        if number:  # the first warms the page cache
                            results[name].append(run)
                print(f"\n{size} MB, {kind}\n\n{table(results)}")
    finally:
        if options.work is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
