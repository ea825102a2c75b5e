"""adaptool convert and merge --to-gguf on the command line: what is asked for, what is refused, and in which words."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from making import edit_json, tree
from making_gguf import HEADS, TOKENS, WIDTH, adapter, contents, converted, metadata, model, model_config

from adaptool import api
from adaptool.cli.main import main
from adaptool.errors import AdaptoolError
from adaptool.tensors.writer import PieceWriter

Run = Callable[..., tuple[int, str, str]]
MUTATIONS = 240
"""Configs changed at random: a few milliseconds each."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an adapter, and GGUFs of both; nobody may write into it."""
    folder = tmp_path_factory.mktemp("made")
    model(folder / "base")
    adapter(folder / "lora")
    converted(folder / "base", folder / "base.gguf", "bf16")
    for _ in api.convert_lora((folder / "lora", 1.0), folder / "base", folder / "lora.gguf"):
        pass
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: what was made, by its names."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def command(*args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def worded(stderr: str) -> tuple[str, str]:
    """The error and its hint: a line each, after notes, and nothing else."""
    lines = [line for line in stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 2, stderr
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert "Traceback" not in stderr
    assert "internal error" not in stderr
    return lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")


def made_here(place: Path) -> set[str]:
    return {path.name for path in place.iterdir() if not path.is_symlink()}


def test_a_model_becomes_a_file(place: Path, run: Run):
    code, stdout, stderr = run("convert", "base", "--to-gguf", "q4", "--out", "model.gguf")
    assert (code, stdout) == (0, "model.gguf\n")
    assert "model.gguf: Q4_K_M, 572 kB, 4.91 bits per weight" in stderr
    assert "21 tensors: 13 Q4_K, 3 Q6_K, 5 F32" in stderr
    assert made_here(place) == {"model.gguf"}


def test_in_json(place: Path, run: Run):
    code, stdout, _ = run("convert", "base", "--to-gguf", "q4,q8_0", "--out", "out", "--json")
    found = json.loads(stdout)
    assert (code, found["schema"], found["out"]) == (0, "adaptool/convert/1", "out")
    assert found["files"] == ["out-Q4_K_M.gguf", "out-Q8_0.gguf"]
    code, stdout, _ = run("convert", "base", "--to-gguf", "q4", "--out", "other.gguf", "--json", "--dry-run")
    assert (code, json.loads(stdout)["files"]) == (0, ["other.gguf"])


@pytest.mark.parametrize("spelling", ["Q8_0", "q8", "q8_0"])
def test_a_type_by_its_names(spelling: str, place: Path, run: Run):
    assert run("convert", "base", "--to-gguf", spelling, "--out", "model.gguf")[0] == 0
    assert metadata(Path("model.gguf"))["general.file_type"] == 7


def test_a_missing_parent_folder_is_made(place: Path, run: Run):
    assert run("convert", "base", "--to-gguf", "q8_0", "--out", "a/b/model.gguf")[:2] == (0, "a/b/model.gguf\n")
    assert [path.name for path in Path("a/b").iterdir()] == ["model.gguf"]


def test_a_gguf_in_and_out_again(place: Path, run: Run):
    assert run("convert", "base.gguf", "--to-gguf", "bf16", "--out", "again.gguf")[0] == 0
    assert contents(Path("again.gguf")) == contents(Path("base.gguf"))
    code, stdout, _ = run("convert", "base.gguf", "--to-safetensors", "--out", "folder")
    assert (code, stdout) == (0, "folder\n")
    assert run("convert", "folder", "--to-gguf", "bf16", "--out", "back.gguf")[0] == 0
    assert contents(Path("back.gguf")) == contents(Path("base.gguf"))
    assert run("merge", "lora", "--base", "base.gguf", "--to-gguf", "q8_0", "--no-safetensors", "--out", "a")[0] == 0
    assert run("merge", "lora", "--base", "base", "--to-gguf", "q8_0", "--no-safetensors", "--out", "b")[0] == 0
    assert contents(Path("a/a-Q8_0.gguf")) == contents(Path("b/b-Q8_0.gguf"))


def test_an_adapter_by_its_weight(place: Path, run: Run):
    for weight in ("1", "0.5"):
        args = ("--to-gguf-lora", "--base", "base", "--out", f"{weight}.gguf")
        code, stdout, stderr = run("convert", f"lora:{weight}", *args)
        assert (code, stdout) == (0, f"{weight}.gguf\n")
        assert "LoRA F32" in stderr
    one, half = metadata(Path("1.gguf")), metadata(Path("0.5.gguf"))
    assert (one["adaptool.adapter.0.weight"], half["adaptool.adapter.0.weight"]) == (1.0, 0.5)
    assert contents(Path("1.gguf")) == contents(Path("lora.gguf")) != contents(Path("0.5.gguf"))


def test_ollama_gets_a_modelfile(place: Path, run: Run):
    code, _, _ = run("merge", "lora", "--base", "base", "--to-gguf", "q4,q8_0", "--ollama", "--out", "out",
                     "--no-safetensors")  # fmt: skip
    assert code == 0
    assert Path("out/Modelfile").read_text().splitlines()[0] == "FROM ./out-Q4_K_M.gguf"
    listed = {entry["name"] for entry in json.loads(Path("out/adaptool.json").read_text())["files"]}
    assert listed | {"adaptool.json"} == {path.name for path in Path("out").iterdir()}


def test_a_named_pre_tokenizer_is_taken(place: Path, run: Run):
    code, _, _ = run("convert", "base", "--to-gguf", "q8_0", "--pre", "llama-bpe", "--out", "model.gguf")
    assert (code, metadata(Path("model.gguf"))["tokenizer.ggml.pre"]) == (0, "llama-bpe")


TO_Q4 = ("--to-gguf", "q4")
TO_LORA = ("--to-gguf-lora", "--base", "base")
OUT = ("--out", "out.gguf")
MERGE = ("merge", "lora", "--base", "base")
REFUSED: list[tuple[tuple[str, ...], int, str, str]] = [
    (("convert", "base", *OUT), 2, "say what to convert to", "--to-gguf q4, --to-gguf-lora, or --to-safetensors"),
    (("convert", "base", *TO_Q4, *TO_LORA, *OUT), 2, "say what to convert to", "--to-gguf-lora"),
    (("convert", "base", *TO_Q4, "--to-safetensors", *OUT), 2, "say what to convert to", "--to-safetensors"),
    (("convert", "base", *TO_Q4), 2, "Missing option '--out'", "adaptool convert --help"),
    (("convert", "base", *TO_Q4, "--out", "out"), 2, "ends in .gguf", "--out out.gguf"),
    (("convert", "base", "--to-gguf", "q4_m", *OUT), 2, "unknown file type 'q4_m'", "did you mean q4_k_m?"),
    (("convert", "base", "--to-gguf", "q4,", *OUT), 2, "between two commas", "one of: f32"),
    (("convert", "base", "--to-gguf", "q4,q4_k_m", "--out", "out"), 2, "asked for 2 times", "once"),
    (("convert", "base", "--to-gguf", "q4,q8", *OUT), 2, "names a folder where several", "leave .gguf out"),
    (("convert", "base", "--to-gguf", "iq1_s", *OUT), 2, "needs an imatrix", "--imatrix"),
    (("convert", "base", *TO_Q4, "--split-max-size", "9GB", *OUT), 2, "names a folder", "leave .gguf out"),
    (("convert", "base", *TO_Q4, "--split-max-size", "big", *OUT), 2, "'big' is not a size", "5GB"),
    (("convert", "base", *TO_Q4, "--tensor-type", "attn_v", *OUT), 2, "is not PATTERN=TYPE", "attn_v=q8_0"),
    (("convert", "base", *TO_Q4, "--tensor-type", "attn_v=q9", *OUT), 2, "unknown type 'q9'", "one of: "),
    (("convert", "base", *TO_Q4, "--tensor-type", "(=q8_0", *OUT), 2, "not a regular expression", "attn_v"),
    (("convert", "base", *TO_Q4, "--pre", "llama-bp", *OUT), 2, "'llama-bp' is not", "did you mean llama-bpe"),
    (("convert", "base", *TO_Q4, "--pre", "", *OUT), 2, "'' is not a pre-tokenizer", "the names are"),
    (("convert", "base", *TO_Q4, "--dtype", "int8", *OUT), 2, "'int8' is not a type", "bfloat16"),
    (("convert", "base", *TO_Q4, "--base", "base", *OUT), 2, "--base goes with --to-gguf-lora", "adaptool merge"),
    (("convert", "lora", *TO_Q4, *OUT), 2, "lora: an adapter, and not a model", "adaptool merge --to-gguf"),
    (("convert", "lora/adapter_model.safetensors", *TO_Q4, *OUT), 2, "an adapter, and not a model", "--to-gguf-lora"),
    (("convert", "lora", "--to-gguf-lora", *OUT), 2, "--to-gguf-lora needs --base", "--base MODEL"),
    (("convert", "lora", *TO_LORA, "--imatrix", "x", *OUT), 2, "--imatrix goes with --to-gguf", "leave it out"),
    (("convert", "lora", *TO_LORA, "--pre", "qwen2", *OUT), 2, "--pre goes with --to-gguf", "leave it out"),
    (("convert", "lora", *TO_LORA, "--tensor-type", "a=q8_0", *OUT), 2, "--tensor-type goes with", "leave it out"),
    (("convert", "lora", *TO_LORA, "--split-max-size", "1GB", *OUT), 2, "--split-max-size goes with", "leave it"),
    (("convert", "lora", *TO_LORA, "--dtype", "float64", *OUT), 2, "holds no F64", "float32"),
    (("convert", "lora:nan", *TO_LORA, *OUT), 2, "finite number", "./adapter:0.5"),
    (("convert", "lora:0", *TO_LORA, *OUT), 3, "every update is zero", "never trained"),
    (("convert", "lora", *TO_LORA, "--out", "out"), 2, "ends in .gguf", "--out out.gguf"),
    (("convert", "base", *TO_LORA, *OUT), 3, "no adapter_config.json", "looks like a model"),
    (("convert", "base", "--to-safetensors", "--out", "out"), 2, "base: not a GGUF", "takes a .gguf file"),
    (("convert", "base.gguf", "--to-safetensors", "--pre", "qwen2", "--out", "out"), 2, "--pre goes with", "leave it"),
    (("convert", "lora.gguf", "--to-safetensors", "--out", "out"), 3, "of the type 'adapter'", ""),
    (("convert", "lora.gguf", *TO_Q4, *OUT), 3, "of the type 'adapter'", ""),
    (("convert", "base", *TO_Q4, "--imatrix", "base.gguf", *OUT), 3, "holds no importance matrix", "llama-imatrix"),
    ((*MERGE, "--imatrix", "x", "--out", "out"), 2, "--imatrix goes with --to-gguf", "add --to-gguf q4"),
    ((*MERGE, "--no-safetensors", "--out", "out"), 2, "--no-safetensors goes with", "add --to-gguf q4"),
    ((*MERGE, "--ollama", "--out", "out"), 2, "--ollama goes with --to-gguf", "add --to-gguf q4"),
    ((*MERGE, *TO_Q4, "--no-safetensors", "--parity", "forward", "--out", "o"), 2, "--parity forward", "leave one"),
    ((*MERGE, *TO_Q4, *OUT), 2, "names the folder of a merge", "--out out"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "code", "words", "hint"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_what_cannot_be_is_said_in_a_sentence_and_a_hint(
    args: tuple[str, ...], code: int, words: str, hint: str, place: Path, run: Run
):
    found, stdout, stderr = run(*args)
    assert (found, stdout) == (code, "")
    if not hint:
        assert words in stderr
    else:
        message, tip = worded(stderr)
        assert words in message
        assert hint in tip
    assert made_here(place) == set()


@pytest.mark.parametrize("missing", ["source", "base", "imatrix"])
def test_what_is_not_there_is_named(missing: str, place: Path, run: Run):
    args = {
        "source": ("convert", "nowhere", *TO_Q4, *OUT),
        "base": ("convert", "lora", "--to-gguf-lora", "--base", "nowhere", *OUT),
        "imatrix": ("convert", "base", *TO_Q4, "--imatrix", "nowhere", *OUT),
    }[missing]
    code, _, stderr = run(*args)
    assert code == 3
    assert "nowhere: no such file or folder" in stderr


@pytest.mark.parametrize("way", ["lora/..", "..", ".", "x/..", "base/../.."])
def test_an_out_that_is_above_its_inputs(way: str, made: Path, run: Run, tmp_path: Path, monkeypatch: Any):
    inside = tmp_path / "inside"
    shutil.copytree(made, inside)
    monkeypatch.chdir(inside)
    before = tree(tmp_path)
    for args in ((*MERGE, *TO_Q4), ("convert", "base", "--to-gguf", "q4,q8_0")):
        code, _, stderr = run(*args, "--out", way)
        assert (code, worded(stderr)[1]) == (2, "choose another --out")
    assert before == tree(tmp_path)


def test_a_dry_run_writes_nothing(place: Path, run: Run, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any):
    temporary = tmp_path_factory.mktemp("tmp")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for args in (
        ("convert", "base", *TO_Q4, *OUT),
        ("convert", "base", "--to-gguf", "q4,q8_0", "--out", "a/b/out"),
        ("convert", "lora", *TO_LORA, *OUT),
        ("convert", "base.gguf", *TO_Q4, *OUT),
        ("convert", "base.gguf", "--to-safetensors", "--out", "out"),
        (*MERGE, *TO_Q4, "--ollama", "--out", "out"),
        ("merge", "lora", "--base", "base.gguf", *TO_Q4, "--out", "out"),
    ):
        code, stdout, _ = run(*args, "--dry-run")
        assert (code, stdout[:11]) == (0, "would write"), args
    assert made_here(place) == set()
    assert list(temporary.iterdir()) == []


def test_a_dry_run_refuses_what_the_run_would(place: Path, run: Run):
    Path("out.gguf").write_bytes(b"mine")
    assert run("convert", "base", *TO_Q4, *OUT, "--dry-run")[0] == 2
    assert Path("out.gguf").read_bytes() == b"mine"


NAMES = ["a b", "käse モデル", "ctl\x01\x1b[31m", "new\nline", "-dash", "x:0.5", "%s{0}", "q'uo\"te", "ends.gguf"]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"not-utf8-\xff"), "n" * 230])
def test_names_of_every_kind(name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run):
    monkeypatch.chdir(tmp_path)
    for what in ("base", "lora"):
        (tmp_path / what).mkdir()
        shutil.copytree(made / what, tmp_path / what / name)
    code, stdout, stderr = run("convert", f"./base/{name}", *TO_Q4, "--out", f"./{name}.gguf")
    assert (code, "\x1b" in stdout + stderr) == (0, False)
    lora = ("convert", f"./lora/{name}", "--to-gguf-lora", "--base", f"./base/{name}", "--out", f"./lora {name}.gguf")
    assert run(*lora)[0] == 0
    merge = ("merge", f"./lora/{name}", "--base", f"./base/{name}", *TO_Q4, "--no-safetensors", "--json")
    code, stdout, stderr = run(*merge, "--out", f"./out/{name[:200].removesuffix('.gguf')}")
    assert (code, "\x1b" in stdout + stderr) == (0, False)
    assert Path(f"./{name}.gguf").is_file()


