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
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOM = Path("adaptool/tensors")
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared"]


class KernelHook(BuildHookInterface):
    """Compiles ``_kernels.c`` into a plain shared library beside it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files of a wheel (also of an editable one)."""
        if self.target_name != "wheel":
            return
        library = compile_kernels(Path(self.root) / ROOM)
        if library is None:
            self.app.display_warning("no C compiler: adaptool will use its NumPy kernels (same bytes, slower)")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(f"/{ROOM}/{library.name}")


def compile_kernels(room: Path) -> Path | None:
    """The compiled library, or None where nothing here can compile it; replaced atomically."""
    candidates = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    compiler = next(filter(None, map(shutil.which, candidates)), None)
    if compiler is None or sys.platform == "win32":
        return None
    target = room / "_kernels.so"
    # Dispatch on the processor at load time (GNU ifunc); other platforms compile for their baseline.
    variants = [["-DADAPTOOL_CLONES"], []] if platform.machine() in ("x86_64", "AMD64") else [[]]
    with tempfile.TemporaryDirectory(dir=room) as work:
        for extra in variants:
            made = Path(work) / "kernels.so"
            command = [compiler, *FLAGS, *extra, str(room / "_kernels.c"), "-o", str(made)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                made.replace(target)
                return target
    return None


if __name__ == "__main__":
    sys.stdout.write(f"{compile_kernels(Path(__file__).parent / ROOM) or 'no C compiler found'}\n")
