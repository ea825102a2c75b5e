"""Two adapters compared: the verdict on every kind of pair, and the figures against dense float64."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making_git import Repo, isolate, random_factors, save_adapter

from adaptool.adapters.adapter import open_adapter
from adaptool.api import diff
from adaptool.cli.main import main
from adaptool.comparing.adapters import compare_adapters
from adaptool.comparing.geometry import Update, geometry, joint
from adaptool.errors import UsageError
from adaptool.summary.contents import low_rank_modules

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from adapter_pairs import PAIRS

FLOAT64_ROUNDOFF = 1e-9
"""Of norms and cosines that a Gram matrix gives against those of the dense product."""

DEGREES = 1e-3
"""Of an angle near zero, whose cosine is 1 to half the digits."""


@pytest.mark.parametrize("name", PAIRS)
def test_what_happened_between_two_adapters_is_named(name, tmp_path):
    pair = PAIRS[name]
    found = compare_adapters(open_adapter(pair.before(tmp_path / "a")), open_adapter(pair.after(tmp_path / "b")))
    assert found.verdict in pair.verdicts, found.because
    if pair.equal is not None:
        assert found.equal is pair.equal, found.because
    if pair.level is not None:
        assert found.level == pair.level, found.reasons
    assert found.because


@pytest.mark.parametrize(
    "name", ["trained 20 steps on", "another seed and other data", "turned: dora", "alpha doubled"]
)
def test_figures_are_those_of_the_dense_product(name, tmp_path):
    before, after = PAIRS[name].before(tmp_path / "a"), PAIRS[name].after(tmp_path / "b")
    found = diff(before, after)
    old, new = _dense(before), _dense(after)
    for change in found.modules:
        one, two = old[change.module], new[change.module]
        distance = np.linalg.norm(two - one)
        assert change.norm_before == pytest.approx(np.linalg.norm(one), rel=FLOAT64_ROUNDOFF)
        assert change.norm_after == pytest.approx(np.linalg.norm(two), rel=FLOAT64_ROUNDOFF)
        assert change.distance == pytest.approx(distance, rel=FLOAT64_ROUNDOFF, abs=1e-14 * np.linalg.norm(one))
        assert change.cosine == pytest.approx((one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two))
        assert change.column_angles == pytest.approx(_angles(one, two), abs=DEGREES)
        assert change.row_angles == pytest.approx(_angles(one.T, two.T), abs=DEGREES)
        assert change.used_before == np.linalg.matrix_rank(one, tol=1e-6 * np.linalg.norm(one, 2))
    whole = np.linalg.norm([np.linalg.norm(old[m] - new[m]) for m in old])
    assert found.distance == pytest.approx(whole, rel=FLOAT64_ROUNDOFF, abs=1e-13)


def _dense(folder: Path) -> dict[str, np.ndarray]:
    adapter = open_adapter(folder)
    return {m.name: m.scale * np.matmul(*m.factors[0].load("float64")) for m in low_rank_modules(adapter)}


def _angles(one: np.ndarray, two: np.ndarray) -> list[float]:
    def basis(matrix: np.ndarray) -> np.ndarray:
        u, values, _ = np.linalg.svd(matrix)
        return u[:, : int((values > 1e-6 * values[0]).sum())]

    cosines = np.linalg.svd(basis(one).T @ basis(two), compute_uv=False)
    return list(np.degrees(np.arccos(np.clip(cosines, 0, 1))))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-14, 0), st.integers(1, 6), st.integers(1, 6))
def test_a_small_distance_keeps_its_digits(seed, exponent, rank, other_rank):
    """Where ΔW′ is ΔW turned and moved by 10^exponent, the difference of squares would have lost it."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(8, 40, 2)
    before = Update(rng.standard_normal((m, rank)), rng.standard_normal((rank, n)), 1.5)
    turn = rng.standard_normal((rank, rank)) + 3 * np.eye(rank)
    extra = 10.0**exponent * rng.standard_normal((m, other_rank))
    left = np.hstack([before.left @ turn, extra])
    right = np.vstack([np.linalg.inv(turn) @ before.right, rng.standard_normal((other_rank, n))])
    after = Update(left, right, 1.5)
    expected = 1.5 * np.linalg.norm(left[:, rank:] @ right[rank:])
    found = geometry(joint(before, after))
    assert found.distance == pytest.approx(expected, rel=1e-3, abs=1e-12 * found.norm_before)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_comparing_is_symmetric(seed):
    rng = np.random.default_rng(seed)
    one, two = (Update(rng.standard_normal((20, r)), rng.standard_normal((r, 12)), s) for r, s in ((3, 2.0), (5, 0.5)))
    there, back = geometry(joint(one, two)), geometry(joint(two, one))
    assert (there.norm_before, there.used_before) == pytest.approx((back.norm_after, back.used_after))
    assert (there.distance, there.inner) == pytest.approx((back.distance, back.inner))
    assert there.column_angles == pytest.approx(back.column_angles)


