"""Adapters made to keep validate busy, to fill its memory or its report; and one finding for one defect."""

from __future__ import annotations

import pickle
import time
import tracemalloc
import zlib
from collections import Counter

import numpy as np
import pytest

from adaptool.rules.draft import PREFIX, Draft, Q, fields, file, numbers, remade, together
from adaptool.rules.draft_pickle import SYSTEM
from adaptool.rules.engine import MOST_PROBLEMS, Options, validate
from adaptool.rules.files import imports
from adaptool.rules.finding import MOST_TENSORS
from adaptool.rules.selection import Selection
from adaptool.rules.subject import Subject
from adaptool.rules.weights.moments import SMALL, Pass, Side

SECONDS = 20.0
"""What each of these took minutes for, or ran out of memory over; it is hundredths now, on a machine that is busy."""
MEBIBYTES = 200
FLOAT64_ROUNDOFF = 1e-12
"""Sums of thousands of squares, in another order."""


def report(mutation, folder, selection=None, **how):
    draft = Draft()
    mutation(draft)
    result = validate([draft.write(folder)[0]], None, Options(selection or Selection(), **how))
    assert result.failures == ()
    found = result.results[0]
    assert [unchecked for unchecked in found.unchecked if "internal error" in unchecked.reason] == []
    return found


def codes(found, *severities):
    return sorted(
        finding.code for finding in found.findings if finding.severity in (severities or ("error", "warning"))
    )


def renumbered(draft):
    draft.tensors = {key.replace("layers.1.", "layers.999999999."): a for key, a in draft.tensors.items()}


def many_stacks(draft):
    for number in range(3000):
        for part, shape in (("A", (8, 4)), ("B", (4, 8))):
            draft.tensors[f"{PREFIX}m{number}.{number}.q_proj.lora_{part}.weight"] = numbers(shape, number)


def many_entries(draft):
    draft.metadata = {f"k{number}": "v" for number in range(50_000)}


def long_entries(draft):
    draft.metadata = {f"k{number}": "key = " * 300_000 for number in range(8)}


SLOW = {
    "a layer's number": renumbered, "stacks of one layer each": many_stacks, "entries of metadata": many_entries,
    "long metadata": long_entries, "empty lines": file("README.md", b"\n" * 2_000_000),
    "replicas": fields(layer_replication=[[0, 10_000]] * 20_000),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_nothing_made_to_be_slow_is(name, tmp_path):
    tracemalloc.start()
    began = time.process_time()
    report(SLOW[name], tmp_path, Selection(consumers=frozenset({"lorax"})))
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < SECONDS
    assert peak < MEBIBYTES << 20


def test_a_secret_among_many_entries_is_found(tmp_path):
    token = "hf_" + "QmXb7RkTz2LpWv9sYc4NdJf8GhUeAoViKw"
    many = {f"k{number}": "v" for number in range(5000)} | {"note": token}
    found = report(lambda draft: setattr(draft, "metadata", many), tmp_path, Selection(("FIL3",)))
    assert codes(found) == ["FIL301"]
    assert found.findings[0].field == "__metadata__"


def test_a_rule_reports_its_gravest_problems(tmp_path):
    found = report(many_stacks, tmp_path, Selection(("LRX",), consumers=frozenset({"lorax"})))
    assert max(Counter(codes(found)).values()) == MOST_PROBLEMS
    assert any("and more, not listed" in finding.message for finding in found.findings)


LOHA = {"hada_w1_a": (64, 4), "hada_w1_b": (4, 64), "hada_w2_a": (64, 4), "hada_w2_b": (4, 64)}


def whole_numbers(draft):
    draft.tensors = {key: (100 * a).astype("int64") for key, a in draft.tensors.items()}


def flat(draft):
    draft.tensors = {key: a.reshape(-1) for key, a in draft.tensors.items()}


ONE_DEFECT = {
    "an absurd rank": (fields(r=10**9), ["CFG202", "TEN024"]),
    "an absurd rank of some": (fields(rank_pattern={"q_proj": 10**12}), ["CFG202", "TEN024"]),
    "all parts are integers": (together(remade("LOHA", LOHA, r=4, alpha=8), whole_numbers), ["TEN208"]),
    "all parts are flat": (together(remade("LOHA", LOHA, r=4, alpha=8), flat), ["TEN203"]),
    "another type's tensors": (remade("LORA", LOHA), ["TEN011"]),
}


@pytest.mark.parametrize("name", ONE_DEFECT)
def test_one_defect_has_few_findings(name, tmp_path):
    mutation, expected = ONE_DEFECT[name]
    assert expected == codes(report(mutation, tmp_path))


def test_a_prompt_has_no_targets_to_be_checked(tmp_path):
    def prompt(draft):
        draft.config = {
            "peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "token_dim": 64,
            "base_model_name_or_path": "org/model", "target_modules": 7,
        }  # fmt: skip
        draft.tensors = {"prompt_embeddings": numbers((4, 64), 0)}

    assert report(prompt, tmp_path).unchecked == ()


def test_a_pickle_without_end_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "OPCODES_LIMIT", 1000)
    endless = file("x.pkl", b"\x80\x02" + b"N0" * 1_000_000 + SYSTEM[2:])
    assert codes(report(endless, tmp_path, Selection(("FIL2",)))) == ["FIL210"]


