"""Interruptions: killed at whatever moment, the old output is whole or the new one complete, and the merge resumes."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from making import edit_json, llama, lora, merged, tree

from adaptool.api import merge
from adaptool.errors import AdaptoolError, DiskError
from adaptool.merging.options import MergeOptions
from adaptool.tensors.dtypes import F16
from adaptool.tensors.writer import PieceWriter
from adaptool.writing import journal
from adaptool.writing.journal import JOURNAL_NAME, Journal
from adaptool.writing.publish import partial_path

LAYERS = 6
KILLED = -signal.SIGKILL
CRASHES = 50
"""Moments at which a merge is killed, spread over the some hundreds of system calls it makes: ~60 ms each."""

SEEDS = range(8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Base, adapter, an older adapter, and the output each gives undisturbed."""
    folder = tmp_path_factory.mktemp("inputs")
    base = llama(folder / "base", layers=LAYERS, shards=2)
    new, old = lora(folder / "new", layers=LAYERS), lora(folder / "old", layers=LAYERS, rank=2)
    merged(base, new, folder / "out-new")
    merged(base, old, folder / "out-old")
    return {
        "base": base,
        "new": new,
        "old": old,
        "new tree": tree(folder / "out-new"),
        "old tree": tree(folder / "out-old"),
    }


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "adaptool.tensors.pickles", "adaptool.tensors.bnb", "threadpoolctl"])
"""A child is forked from a process that has imported what it needs, so that starting one costs milliseconds."""


def in_child(target: Callable[..., None], *args: object) -> int:
    """Run a function in a process of its own; its exit code, negative for a signal."""
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def killed_at_event(inputs: dict, out: Path, number: int, count: Path | None, exchange: bool) -> None:
    """Overwrite OUT, and die at the ``number``-th thing the interpreter asks of the system."""
    seen = 0

    def watch(event: str, _: object) -> None:
        nonlocal seen
        if event.startswith(("open", "os.", "shutil.", "ctypes", "fcntl")):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    if not exchange:
        from adaptool.writing import publish

        publish._renameat2_exchange = lambda *_: False
    sys.addaudithook(watch)
    merged(inputs["base"], inputs["new"], out, overwrite=True, workers=2)
    if count is not None:
        count.write_text(str(seen))


