"""Every reader of a stranger's bytes, fuzzed: whatever comes in, a value or a worded error comes out.

Seeds are in tests/corpus (made by its make.py; what was found once stays there). A run is time-boxed: FUZZ_SECONDS for
each reader, 3 by default; ``make fuzz`` gives each ten minutes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from adaptool.adapters.config import read_config
from adaptool.errors import AdaptoolError
from adaptool.reports.github import github
from adaptool.reports.junit import junit
from adaptool.reports.markdown import markdown
from adaptool.reports.sarif import sarif
from adaptool.reports.validate_text import validation_report
from adaptool.rules.draft import Draft
from adaptool.rules.engine import Options, validate
from adaptool.rules.selection import CONSUMERS, EVERYTHING, Selection
from adaptool.summary.gguf import inspect_gguf
from adaptool.tensors.gguf import open_gguf
from adaptool.tensors.pickles import open_pickle
from adaptool.tensors.safetensors import open_safetensors

CORPUS = Path(__file__).parent / "corpus"
BOX_SECONDS = float(os.environ.get("FUZZ_SECONDS", "3"))

TOKENS = [
    b"\x00", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80\x04", b"{", b"}", b"[" * 3000, b'":', b"null", b"NaN", b"-1",
    b"1e999", b'"\\ud800"', b"\xef\xbb\xbf", b"(a+)+$", b"true", b'"r": 0, ', b'"peft_type": "IA3", ', b"F32",
    b"99999999999999999999",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["put", "insert", "cut", "copy"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=12) | st.sampled_from(TOKENS),
    ),
    min_size=1,
    max_size=5,
)


def mutated(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """``data`` after some edits, each somewhere along it."""
    for how, where, token in edits:
        at = int(where * len(data))
        if how == "put":
            data = data[:at] + token + data[at + len(token) :]
        elif how == "insert":
            data = data[:at] + token + data[at:]
        elif how == "cut":
            data = data[:at] + data[at + len(token) :]
        else:
            data = data[:at] + data[: len(token) * 8] + data[at:]
    return data


def seeds(kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]


def fuzz(kind: str, look: Callable[[bytes], object]) -> None:
    """``look`` at every seed as it is, then at mutations until the box is full."""
    corpus = seeds(kind)
    assert corpus
    for data in corpus:
        look(data)
    end = time.monotonic() + BOX_SECONDS

    @seed(sum(map(len, corpus)))
    @settings(max_examples=100_000 if BOX_SECONDS > 60 else 2000, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(corpus), EDITS)
    def run(data: bytes, edits: list[tuple[str, float, bytes]]) -> None:
        if time.monotonic() < end:
            look(mutated(data, edits))

    run()


def quietly(read: Callable[[Path], object], path: Path) -> Callable[[bytes], object]:
    """``read`` on a file of the bytes: a deliberate error is an answer too."""

    def look(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(AdaptoolError):
            read(path)

    return look


def everything(store):
    return [store.array(name) for name in store if store[name].size < 10_000 and not store[name].dtype.blocked]


@pytest.mark.parametrize(("kind", "name", "read"), [
    ("config", "adapter_config.json", lambda path: read_config(path).peft_type),
    ("safetensors", "x.safetensors", lambda path: everything(open_safetensors(path))),
    ("gguf", "x.gguf", lambda path: (open_gguf(path), inspect_gguf(path))),
    ("pickle", "x.bin", lambda path: everything(open_pickle(path))),
])  # fmt: skip
def test_readers(kind, name, read, tmp_path):
    fuzz(kind, quietly(read, tmp_path / name))


PLACES = {"config": "adapter_config.json", "safetensors": "adapter_model.safetensors", "pickle": "adapter_model.bin",
          "template": "chat_template.jinja"}  # fmt: skip


@pytest.mark.parametrize("kind", PLACES)
def test_validate(kind, tmp_path):
    """A whole validation, with every rule and every report: nothing raises, no rule stumbles, nothing is written."""
    adapter, _ = Draft().write(tmp_path)
    if kind == "pickle":
        (adapter / "adapter_model.safetensors").unlink()
    options = Options(Selection((EVERYTHING,), consumers=frozenset(CONSUMERS)), workers=1)

    def look(data: bytes) -> None:
        (adapter / PLACES[kind]).write_bytes(data)
        before = sorted(adapter.iterdir())
        validation = validate([adapter], None, options)
        stumbled = [item for item in validation.results[0].unchecked if "internal error" in item.reason]
        assert stumbled == []
        for write in (sarif, junit, github, markdown):
            write(validation).encode("utf-8")
        validation_report(validation, 80, verbose=True)
        assert sorted(adapter.iterdir()) == before

    fuzz(kind, look)
    shutil.rmtree(adapter)
