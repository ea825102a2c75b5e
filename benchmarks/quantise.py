"""How fast rows are quantised: M elements per CPU-second, one thread, our kernels beside the prebuilt ggml.

    python benchmarks/quantise.py [--types Q4_K,Q6_K] [--megabytes 16]

Both quantise the same normally distributed rows of 4096 columns, in turn, three times; the bytes are compared.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from adaptool.tensors.ggml.quantize import Backend, quantize
from adaptool.tensors.ggml.types import GGML_TYPES

TYPES = "Q8_0,Q4_0,Q4_1,Q5_0,Q5_1,Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,IQ4_NL,IQ4_XS,MXFP4"


def speed(values: np.ndarray, name: str, backend: Backend, importance: np.ndarray | None) -> tuple[float, bytes]:
    """Elements per CPU-second, and what was written."""
    start = time.thread_time()
    written = quantize(values, GGML_TYPES[name], importance, backend=backend)
    return values.size / (time.thread_time() - start), written.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--megabytes", type=int, default=16, help="of float32")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    values = generator.standard_normal((options.megabytes * 64, 4096), np.float32) * np.float32(0.02)
    weights = np.square(generator.standard_normal(4096, np.float32))
    print("| | ours | libggml | ratio | with an imatrix: ours | libggml | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in options.types.split(","):
        cells = [name]
        for importance in (None, weights):
            best = {Backend.KERNELS: 0.0, Backend.LIBGGML: 0.0}
            bytes_ = set()
            for _ in range(3):
                for backend in best:
                    rate, written = speed(values, name, backend, importance)
                    best[backend] = max(best[backend], rate)
                    bytes_.add(written)
            assert len(bytes_) == 1, f"{name}: the bytes differ"
            ours, theirs = (best[backend] / 1e6 for backend in best)
            cells += [f"{ours:.0f}", f"{theirs:.1f}", f"{ours / theirs:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
