"""What `adaptool diff` costs: whole processes, CPU seconds and peak memory by the kernel.

    python benchmarks/diff.py [--runs 5] [--work build/bench] [--only 84] [--models 2000] [--profile]

Adapters have the shapes of Llama 3.1 8B: r=16 on all seven projections of 32 layers (84 MB in bf16, 168 in float32),
and r=64 on q, k, v and o (109 MB in bf16). Of each there is a pair that was trained on, a pair that is B·Q, Qᵀ·A of the
same ΔW in float32, and an adapter beside its copy. Models are seeded bf16 checkpoints of a Llama of width 2048: one
beside itself with a rank-16 update merged into its projections, beside a copy in other shards, and beside its float16.
Beside the whole command: starting Python with what diff imports, and `cmp`, which reads both files once. `--profile`
prints where one run's time goes instead.
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
from typing import Any

from measuring import Run, spread

ATTENTION = {"self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096), "self_attn.v_proj": (1024, 4096),
             "self_attn.o_proj": (4096, 4096)}  # fmt: skip
ALL = {**ATTENTION, "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096), "mlp.down_proj": (4096, 14336)}
ADAPTERS = {
    "84 MB, r=16, all linear": (ALL, 16, "BF16"),
    "109 MB, r=64, attention": (ATTENTION, 64, "BF16"),
    "168 MB, r=16, all linear, float32": (ALL, 16, "F32"),
}
LAYERS = 32

PROGRAM = "import sys; from adaptool.cli.main import main; sys.exit(main(sys.argv[1:]))"
NOTHING = (
    "import adaptool.api, adaptool.cli.main, adaptool.cli.diff, adaptool.comparing.adapters, adaptool.reports.json"
)
PROFILE = """
import cProfile, pstats, sys
from adaptool.cli.main import main
profile = cProfile.Profile()
profile.runcall(main, ["diff", sys.argv[1], sys.argv[2], "--json"])
pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
"""


def make_adapters(folder: Path, kind: str) -> None:
    """An adapter, its copy, what became of it in training, and the same ΔW of other factors."""
    import numpy as np

    shapes, rank, stored = ADAPTERS[kind]
    random = np.random.default_rng(0)
    made: dict[str, dict[str, Any]] = {"first": {}, "trained on": {}, "rotated": {}}
    for layer in range(LAYERS):
        for name, (rows, columns) in shapes.items():
            A = random.normal(0, 0.02, (rank, columns)).astype(np.float32)
            B = random.normal(0, 0.01, (rows, rank)).astype(np.float32)
            moved = [x + 0.1 * x.std() * random.standard_normal(x.shape).astype(np.float32) for x in (A, B)]
            turn = np.linalg.qr(random.standard_normal((rank, rank)))[0]
            A, B = (_as(x, stored) for x in (A, B))
            key = f"base_model.model.model.layers.{layer}.{name}"
            for which, (a, b) in {"first": (A, B), "trained on": moved, "rotated": (turn.T @ A, B @ turn)}.items():
                made[which] |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    for which, tensors in made.items():
        _write_adapter(folder / which, tensors, rank, list(shapes), "F32" if which == "rotated" else stored)
    shutil.copytree(folder / "first", folder / "copy")


def _as(values: Any, kind: str) -> Any:
    """Rounded to the type it will be stored in, so that a pair can be the same to the last bit."""
    from adaptool.tensors.dtypes import dtype, narrow, widen

    return widen(narrow(values, dtype(kind)), dtype(kind))


def _write_adapter(folder: Path, tensors: dict[str, Any], rank: int, targets: list[str], kind: str) -> None:
    import numpy as np

    from adaptool.rules.draft import CONFIG, packed
    from adaptool.tensors.dtypes import dtype, narrow

    folder.mkdir(parents=True)
    own = {"r": rank, "lora_alpha": 2 * rank, "target_modules": [name.rpartition(".")[2] for name in targets]}
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | own))
    stored = {key: narrow(np.asarray(value, np.float32), dtype(kind)) for key, value in tensors.items()}
    (folder / "adapter_model.safetensors").write_bytes(packed(stored, dict.fromkeys(stored, kind), {"format": "pt"}))


def make_models(folder: Path, megabytes: int) -> None:
    """A bf16 Llama of about this size; with an update merged into it, in other shards, in another type."""
    import numpy as np

    width, inner, vocabulary = 2048, 5632, 32000
    shapes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (256, width), "self_attn.v_proj": (256, width),
              "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
              "mlp.down_proj": (width, inner)}  # fmt: skip
    per_layer = sum(rows * columns for rows, columns in shapes.values()) * 2
    layers = max(1, round((megabytes * 1e6 - 4 * vocabulary * width) / per_layer))
    weights: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        weights |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    weights |= {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}

    def values(name: str, update: bool) -> Any:
        shape, random = weights[name], np.random.default_rng(sorted(weights).index(name))
        W = _as(random.standard_normal(shape, np.float32) * np.float32(0.02), "BF16")
        if update and "proj" in name:
            B, A = (random.standard_normal(s, np.float32) for s in ((shape[0], 16), (16, shape[1])))
            W += B @ A * np.float32(2e-4)
        return W

    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "intermediate_size":
              inner, "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size":
              vocabulary, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}  # fmt: skip
    for which, shards, kind in (("first", 1, "BF16"), ("merged", 1, "BF16"), ("in shards", 4, "BF16"), ("in float16", 1,
                                "F16")):  # fmt: skip
        place = folder / which
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        homes = {name: number * shards // len(weights) for number, name in enumerate(weights)}
        for shard in range(shards):
            mine = {name: shape for name, shape in weights.items() if homes[name] == shard}
            file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            _stream(place / file, mine, kind, lambda name, merged=which == "merged": values(name, merged))
        if shards > 1:
            index = {name: f"model-{home + 1:05d}-of-{shards:05d}.safetensors" for name, home in homes.items()}
            (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    shutil.copytree(folder / "first", folder / "copy")


def _stream(path: Path, shapes: dict[str, tuple[int, ...]], kind: str, values: Any) -> None:
    """A safetensors file, a tensor in memory at a time."""
    import struct

    from adaptool.tensors.dtypes import dtype, narrow

    at, header = 0, {}
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            file.write(narrow(values(name), dtype(kind)).tobytes())


def measure(command: list[str]) -> Run:
    """One run of a command that may say "they differ" by its exit code."""
    import os
    import time

    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.exit(f"{command[:4]} failed:\n{errors.decode()[-2000:]}")
    return Run(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def commands(folder: Path, weights: str) -> dict[str, list[str]]:
    """Name → command: the first of the folder against each of the others."""
    python = sys.executable
    found = {}
    for other in sorted(path.name for path in folder.iterdir() if path.name != "first"):
        both = [str(folder / "first"), str(folder / other)]
        found[f"adaptool diff, {other}"] = [python, "-c", PROGRAM, "diff", *both, "--json"]
    found["cmp, copy"] = ["cmp", *(str(folder / which / weights) for which in ("first", "copy"))]
    found["adaptool, imported only"] = [python, "-c", NOTHING]
    return found


def table(results: dict[str, list[Run]]) -> str:
    """Markdown: medians and their spread."""
    lines = ["| | CPU s | wall s | peak RSS MB |", "|---|---|---|---|"]
    for name, runs in results.items():
        cpus, walls = spread([run.cpu for run in runs], 2), spread([run.wall for run in runs], 2)
        lines.append(f"| {name} | {cpus} | {walls} | {statistics.median(run.rss_mb for run in runs):.0f} |")
    return "\n".join(lines)


def compare(title: str, folder: Path, weights: str, options: argparse.Namespace) -> None:
    """Measure, or profile, all that can be done with what lies in ``folder``."""
    if options.profile:
        for other in sorted(path.name for path in folder.iterdir() if path.name != "first"):
            line = [sys.executable, "-c", PROFILE, str(folder / "first"), str(folder / other)]
            subprocess.run(line, stdout=subprocess.DEVNULL)
        return
    chosen = commands(folder, weights)
    results: dict[str, list[Run]] = {name: [] for name in chosen}
    for number in range(options.runs + 1):
        for name, line in chosen.items():
            run = measure(line)
            if number:  # the first warms the page cache
                results[name].append(run)
    print(f"\n{title}\n\n{table(results)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, help="default: a temporary folder")
    parser.add_argument("--only", default="", help="adapters whose name begins so")
    parser.add_argument("--models", type=int, default=0, help="megabytes of a pair of models to measure too")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        folder, what = options.make
        return make_models(Path(folder), int(what)) if what.isdigit() else make_adapters(Path(folder), what)
    work = options.work or Path(tempfile.mkdtemp(prefix="adaptool-bench-"))
    wanted = {kind: (kind, "adapter_model.safetensors") for kind in ADAPTERS if kind.startswith(options.only)}
    if options.models:
        wanted[f"{options.models} MB of model"] = (str(options.models), "model.safetensors")
    try:
        for title, (what, weights) in wanted.items():
            folder = work / title.replace(" ", "-").replace(",", "")
            if not folder.exists():  # in a process of its own: what this one holds counts as its children's peak
                subprocess.run([sys.executable, __file__, "--make", str(folder), what], check=True)
            compare(title, folder, weights, options)
    finally:
        if options.work is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
