"""What an adapter costs on its way to a quantised GGUF: whole processes, in turn, beside llama.cpp's own tools.

    python benchmarks/gguf.py [--llama-cpp DIR] [--layers 22] [--runs 3] [--type q4_k_m] [--work build/bench]

The base is a synthetic bf16 Llama of 1.1 B parameters (2.2 GB) with a tokenizer of 32000 tokens, the adapter r=16 on
all linear layers. Peers, where ``--llama-cpp`` names a llama.cpp checkout with ``build/bin/llama-quantize`` in it:
``llama-quantize`` alone, from a bf16 GGUF that is there already; and the usual pipeline: PEFT merge and save,
``convert_hf_to_gguf.py`` (run by ``--python``, which must have what it needs), ``llama-quantize``. Every command starts
with its inputs in the page cache and ends when its output is on the disk. The first run is warm-up, and is shown as the
cold one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import Run, measure, spread, written_mb
from merge import MAKE_INPUTS, PEFT

TOKENS = 32000


def make_inputs(folder: Path, layers: int) -> None:
    """The base, the adapter, and a byte-fallback tokenizer as Llama 2's is built: made-up pieces, no merges."""
    subprocess.run([sys.executable, "-c", MAKE_INPUTS, str(layers), "2048", str(folder)], check=True)
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *bytes_]
    pieces += [f"▁piece{number}" for number in range(TOKENS - len(pieces))]
    special = [
        {"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i in range(3)
    ]  # fmt: skip
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
            "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": [],
        },
    }  # fmt: skip
    settings = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "base/tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (folder / "base/tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def pipeline(steps: list[list[str]]) -> list[str]:
    """Several commands as one process tree."""
    code = "import subprocess, sys, json\nfor step in json.loads(sys.argv[1]): subprocess.run(step, check=True)"
    return [sys.executable, "-c", code, json.dumps(steps)]


def commands(inputs: Path, out: Path, kind: str, options: argparse.Namespace) -> dict[str, list[str]]:
    """Name → command of everything that can run here."""
    base, adapter = str(inputs / "base"), str(inputs / "adapter")
    adaptool = str(Path(sys.executable).parent / "adaptool")
    found = {
        "adaptool": [adaptool, "-q", "merge", adapter, "--base", base, "--out", str(out), "--to-gguf", kind,
                     "--no-safetensors"],
        "adaptool convert (no adapter)": [adaptool, "-q", "convert", base, "--out", str(out / "model.gguf"),
                                          "--to-gguf", kind],
    }  # fmt: skip
    if options.llama_cpp is None:
        return found
    quantize = str(options.llama_cpp / "build/bin/llama-quantize")
    convert = [options.python, str(options.llama_cpp / "convert_hf_to_gguf.py")]
    ready = inputs / "base-bf16.gguf"
    if not ready.exists():
        subprocess.run([*convert, base, "--outfile", str(ready), "--outtype", "bf16"], check=True)
    middle = str(out / "bf16.gguf")
    found["llama-quantize alone"] = [quantize, str(ready), str(out / "model.gguf"), kind.upper()]
    found["PEFT + convert + llama-quantize"] = pipeline(
        [
            [sys.executable, "-c", PEFT, base, adapter, str(out / "merged")],
            ["cp", f"{base}/tokenizer.json", f"{base}/tokenizer_config.json", str(out / "merged")],
            [*convert, str(out / "merged"), "--outfile", middle, "--outtype", "bf16"],
            [quantize, middle, str(out / "model.gguf"), kind.upper()],
        ]
    )
    return found


def table(results: dict[str, list[Run]], sizes: dict[str, float]) -> str:
    """Markdown: medians, spreads, and ratios."""

    def cpu(name: str) -> float:
        return statistics.median(run.cpu for run in results[name])

    lines = ["| | CPU s | wall s | peak RSS MB | written MB | CPU : llama-quantize | CPU : the pipeline |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        ratios = [
            f"{cpu(name) / cpu(peer):.2f}" if peer in results else "–"
            for peer in ("llama-quantize alone", "PEFT + convert + llama-quantize")
        ]
        figures = [spread([run.cpu for run in runs]), spread([run.wall for run in runs])]
        figures += [f"{max(run.rss_mb for run in runs):.0f}", f"{sizes[name]:.0f}", *ratios]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the interpreter for convert_hf_to_gguf.py")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    inputs = options.work / f"gguf-{options.layers}"
    if not (inputs / "base/tokenizer.json").exists():
        make_inputs(inputs, options.layers)
    out = options.work / "out"
    chosen = commands(inputs, out, options.type, options)
    chosen = {k: v for k, v in chosen.items() if not options.only or k in options.only.split(",")}
    results: dict[str, list[Run]] = {}
    sizes: dict[str, float] = {}
    for number in range(options.runs + 1):
        for name, command in chosen.items():
            shutil.rmtree(out, ignore_errors=True)
            if "merge" not in command:
                out.mkdir(parents=True)
            run = measure(command, out, fresh=False)
            sizes[name] = written_mb(out)
            key = f"{name}, first run" if number == 0 else name
            if number or name.startswith("adaptool"):
                results.setdefault(key, []).append(run)
                sizes[key] = sizes[name]
    shutil.rmtree(out, ignore_errors=True)
    print(table(results, sizes))


if __name__ == "__main__":
    main()