CARDS = [
    "---\nlicense: {a: b}\ntags: 5\nlanguage: no\ndatasets: {}\nbase_model: [1, {}]\n---\n",
    "---\nlicense: [mit\n---\n",
    "---\n- a list\n---\n",
    "---\nmodel_name: 2024-01-01\nlicense_name: !!python/object:os.system x\n---\n",
    "---\nlicense: mit\n---\nA model.",
]


@pytest.mark.parametrize("card", CARDS)
def test_a_card_counts_as_far_as_it_makes_sense(card: str, made: Path, tmp_path: Path, run: Run):
    shutil.copytree(made / "base", tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text(card)
    (tmp_path / "base" / "generation_config.json").write_text('{"temperature": "warm", "top_k": 5, "top_p": 1e300}')
    assert run("convert", tmp_path / "base", "--to-gguf", "q8_0", "--out", tmp_path / "out.gguf")[0] == 0
    keys = metadata(tmp_path / "out.gguf")
    assert keys.get("general.license") == ("mit" if "license: mit" in card else None)
    sampling = {name: value for name, value in keys.items() if "sampling" in name}
    assert sampling in ({"general.sampling.top_k": 5}, {})


def test_a_name_too_long_is_worded(place: Path, run: Run):
    for args in (
        ("convert", "base", *TO_Q4, "--out", "n" * 250 + ".gguf"),
        ("convert", "base", "--to-gguf", "q4,q8_0", "--out", "n" * 245),
        (*MERGE, *TO_Q4, "--out", "n" * 256),
    ):
        code, _, stderr = run(*args)
        assert code == 3
        assert "File name too long" in stderr
        assert "internal error" not in stderr


def test_an_interrupt_says_how_to_go_on(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    write, written = PieceWriter.write, []

    def interrupted(self: PieceWriter, piece: Any) -> None:
        if len(written) == 6:
            raise KeyboardInterrupt
        written.append(piece)
        write(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(PieceWriter, "write", interrupted)
        code, stdout, stderr = run("convert", "base", *TO_Q4, *OUT, "--workers", 1)
    assert (code, stdout) == (130, "")
    assert "out.gguf.partial holds what was done: run again with --resume to go on" in stderr
    assert "error: interrupted" in stderr
    code, _, stderr = run("convert", "base", *TO_Q4, *OUT, "--resume")
    assert code == 0
    assert "went on from 6 pieces of an earlier run" in stderr
    assert run("convert", "base", *TO_Q4, "--out", "fresh.gguf")[0] == 0
    assert Path("out.gguf").read_bytes() == Path("fresh.gguf").read_bytes()


SLOWLY = """
import time
from adaptool.tensors.writer import PieceWriter
write = PieceWriter.write
PieceWriter.write = lambda self, piece: (time.sleep(0.2), write(self, piece))[1]
from adaptool.cli.main import run
run()
"""


def test_a_real_interrupt(place: Path, run: Run):
    command = [sys.executable, "-c", SLOWLY, "convert", "base", *TO_Q4, *OUT, "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal, deadline = Path("out.gguf.partial/.adaptool-journal"), time.monotonic() + 60
    while not (journal.is_file() and journal.read_bytes().partition(b"\n")[2]) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "run again with --resume" in stderr
    assert "Traceback" not in stderr
    assert made_here(place) == {"out.gguf.partial"}
    assert run("convert", "base", *TO_Q4, *OUT, "--resume")[0] == 0
    assert made_here(place) == {"out.gguf"}


def test_an_early_error_beats_a_long_wait(place: Path, run: Run):
    """OUT is checked before a tensor is read."""
    Path("out.gguf").write_bytes(b"mine")
    code, _, stderr = run("convert", "base", *TO_Q4, *OUT, "--overwrite")
    assert (code, worded(stderr)[0]) == (2, "out.gguf: was not written by adaptool, so it is not overwritten")
    assert Path("out.gguf").read_bytes() == b"mine"


ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIG = model_config(
    rope_scaling=ROPE | {"original_max_position_embeddings": 64}, head_dim=WIDTH // HEADS, attention_bias=False,
    sliding_window=None, bos_token_id=None, num_experts_per_tok=None, text_config=None, tokenizer_class=None,
)  # fmt: skip
ODD: list[Any] = [
    None, 0, -1, 1, 3, True, False, 1.5, 1e308, 2**31, 2**40, 2**70, "", "x", "64", [], [1], [None], {}, {"a": 1}, [[]],
    len(TOKENS) - 1, {"rope_type": "yarn"}, {"rope_type": "linear", "factor": "x"}, {"rope_type": ["a"]}, {"factor": 0},
    {"rope_type": "llama3", "factor": 0, "low_freq_factor": 0, "high_freq_factor": 0}, {"full_attention": 3},
    {"type": "longrope", "factor": 2}, {"rope_type": "yarn", "factor": -1}, {"sliding_attention": []}, "llama3",
    ["LlamaModel"],
    {"rope_type": "yarn", "factor": 4, "mscale": "a", "mscale_all_dim": []}, ["MixtralForCausalLM"],
]  # fmt: skip


def mutated(seed: int) -> dict[str, Any]:
    """The config with a few settings replaced or taken out."""
    chance = random.Random(seed)
    config = json.loads(json.dumps(CONFIG))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        place, name = config, chance.choice([*CONFIG, "rope_parameters", "is_causal", "num_local_experts"])
        if name == "rope_scaling" and isinstance(config.get(name), dict) and chance.random() < 0.6:
            place, name = config[name], chance.choice([*config[name], "type", "rope_theta", "beta_fast"])
        if chance.random() < 0.2:
            place.pop(name, None)
        else:
            place[name] = chance.choice(ODD)
    return config


def test_a_config_changed_at_random_is_converted_or_refused_in_words(made: Path, tmp_path: Path):
    """Never another exception: and what is accepted is read back whole."""
    base = tmp_path / "base"
    shutil.copytree(made / "base", base)
    refused = 0
    for seed in range(MUTATIONS):
        (base / "config.json").write_text(json.dumps(mutated(seed)))
        try:
            job = api.convert(base, tmp_path / "out.gguf", api.gguf_options("q8_0"), overwrite=True, workers=1)
            assert job.estimate.nbytes > 0
            if seed % 20 == 0:
                list(job)
        except AdaptoolError as error:
            refused += "\n" not in error.message
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}") from error
    assert MUTATIONS // 3 < refused < MUTATIONS


TOO_MUCH = [
    ({"num_hidden_layers": 2**30}, "where a count belongs"),
    ({"vocab_size": "many"}, "vocab_size"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    ({"num_attention_heads": 3}, "3 heads"),
    ({"max_position_embeddings": -1}, "max_position_embeddings"),
    ({"rms_norm_eps": 1e300}, "rms_norm_eps"),
    ({"rope_scaling": "llama3"}, "rope_parameters is str"),
    ({"rope_scaling": ROPE | {"factor": None, "low_freq_factor": 0}}, "tensors"),
    ({"rope_scaling": ROPE | {"low_freq_factor": 4.0, "factor": 0}}, "rope_freqs.weight holds"),
    ({"architectures": "LlamaForCausalLM"}, "names no architecture"),
    ({"architectures": []}, "names no architecture"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
]


@pytest.mark.parametrize(("changes", "words"), TOO_MUCH, ids=[str(changes) for changes, _ in TOO_MUCH])
def test_an_odd_setting_is_named(changes: dict[str, Any], words: str, made: Path, tmp_path: Path, run: Run):
    shutil.copytree(made / "base", tmp_path / "base")
    edit_json(tmp_path / "base" / "config.json", **changes)
    code, stdout, stderr = run("convert", tmp_path / "base", *TO_Q4, "--out", tmp_path / "out.gguf")
    assert (code, stdout) == (3, "")
    assert words in stderr
    assert "internal error" not in stderr
    assert {path.name for path in tmp_path.iterdir()} == {"base"}
