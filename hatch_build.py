"""Build hook: compile the kernels where there is a C compiler, and carry on without them where there is none.

The bytes adaptool writes never depend on whether this worked; only the speed does.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TENSORS = Path("adaptool/tensors")
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fPIC"]


class KernelHook(BuildHookInterface):
    """Compiles the C sources into plain shared libraries beside them."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files of a wheel (also of an editable one)."""
        if self.target_name != "wheel":
            return
        libraries = compile_kernels(Path(self.root))
        if not libraries:
            self.app.display_warning("no C compiler: adaptool will use NumPy and a prebuilt ggml (same bytes, slower)")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"] += [f"/{library.relative_to(self.root).as_posix()}" for library in libraries]


def compile_kernels(root: Path) -> list[Path]:
    """The libraries made: the merge's loops, and GGML's quantisers; none where nothing here can compile them."""
    tensors = root / TENSORS
    wanted = {
        tensors / "_kernels.so": [tensors / "_kernels.c"],
        tensors / "ggml" / "_quants.so": sorted((tensors / "ggml").glob("*.c")),
    }
    return [target for target, sources in wanted.items() if compile_library(target, sources)]


def compile_library(target: Path, sources: list[Path]) -> bool:
    """Compile ``sources`` side by side and link them into ``target``, replaced atomically; False where that fails."""
    candidates = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    compiler = next(filter(None, map(shutil.which, candidates)), None)
    if compiler is None or sys.platform == "win32":
        return False
    if up_to_date(target, [*sources, *target.parent.glob("*.h"), Path(__file__)]):
        return True
    # Dispatch on the processor at load time (GNU ifunc); other platforms compile for their baseline.
    variants = [["-DADAPTOOL_CLONES"], []] if platform.machine() in ("x86_64", "AMD64") else [[]]
    with tempfile.TemporaryDirectory(dir=target.parent) as work, ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = [str(Path(work) / f"{source.stem}.o") for source in sources]
        made = Path(work) / target.name
        for extra in variants:
            compiling = [
                threads.submit(succeeds, compiler, *FLAGS, *extra, "-c", str(source), "-o", each)
                for source, each in zip(sources, objects, strict=True)
            ]
            done = [each.result() for each in compiling]
            if all(done) and succeeds(compiler, "-shared", *objects, "-lm", "-o", str(made)):
                made.replace(target)
                return True
    return False


def up_to_date(target: Path, sources: list[Path]) -> bool:
    """Whether the library is newer than all it is made from: an editable install is repeated for every extra."""
    return target.exists() and all(source.stat().st_mtime <= target.stat().st_mtime for source in sources)


def succeeds(*command: str) -> bool:
    """Whether the command ends well; what it says is of no interest, as there is always another way."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    made = compile_kernels(Path(__file__).parent)
    sys.stdout.write("".join(f"{library}\n" for library in made) or "no C compiler found\n")