@pytest.mark.parametrize(("pins", "verdict", "level"), [
    (("a" * 40, "b" * 40), "other base", "major"), ((None, "b" * 40), "identical", "none"),
    (("a" * 40, "a" * 40), "identical", "none"),
])  # fmt: skip
def test_a_base_that_only_the_manifest_pins(pins, verdict, level, tmp_path):
    folders = [PAIRS["alpha doubled"].before(tmp_path / name) for name in ("a", "b")]
    for folder, pin in zip(folders, pins, strict=True):
        base = {"name": "org/tiny-llama", "revision": pin}
        (folder / "adaptool.json").write_text(json.dumps({"schema": "adaptool/manifest/1", "base": base}))
    found = diff(*folders)
    assert (found.verdict, found.level, found.equal) == (verdict, level, verdict == "identical")


def test_an_adapter_is_not_put_against_a_model(tmp_path):
    adapter = PAIRS["alpha doubled"].before(tmp_path / "a")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="an adapter and"):
        diff(adapter, model)


def test_a_revision_beside_a_path_is_that_place_then(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)
    repo = Repo(tmp_path / "repo")
    PAIRS["alpha doubled"].before(repo.folder / "adapters" / "one")
    PAIRS["alpha doubled"].before(repo.folder / "adapters" / "two")
    repo.commit("two adapters")
    repo.tag("v1.0.0")
    shutil.rmtree(repo.folder / "adapters" / "two")
    PAIRS["alpha doubled"].after(repo.folder / "adapters" / "two")
    monkeypatch.chdir(repo.folder)
    assert diff("v1.0.0", "adapters/one").verdict == "identical"
    there, back = diff("v1.0.0", "adapters/two"), diff("adapters/two", "HEAD:adapters/two")
    assert (there.verdict, there.because) == ("re-scaled", "ΔW is 2 × what it was, everywhere")
    assert (back.verdict, back.because) == ("re-scaled", "ΔW is 0.5 × what it was, everywhere")
    assert (there.before.given, there.after.given) == ("v1.0.0", "adapters/two")


def _saved(folder, tensors, **config):
    random = np.random.default_rng(1)
    return save_adapter(
        folder,
        tensors={f"base_model.model.{name}": random.normal(size=shape) for name, shape in tensors.items()},
        **config,
    )


HEAD = {"modules_to_save": ["score"], "peft_type": "LORA", "task_type": "SEQ_CLS"}
LOHA = {"peft_type": "LOHA", "alpha": 8}


