"""What the rules about values find, and what they are silent about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adaptool.rules.draft import PREFIX, WIDTH, Draft, Q, V, fields, numbers, tensors
from adaptool.rules.engine import Options, validate
from adaptool.rules.families import values_size
from adaptool.rules.families.values_idle import with_magnitudes
from adaptool.rules.selection import Selection
from adaptool.rules.subject import Subject
from adaptool.rules.weights.statistics import measure
from adaptool.rules.weights.untrained import SWITCHES

REPOSITORY = Path(__file__).parent.parent


def written(draft, folder):
    return Subject(draft.write(folder)[0])


def without_factors():
    draft = Draft()
    draft.tensors.clear()
    return draft


def strange(**held):
    """The good adapter with other tensors beside its own."""

    def mutate(draft):
        for name, (kind, raw) in held.items():
            draft.tensors[f"{Q}.{name}"] = raw
            draft.dtypes[f"{Q}.{name}"] = kind

    return mutate


STRANGE = {
    "scalar": strange(lora_x=("F32", np.float32(1.0))),
    "integers": strange(lora_x=("I64", np.arange(6))),
    "integer factor": strange(**{"lora_A.weight": ("I32", np.ones((8, WIDTH), "i4"))}),
    "truths": strange(lora_x=("BOOL", np.ones((2, 3), "u1"))),
    "complex": strange(lora_x=("C64", np.ones((2, 3), "c8"))),
    "no rows": strange(**{"lora_A.weight": ("F32", np.ones((0, WIDTH), "f4"))}),
    "no columns": strange(**{"lora_B.weight": ("F32", np.ones((WIDTH, 0), "f4"))}),
    "flat factor": strange(**{"lora_A.weight": ("F32", np.ones(8 * WIDTH, "f4"))}),
    "scalar factor": strange(**{"lora_A.weight": ("F32", np.float32(1.0))}),
    "five axes": strange(**{"lora_A.weight": ("F32", numbers((8, 2, 2, 2, 8), 1))}),
    "wrong rank": strange(**{"lora_A.weight": ("F32", numbers((7, WIDTH), 1))}),
    "no rank": fields(r=0),
    "text as rank": fields(r="8"),
    "enormous rank": fields(r=10**400),
    "infinite alpha": fields(lora_alpha=1e308),
    "patterns that are none": fields(rank_pattern=["q_proj"], alpha_pattern={"(": 3}),
    "saved modules that are none": fields(modules_to_save={"lm_head": 1}),
    "type that is none": fields(peft_type=3),
    "unknown type": fields(peft_type="LORA2"),
    "kasa without numbers": fields(kasa_config={}),
    "experts that are none": fields(target_parameters=["q_proj", 3]),
    "blocks": fields(use_bdlora={"nblocks": 4, "target_modules_bd_a": ["q_proj"], "match_strict": False}),
    "squares beyond float64": strange(
        **{"lora_A.weight": ("F64", np.full((8, WIDTH), 1e300) * numbers((8, WIDTH), 1))}
    ),
    "layer of five thousand digits": lambda draft: draft.tensors.update(
        {f"{PREFIX}model.layers.{'1' * 5000}.q.lora_{part}.weight": numbers((8, 8), 1) for part in "AB"}
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_nothing_breaks_the_pass(name, tmp_path):
    draft = Draft()
    STRANGE[name](draft)
    report = validated(draft, tmp_path)
    assert [unchecked for unchecked in report.unchecked if "internal" in unchecked.reason] == []
    kinds = {key: draft.dtypes.get(key, str(array.dtype)) for key, array in draft.tensors.items()}
    expected = {key for key, kind in kinds.items() if kind in ("F32", "F64", "float32")}
    assert measure(written(draft, tmp_path / "again")).tensors.keys() == expected


def validated(draft, folder, *, select="VAL"):
    adapter, _ = draft.write(folder)
    (report,) = validate([adapter], None, Options(Selection((select,)), workers=1)).results
    return report


def found(draft, folder):
    """(code, severity) of every finding about values, and the number of tensors it names."""
    return [(finding.code, finding.severity, len(finding.tensors)) for finding in validated(draft, folder).findings]


def layers(draft, count):
    """So many layers, each with factors of its own."""
    for key in [key for key in draft.tensors if ".layers.1." in key]:
        spread = 0.05 if ".lora_A." in key else 0.01
        for layer in range(2, count):
            seed = 1000 * layer + len(key)
            draft.tensors[key.replace(".layers.1.", f".layers.{layer}.")] = numbers(
                draft.tensors[key].shape, seed, spread
            )
    return draft


def scaled(key, factor):
    def mutate(draft):
        draft.tensors[key] = (draft.tensors[key] * np.float64(factor)).astype(draft.tensors[key].dtype)

    return mutate


def one_value(key, value):
    def mutate(draft):
        draft.tensors[key].flat[7] = value

    return mutate


def replaced(key, change):
    def mutate(draft):
        draft.tensors[key] = change(draft.tensors[key])

    return mutate


def saved_whole(name, array, **more):
    def mutate(draft):
        draft.config.update(modules_to_save=[name], **more)
        draft.tensors[f"{PREFIX}{name}.weight"] = array

    return mutate


def as_f16(factor=1.0):
    def mutate(draft):
        for key, array in draft.tensors.items():
            part = factor if ".lora_B." in key else 1.0
            draft.tensors[key], draft.dtypes[key] = (array * part).astype(np.float16).view(np.uint16), "F16"

    return mutate


A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
LAYER = f"{PREFIX}model.layers.{{}}.self_attn.{{}}_proj.lora_B.weight"

CASES = {
    "as it is": (None, []),
    "one NaN": (one_value(B, np.nan), [("VAL001", "error", 1)]),
    "minus infinity": (one_value(A, -np.inf), [("VAL001", "error", 1)]),
    "B is zero": (tensors(lora_B=np.zeros_like), [("VAL010", "error", 12)]),
    "B is minus zero": (tensors(lora_B=lambda B: -np.zeros_like(B)), [("VAL010", "error", 12)]),
    "A is zero": (tensors(lora_A=np.zeros_like), [("VAL010", "error", 12)]),
    "both are zero": (tensors(lora_=np.zeros_like), [("VAL010", "error", 24)]),
    "B is empty": (tensors(lora_B=lambda B: B[:0]), [("VAL010", "error", 12)]),
    "zero B and a bias": (
        lambda draft: [tensors(lora_B=np.zeros_like)(draft), fields(lora_bias=True)(draft),
                       draft.tensors.update({f"{Q}.lora_B.bias": numbers((WIDTH,), 1)})],
        [("VAL011", "info", 11)],
    ),
    "zero in the middle": (replaced(LAYER.format(3, "q"), np.zeros_like), [("VAL011", "warning", 1)]),
    "zero in the first layer": (replaced(LAYER.format(0, "q"), np.zeros_like), [("VAL011", "info", 1)]),
    "zero in the last layer": (replaced(LAYER.format(5, "v"), np.zeros_like), [("VAL011", "info", 1)]),
    "a layer of other modules": (
        lambda draft: [replaced(LAYER.format(3, "q"), np.zeros_like)(draft),
                       [draft.tensors.pop(LAYER.format(3, "v").replace("_B", part)) for part in ("_A", "_B")]],
        [("VAL011", "info", 1)],
    ),
    "a pooler without gradient": (
        lambda draft: draft.tensors.update({f"{PREFIX}pooler.dense.lora_A.weight": numbers((8, 9), 1),
                                            f"{PREFIX}pooler.dense.lora_B.weight": np.zeros((9, 8), "f4")}),
        [("VAL011", "info", 1)],
    ),
    "an empty head": (saved_whole("lm_head", np.zeros((40, WIDTH), "f4")), [("VAL012", "warning", 1)]),
    "a head": (saved_whole("lm_head", numbers((40, WIDTH), 1)), []),
    "a bias of zeros": (saved_whole("score", np.zeros(3, "f4")), []),
    "a norm of ones": (saved_whole("norm", np.ones(WIDTH, "f4")), []),
    "magnitudes": (with_magnitudes(0.7), []),
    "no magnitudes": (with_magnitudes(0.0), [("VAL013", "error", 1)]),
    "negative magnitudes": (with_magnitudes(-0.7), [("VAL014", "info", 1)]),
    "one number everywhere": (replaced(A, lambda A: np.full_like(A, 0.1)), [("VAL020", "warning", 1)]),
    "A of two layers": (
        lambda draft: replaced(A.replace(".0.", ".4."), lambda _: draft.tensors[A].copy())(draft),
        [("VAL021", "warning", 2)],
    ),
    "A of two modules of a layer": (replaced(f"{V}.lora_A.weight", lambda _: numbers((8, WIDTH), 0)), []),
    "5000 times": (scaled(B, 5000), [("VAL030", "error", 1)]),
    "300 times": (scaled(B, 300), [("VAL030", "warning", 1)]),
    "30 times": (scaled(B, 30), []),
    "a hundredth": (scaled(B, 0.01), []),
    "one value of 50": (one_value(B, 50.0), [("VAL030", "error", 1), ("VAL032", "warning", 1)]),
    "one value of 2": (one_value(A, 2.0), [("VAL032", "warning", 1)]),
    "one value of a half": (one_value(A, 0.5), []),
    "one alpha of 40 000": (fields(alpha_pattern={"layers.0.self_attn.q_proj": 40_000}), [("VAL030", "error", 1)]),
    "an alpha of 1e9": (fields(lora_alpha=1e9), [("VAL031", "error", 12)]),
    "beyond float16": (tensors(lora_B=lambda B: B * np.float32(1e8)), [("VAL031", "error", 12)]),
    "B 5000 times everywhere": (tensors(lora_B=lambda B: B * np.float32(5000)), [("VAL031", "warning", 12)]),
    "normal factors of one": (tensors(lora_=lambda x: x / x.std()), []),
    "a head of thousands": (saved_whole("lm_head", numbers((40, WIDTH), 1, 3000.0)), [("VAL031", "warning", 1)]),
    "an embedding of tens": (saved_whole("lm_head", numbers((40, WIDTH), 1, 20.0)), []),
    "as good as nothing": (tensors(lora_B=lambda B: B * np.float32(1e-30)), [("VAL003", "warning", 12)]),
    "float16": (as_f16(), []),
    "float16 and hardly trained": (as_f16(1e-4), [("VAL003", "info", 12)]),
    "float16 at its end": (
        lambda draft: [as_f16()(draft), one_value(A, np.float16(65504).view(np.uint16))(draft)],
        [("VAL030", "error", 1), ("VAL032", "warning", 1), ("VAL002", "info", 1)],
    ),
    "a weak layer": (scaled(B, 0.05), [("VAL040", "info", 2)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_found(name, tmp_path):
    mutate, expected = CASES[name]
    draft = layers(Draft(), 9 if name == "a weak layer" else 6)
    if mutate is not None:
        mutate(draft)
    assert found(draft, tmp_path) == expected


OTHER_TYPES = {
    "IA3": {"ia3_l": (np.ones((1, 9)), np.full((1, 9), 1.1))},
    "BOFT": {"boft_R": (np.zeros((1, 4, 8, 8)), None), "boft_s": (np.ones((9, 1)), np.linspace(0.9, 1.1, 9)[:, None])},
    "OFT": {"oft_R.weight": (np.zeros((4, 28)), np.linspace(0, 1, 112).reshape(4, 28))},
    "VERA": {"vera_lambda_b": (np.zeros(9), np.linspace(0, 1, 9)), "vera_lambda_d": (np.full(4, 0.1), None)},
    "LOHA": {"hada_w1_a": (np.eye(4), None), "hada_w1_b": (np.eye(4), None), "hada_w2_a": (np.eye(4), None),
             "hada_w2_b": (np.zeros((4, 4)), np.eye(4))},
    "LOKR": {"lokr_w1": (np.zeros((4, 4)), np.eye(4)), "lokr_w2": (np.eye(4), None)},
    "ADALORA": {"lora_A": (np.eye(4), None), "lora_B": (np.eye(4), None),
                "lora_E": (np.zeros((4, 1)), np.eye(4)[:, :1])},
    "ROAD": {"road_theta": (np.zeros(8), None), "road_alpha": (np.ones(8), np.linspace(0.9, 1.1, 8))},
    "GLORA": {"glora_A.Xd": (np.zeros((9, 2)), None), "glora_A.Xu": (np.eye(2), None),
              "glora_D.X": (np.zeros(1), np.full(1, 0.1))},
}  # fmt: skip


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("peft_type", OTHER_TYPES)
def test_other_types_do_nothing_before_training(peft_type, trained, tmp_path):
    draft = without_factors()
    draft.config = {"peft_type": peft_type, "base_model_name_or_path": "tiny", "target_modules": ["q_proj"]}
    for layer in range(2):
        for number, (part, (before, after)) in enumerate(OTHER_TYPES[peft_type].items()):
            array = after if trained and after is not None else before
            spread = 0 if np.ptp(array) == 0 else 0.01 * numbers(array.shape, 10 * layer + number)
            draft.tensors[f"{PREFIX}layers.{layer}.q_proj.{part}"] = (array + spread).astype("f4")
    assert [code for code, *_ in found(draft, tmp_path)] == ([] if trained else ["VAL010"])


def test_multipliers_of_zero_switch_off(tmp_path):
    draft = without_factors()
    draft.config = {"peft_type": "IA3", "base_model_name_or_path": "tiny", "target_modules": ["q_proj"]}
    draft.tensors = {f"{PREFIX}layers.{layer}.q_proj.ia3_l": np.full((1, 9), layer, "f4") for layer in (0, 2)}
    assert found(draft, tmp_path) == [("VAL013", "error", 1)]


def test_every_type_that_begins_as_an_identity_is_known_to_do_nothing(tmp_path):
    """PEFT's own adapters, saved untouched: a type not in the table, or a part renamed, shows here."""
    peft_types = pytest.importorskip("peft_types")
    import peft_types_build

    chosen = ["adalora", "adaption_prompt", "beft", "boft", "delora", "glora", "gralora-hybrid", "hira-embedding",
              "ia3", "lily", "loha", "lokr-both", "lora", "miss", "oft", "poly", "psoft", "pvera", "randlora", "road",
              "shadow", "supertuning-lora", "tinylora"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peft_types_build, "randomise", lambda model: None)
        made = {name: peft_types.CASES[name](tmp_path / name) for name in chosen}
    silent = [
        name
        for name, folder in made.items()
        if [f.code for f in validate([folder], None, Options(Selection(("VAL",)))).results[0].findings] != ["VAL010"]
    ]
    assert silent == []


def test_every_switch_names_parts_of_a_type_there_is():
    from peft.utils.peft_types import PeftType

    assert set(SWITCHES) - {kind.value for kind in PeftType} == {"BONE"}  # removed in PEFT 0.19


@pytest.mark.parametrize("name", ["smollm2-lora", "minilm-lora", "minilm-seqcls-lora"])
def test_silent_on_real_adapters(name):
    (report,) = validate([REPOSITORY / "fixtures" / name], None, Options(Selection(("VAL",)))).results
    assert [finding.message for finding in report.findings] == []
    assert report.unchecked == ()


def test_the_median_without_one():
    ordered = [1.0, 2.0, 3.0, 10.0]
    assert [values_size._median_without(ordered, value) for value in ordered] == [3.0, 3.0, 2.0, 2.0]
    assert values_size._median_without([1.0, 5.0], 5.0) == 1.0
