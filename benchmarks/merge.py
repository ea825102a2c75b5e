"""What a merge costs beside its peers: whole processes, in turn, CPU seconds and peak memory as the kernel counts them.

    python benchmarks/merge.py [--layers 22] [--runs 5] [--work build/bench] [--only adaptool,cp]

The base is a synthetic bf16 Llama (hidden 2048, 22 layers: 1.1 B parameters, 2.2 GB, in shards of 500 MB), the adapter
r=16 on all linear layers in fp32. Peers: PEFT's load + merge_and_unload + save_pretrained, mergekit where it is
installed, and `cp -r` followed by a sync, the floor for anything that writes the model. Every command starts with the
inputs in the page cache and ends when its output is on the disk.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import Run, measure, spread, written_mb

MAKE_INPUTS = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig
layers, hidden, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
config = LlamaConfig(hidden_size=hidden, intermediate_size=hidden * 11 // 4, num_hidden_layers=layers,
                     num_attention_heads=hidden // 64, num_key_value_heads=4, vocab_size=32000, dtype="bfloat16")
model = AutoModelForCausalLM.from_config(config)
model.save_pretrained(out + "/base", max_shard_size="500MB")
adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
generator = torch.Generator().manual_seed(1)
for name, parameter in adapted.named_parameters():
    if "lora_" in name:
        parameter.data = parameter.data.float().normal_(0, 0.02, generator=generator)
adapted.save_pretrained(out + "/adapter")
"""

PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out, max_shard_size="500MB")
"""

MERGEKIT = """
models:
  - model: {base}+{adapter}
merge_method: passthrough
dtype: bfloat16
"""


def peers(inputs: Path, out: Path) -> dict[str, list[str]]:
    """Name → command of everything that can run here."""
    base, adapter = str(inputs / "base"), str(inputs / "adapter")
    bin_folder = Path(sys.executable).parent
    found = {
        "cp": ["cp", "-r", base, str(out)],
        "adaptool": [str(bin_folder / "adaptool"), "-q", "merge", adapter, "--base", base, "--out", str(out)],
        "adaptool (NumPy only)": [
            sys.executable,
            "-c",
            WITHOUT_KERNELS,
            "merge",
            adapter,
            "--base",
            base,
            "--out",
            str(out),
        ],
        "PEFT": [sys.executable, "-c", PEFT, base, adapter, str(out)],
    }
    if (bin_folder / "mergekit-yaml").exists():
        recipe = inputs / "mergekit.yaml"
        recipe.write_text(MERGEKIT.format(base=base, adapter=adapter))
        cache = ["--lora-merge-cache", str(inputs / "mergekit-cache")]
        found["mergekit"] = [str(bin_folder / "mergekit-yaml"), str(recipe), str(out), *cache]
    return found


WITHOUT_KERNELS = """
import sys
from adaptool.tensors import kernels
kernels.library = lambda: None
from adaptool.tensors import compute
compute.library = kernels.library
from adaptool.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def same_weights(one: Path, other: Path) -> str:
    """How many tensors two folders hold with equal bytes."""
    from adaptool.adapters.base import open_base

    left, right = open_base(one).store, open_base(other).store
    equal = sum(name in right and (left.read(name) == right.read(name)).all() for name in left)
    return f"{equal} of {len(left)} tensors bit-equal"


def table(results: dict[str, list[Run]], sizes: dict[str, float]) -> str:
    """Markdown: medians, their spread, and ratios to PEFT and to cp."""

    def middle(name: str, figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in results[name])

    lines = [
        "| | CPU s | wall s | peak RSS MB | written MB | CPU : PEFT | wall : cp |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        cpu, wall = middle(name, "cpu"), middle(name, "wall")
        cpus, walls = spread([run.cpu for run in runs]), spread([run.wall for run in runs])
        to_peft = f"{cpu / middle('PEFT', 'cpu'):.2f}" if "PEFT" in results else "–"
        to_cp = f"{wall / middle('cp', 'wall'):.1f}" if "cp" in results else "–"
        rss = max(run.rss_mb for run in runs)
        lines.append(f"| {name} | {cpus} | {walls} | {rss:.0f} | {sizes[name]:.0f} | {to_peft} | {to_cp} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    inputs = options.work / f"llama-{options.layers}x{options.hidden}"
    if not (inputs / "adapter").exists():
        subprocess.run(
            [sys.executable, "-c", MAKE_INPUTS, str(options.layers), str(options.hidden), str(inputs)], check=True
        )
    out = options.work / "out"
    chosen = {k: v for k, v in peers(inputs, out).items() if not options.only or k in options.only.split(",")}
    results: dict[str, list[Run]] = {name: [] for name in chosen}
    sizes: dict[str, float] = {}
    for number in range(options.runs + 1):
        for name, command in chosen.items():
            run = measure(command, out)
            sizes[name] = written_mb(out)
            if number == 0 and name in ("PEFT", "adaptool"):
                out.rename(options.work / f"kept-{name}")
            if number:
                results[name].append(run)
    print(table(results, sizes))
    kept = [options.work / f"kept-{name}" for name in ("PEFT", "adaptool")]
    if all(path.exists() for path in kept):
        print(f"\nadaptool against PEFT: {same_weights(*kept)}")
    for path in (*kept, out):
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