@pytest.mark.parametrize(
    ("before", "after", "verdict", "level"),
    [
        (({"score.weight": (2, 32), "score.bias": (2,)}, HEAD), ({"score.weight": (3, 32), "score.bias": (3,)}, HEAD),
         "changed", "major"),
        (({"score.weight": (2, 32)}, HEAD), ({"score.weight": (2, 64)}, HEAD), "other base", "major"),
        (({"model.layers.0.mlp.up_proj.hada_w1_a": (32, 4)}, LOHA | {"r": 4}),
         ({"model.layers.0.mlp.up_proj.hada_w1_a": (32, 8)}, LOHA | {"r": 8}), "changed", "minor"),
        (({"model.layers.0.mlp.up_proj.hada_w1_a": (32, 4)}, LOHA | {"r": 4}),
         ({"model.layers.0.mlp.up_proj.hada_w1_a": (64, 4)}, LOHA | {"r": 4}), "other base", None),
    ],
)  # fmt: skip
def test_other_labels_and_other_ranks_are_no_other_base(before, after, verdict, level, tmp_path):
    factors = {name.removeprefix("base_model.model."): value.shape for name, value in random_factors(1).items()}
    extra = factors if before[1] is HEAD else {}
    found = diff(*(_saved(tmp_path / name, extra | shapes, **config)
                   for name, (shapes, config) in (("a", before), ("b", after))))  # fmt: skip
    assert (found.verdict, found.level) == (verdict, level or found.level), found.because


def test_a_tiny_step_is_no_multiple(tmp_path):
    """It is parallel to what was, as far as roundoff tells, and its factor 1."""
    factors = random_factors(1)
    step = {name: value + 1e-6 * np.random.default_rng(2).normal(size=value.shape) for name, value in factors.items()}
    found = diff(save_adapter(tmp_path / "a", tensors=factors), save_adapter(tmp_path / "b", tensors=step))
    assert (found.verdict, found.equal, found.level) == ("continued training", False, "patch"), found.because


@pytest.mark.parametrize(("name", "code"), [("re-saved as .bin", 0), ("trained 5 steps on", 1)])
def test_the_command_says_by_its_exit_code_whether_they_are_the_same(name, code, tmp_path, capsys):
    pair = PAIRS[name]
    given = [str(pair.before(tmp_path / "a")), str(pair.after(tmp_path / "b"))]
    page = tmp_path / "diff.html"
    assert main(["diff", *given, "--html", str(page)]) == code
    out, err = capsys.readouterr()
    assert pair.verdicts[0] in out
    assert err == f"wrote {page}\n"
    assert page.read_text().startswith("<!doctype html>")
    assert main(["diff", *given, "--html", str(page)]) == 2
    capsys.readouterr()
    assert main(["diff", *given, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == pair.verdicts[0]
    assert main(["diff", *given, "--format", "markdown"]) == code
    assert pair.verdicts[0] in capsys.readouterr().out
    assert main(["diff", given[0], str(tmp_path / "nowhere")]) == 3


def test_adaptools_own_options_are_taken_at_the_end_too(tmp_path, capsys):
    pair = PAIRS["trained 5 steps on"]
    given = [str(pair.before(tmp_path / "a")), str(pair.after(tmp_path / "b"))]
    assert main(["-q", "diff", *given]) == 1
    expected = capsys.readouterr().out
    assert main(["diff", "-q", *given]) == 1
    assert expected == capsys.readouterr().out
    assert main(["diff", *given, "--quiet", "--no-color"]) == 1
    assert expected == capsys.readouterr().out
    assert main(["-v", "diff", *given]) == 1
    expected = capsys.readouterr().out
    assert main(["diff", *given, "-v"]) == 1
    assert expected == capsys.readouterr().out


def test_a_cast_that_leaves_every_update_as_it_was_moved_no_scale(tmp_path):
    pair = PAIRS["re-saved in a type of another range, of which the smallest are rounded"]
    found = diff(pair.before(tmp_path / "a"), pair.after(tmp_path / "b"))
    assert found.because.startswith("the same values in other bytes, rounded in ")
    pair = PAIRS["A doubled, B halved"]
    found = diff(pair.before(tmp_path / "c"), pair.after(tmp_path / "d"))
    assert found.because.endswith("the scale moved between B and A")