def old_output(inputs: dict, out: Path) -> None:
    shutil.rmtree(partial_path(out), ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    for name, data in inputs["old tree"].items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


def weights(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name.endswith(".safetensors")}


def state_of(inputs: dict, out: Path) -> str:
    """Which of the two outputs is there, whole."""
    found = tree(out) if out.exists() else None
    return next((name for name in ("old", "new") if found == inputs[f"{name} tree"]), "neither")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_killed_at_any_system_call(exchange, inputs, tmp_path):
    out, count = tmp_path / "out", tmp_path / "count"
    old_output(inputs, out)
    assert in_child(killed_at_event, inputs, out, 0, count, exchange) == 0
    events = int(count.read_text())
    chosen = sorted({*random.Random(0).sample(range(1, events), CRASHES), *range(events - 12, events)})
    for number in chosen:
        old_output(inputs, out)
        assert in_child(killed_at_event, inputs, out, number, None, exchange) == KILLED
        found = state_of(inputs, out)
        if not exchange and not out.exists():
            assert tree(out.with_name("out.displaced")) == inputs["old tree"], f"event {number} of {events}"
        else:
            assert found in ("old", "new"), f"event {number} of {events}"
        merged(inputs["base"], inputs["new"], out, overwrite=True, resume=True)
        assert weights(inputs["new tree"]) == weights(tree(out)), f"event {number} of {events}"
        assert {path.name for path in tmp_path.iterdir()} == {"out", "count"}


def slow_merge(inputs: dict, out: Path, ready: Path) -> None:
    job = merge([(inputs["new"], 1.0)], inputs["base"], out, options=MergeOptions(workers=2, overwrite=True))
    for _ in job:
        ready.touch()
        time.sleep(0.002)


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_a_random_moment(seed, inputs, tmp_path):
    out, ready = tmp_path / "out", tmp_path / "ready"
    old_output(inputs, out)
    process = CONTEXT.Process(target=slow_merge, args=(inputs, out, ready))
    process.start()
    while not ready.exists() and process.is_alive():
        time.sleep(0.001)
    time.sleep(random.Random(seed).uniform(0, 0.15))
    process.kill()
    process.join()
    found = state_of(inputs, out)
    assert found in ("old", "new")
    pieces = len(recorded(partial_path(out))) if found == "old" else 0
    report = merged(inputs["base"], inputs["new"], out, overwrite=True, resume=True)
    assert report.resumed_pieces == pieces
    assert weights(inputs["new tree"]) == weights(tree(out))


def recorded(partial: Path) -> list[int]:
    path = partial / JOURNAL_NAME
    if not path.exists():
        return []
    body = path.read_bytes().partition(b"\n")[2]
    return [number for (number,) in struct.iter_unpack("<I", body[: len(body) // 4 * 4])]


def interrupted(inputs: dict, out: Path, steps: int = 20, **options) -> None:
    """A merge that stops after some pieces, as if killed there."""
    run = iter(merge([(inputs["new"], 1.0)], inputs["base"], out, options=MergeOptions(workers=1, **options)))
    for _ in range(steps + 1):
        next(run)
    run.close()


@pytest.fixture
def written(monkeypatch):
    """The pieces a merge writes."""
    pieces = []
    write = PieceWriter.write
    monkeypatch.setattr(PieceWriter, "write", lambda self, piece: (pieces.append(piece), write(self, piece))[1])
    return pieces


def test_finished_pieces_are_not_done_again(inputs, tmp_path, written):
    out = tmp_path / "out"
    interrupted(inputs, out)
    assert len(recorded(partial_path(out))) == len(written) == 20
    first = {(piece.file, piece.offset) for piece in written}
    written.clear()
    report = merged(inputs["base"], inputs["new"], out, resume=True, workers=3)
    assert report.resumed_pieces == 20
    assert written
    assert not first & {(piece.file, piece.offset) for piece in written}
    assert weights(inputs["new tree"]) == weights(tree(out))


def test_a_resumed_merge_ends_bit_identical(inputs, tmp_path):
    """Every file of it: the manifest of equal merges is equal."""
    interrupted(inputs, tmp_path / "out")
    merged(inputs["base"], inputs["new"], tmp_path / "out", resume=True)
    assert inputs["new tree"] == tree(tmp_path / "out")


def test_nothing_to_resume_changes_no_byte(inputs, tmp_path):
    report = merged(inputs["base"], inputs["new"], tmp_path / "out", resume=True)
    assert any("nothing to resume" in note for note in report.notes)
    assert inputs["new tree"] == tree(tmp_path / "out")


def test_without_resume_all_is_done_again(inputs, tmp_path, written):
    interrupted(inputs, tmp_path / "out")
    written.clear()
    report = merged(inputs["base"], inputs["new"], tmp_path / "out")
    assert report.resumed_pieces == 0
    assert inputs["new tree"] == tree(tmp_path / "out")


def test_interrupted_again_and_again(inputs, tmp_path):
    out = tmp_path / "out"
    for round_ in range(1, 6):
        run = iter(
            merge([(inputs["new"], 1.0)], inputs["base"], out, options=MergeOptions(workers=2, resume=round_ > 1))
        )
        for _ in range(6):
            next(run)
        run.close()
        assert len(set(recorded(partial_path(out)))) == len(recorded(partial_path(out))) >= 5 * round_
    report = merged(inputs["base"], inputs["new"], out, resume=True)
    assert report.resumed_pieces >= 25
    assert weights(inputs["new tree"]) == weights(tree(out))


@pytest.fixture
def own(inputs, tmp_path):
    """Inputs of one test's own, to be changed between two runs."""
    for name in ("base", "new"):
        shutil.copytree(inputs[name], tmp_path / "in" / name)
    return inputs | {name: tmp_path / "in" / name for name in ("base", "new")}


def test_what_comes_after_the_weights_may_be_interrupted_too(inputs, tmp_path, monkeypatch):
    """--digest-base hashes for minutes: a kill there costs the hashing, and no piece."""
    import adaptool.merging.provenance

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adaptool.merging.provenance, "content_digest", killed)
        with pytest.raises(KeyboardInterrupt):
            merged(inputs["base"], inputs["new"], tmp_path / "out", digest_base=True)
    report = merged(inputs["base"], inputs["new"], tmp_path / "out", digest_base=True, resume=True)
    assert report.resumed_pieces > 40


def retouch(path: Path) -> None:
    """The same size, another byte, another time: what a finished download does to a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(time.time_ns(), time.time_ns()))


CHANGES = {
    "the base's weights": lambda own: retouch(own["base"] / "model-00002-of-00002.safetensors"),
    "the adapter's weights": lambda own: retouch(own["new"] / "adapter_model.safetensors"),
    "the adapter's scale": lambda own: edit_json(own["new"] / "adapter_config.json", lora_alpha=9),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_inputs_are_not_resumed(name, own, tmp_path):
    interrupted(own, tmp_path / "out")
    CHANGES[name](own)
    report = merged(own["base"], own["new"], tmp_path / "out", resume=True)
    assert report.resumed_pieces == 0
    assert any("nothing to resume" in note for note in report.notes)
    merged(own["base"], own["new"], tmp_path / "fresh")
    assert weights(tree(tmp_path / "fresh")) == weights(tree(tmp_path / "out"))


@pytest.mark.parametrize("options", [{"dtype": F16}, {"shard_size": 50_000}], ids=["dtype", "shard size"])
def test_another_recipe_is_not_resumed(options, inputs, tmp_path):
    interrupted(inputs, tmp_path / "out")
    report = merged(inputs["base"], inputs["new"], tmp_path / "out", resume=True, **options)
    assert report.resumed_pieces == 0
    merged(inputs["base"], inputs["new"], tmp_path / "fresh", **options)
    assert weights(tree(tmp_path / "fresh")) == weights(tree(tmp_path / "out"))


@pytest.mark.parametrize("more", [{"rounding": "safe"}, {"weight": 0.5}], ids=str)
def test_another_merge_is_not_resumed(more, inputs, tmp_path):
    interrupted(inputs, tmp_path / "out")
    weight, rounding = more.get("weight", 1.0), more.get("rounding", "once")
    job = merge(
        [(inputs["new"], weight)],
        inputs["base"],
        tmp_path / "out",
        rounding=rounding,
        options=MergeOptions(resume=True),
    )
    for _ in job:
        pass
    assert job.report.resumed_pieces == 0
    assert weights(tree(tmp_path / "out")) != weights(inputs["new tree"])


def test_an_earlier_boot_counts_for_nothing(inputs, tmp_path, monkeypatch):
    interrupted(inputs, tmp_path / "out")
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(journal, "BOOT_ID", tmp_path / "boot")
    assert merged(inputs["base"], inputs["new"], tmp_path / "out", resume=True).resumed_pieces == 0


def whole_line(path: Path) -> int:
    return path.read_bytes().index(b"\n") + 1


DAMAGE = {
    "half a record": lambda path: path.write_bytes(path.read_bytes() + b"\x01\x00"),
    "a number that is no piece": lambda path: path.write_bytes(path.read_bytes() + struct.pack("<I", 10**6)),
    "a number twice": lambda path: path.write_bytes(path.read_bytes() + struct.pack("<I", 0)),
    "cut in the title": lambda path: os.truncate(path, 10),
    "cut before the newline": lambda path: os.truncate(path, whole_line(path) - 1),
    "only a title": lambda path: os.truncate(path, whole_line(path)),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(os.urandom(200)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_journal(name, inputs, tmp_path):
    out = tmp_path / "out"
    interrupted(inputs, out)
    DAMAGE[name](partial_path(out) / JOURNAL_NAME)
    merged(inputs["base"], inputs["new"], out, resume=True)
    assert weights(inputs["new tree"]) == weights(tree(out))


LOSSES = {
    "a shard deleted": lambda path: path.unlink(),
    "a shard emptied": lambda path: os.truncate(path, 0),
    "a shard cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a shard grown": lambda path: os.truncate(path, path.stat().st_size + 100),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_was_written_and_is_gone_is_written_again(name, inputs, tmp_path):
    """Somebody made room, as the hint for a full disk asks: zeros must not be published for it."""
    out = tmp_path / "out"
    interrupted(inputs, out, steps=30)
    LOSSES[name](partial_path(out) / "model-00001-of-00002.safetensors")
    merged(inputs["base"], inputs["new"], out, resume=True)
    assert weights(inputs["new tree"]) == weights(tree(out))


def test_a_journal_records_once_each(tmp_path):
    first = Journal(tmp_path, "merge", resume=False)
    assert first.done is None
    for number in (3, 1, 2):
        first.record(number)
    first.close()
    second = Journal(tmp_path, "merge", resume=True)
    assert second.done == {1, 2, 3}
    second.record(9)
    second.close()
    third = Journal(tmp_path, "another", resume=True)
    assert third.done is None
    third.close()
    assert Journal(tmp_path, "merge", resume=True).done is None


def limited(inputs: dict, out: Path, limit: int) -> None:
    """A disk that takes no file larger than ``limit``."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        merged(inputs["base"], inputs["new"], out)
    except DiskError:
        sys.exit(7)


@pytest.mark.parametrize("limit", [0, 1000, 60_000])
def test_a_file_that_may_not_grow(limit, inputs, tmp_path):
    out = tmp_path / "out"
    assert in_child(limited, inputs, out, limit) == 7
    assert not out.exists()
    merged(inputs["base"], inputs["new"], out, resume=True)
    assert weights(inputs["new tree"]) == weights(tree(out))


def test_an_io_error_in_the_journal_is_worded(inputs, tmp_path, monkeypatch):
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "record", fail)
    with pytest.raises(AdaptoolError, match="No space left"):
        merged(inputs["base"], inputs["new"], tmp_path / "out")


CLI = "import sys; from adaptool.cli.main import run; run()"
SLOW = """
import time, adaptool.writing.journal as j
record = j.Journal.record
j.Journal.record = lambda self, number: (time.sleep(0.05), record(self, number))[1]
"""


@pytest.mark.parametrize("exists", [False, True])
def test_ctrl_c(exists, inputs, tmp_path):
    """130, the old output untouched, the unfinished one kept, and a way to go on."""
    out = tmp_path / "out"
    if exists:
        old_output(inputs, out)
    command = [
        "merge",
        str(inputs["new"]),
        "--base",
        str(inputs["base"]),
        "--out",
        str(out),
        "--workers",
        "2",
        "--overwrite",
    ]
    process = subprocess.Popen([sys.executable, "-c", SLOW + CLI, *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(recorded(partial_path(out))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "error: interrupted" in stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert state_of(inputs, out) == "old" if exists else not out.exists()
    report = merged(inputs["base"], inputs["new"], out, overwrite=True, resume=True)
    assert report.resumed_pieces >= 4
    assert weights(inputs["new tree"]) == weights(tree(out))