def test_what_joblib_compresses_is_looked_into(tmp_path):
    packed = file("x.joblib", zlib.compress(SYSTEM, 3))
    assert codes(report(packed, tmp_path / "evil", Selection(("FIL2",)))) == ["FIL210"]
    honest = file("x.joblib", zlib.compress(pickle.dumps([1.0] * 9)))
    assert codes(report(honest, tmp_path / "good", Selection(("FIL2",)))) == []


def test_brackets_without_end_beside_the_weights(tmp_path):
    assert codes(report(file("tokenizer_config.json", b"[" * 1_000_000), tmp_path)) == ["FIL407"]


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("side", [None, Side(4, 1, rank_first=True), Side(4, 1, rank_first=False)])
def test_small_tensors_say_together_what_each_says_alone(side, count, tmp_path):
    draft = Draft()
    shape = (32, 4) if side is None or not side.rank_first else (4, 32)
    draft.tensors = {f"{Q}{n}.lora_A.weight": numbers(shape, n) for n in range(count)}
    draft.tensors |= {
        "nan": numbers(shape, 1),
        "zeros": np.zeros(shape, np.float32),
        "large": numbers((1, SMALL + 1), 3),
    }
    draft.tensors["nan"][1, 1] = np.nan
    store = Subject(draft.write(tmp_path)[0]).store
    together = Pass(store).several(dict.fromkeys(store, side))
    assert set(together) == set(store)
    for name in store:
        moments, gram = Pass(store).tensor(name, side)
        found, other = together[name]
        assert pytest.approx(moments.squares, rel=FLOAT64_ROUNDOFF) == found.squares
        assert (moments.size, moments.not_finite, moments.smallest, moments.largest, moments.zeros) == (
            found.size, found.not_finite, found.smallest, found.largest, found.zeros,
        )  # fmt: skip
        assert (gram is None) == (other is None)
        if gram is not None:
            assert np.allclose(gram, other, rtol=FLOAT64_ROUNDOFF, atol=FLOAT64_ROUNDOFF)


def test_a_report_is_not_as_long_as_a_hostile_header(tmp_path):
    def crowd(draft):
        draft.tensors = {f"{PREFIX}{'a.' * 300}m{n}.lora_A.weight": numbers((8, 4), n) for n in range(3000)}

    found = report(crowd, tmp_path)
    assert all(len(finding.tensors) <= MOST_TENSORS for finding in found.findings)
    assert any(finding.message.startswith("3000 factors") for finding in found.findings)
