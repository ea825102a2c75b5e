"""What lies beside the merged weights: complete, true, and nothing that runs."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
from making import edit_json, llama, lora, merged, numbers, tree, write_json, write_tensors

from adaptool.adapters.base import open_base
from adaptool.errors import MismatchError
from adaptool.merging.model_files import card, licence_of
from adaptool.reports.schemas import read_schema
from adaptool.versions import adapter_digest, content_digest, file_record, header_digest

PREFIX = "base_model.model."


@pytest.fixture
def base(tmp_path):
    return llama(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path):
    return lora(tmp_path / "adapter")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def manifest_of(out: Path) -> dict:
    return json.loads((out / "adaptool.json").read_text(encoding="utf-8"))


def config_of(out: Path) -> dict:
    return json.loads((out / "config.json").read_text(encoding="utf-8"))


COPIED = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",
    "vocab.txt", "spiece.model", "tokenizer.model", "generation_config.json", "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json", "processor_config.json", "LICENSE", "LICENSE.txt", "LICENCE.md", "NOTICE", "NOTICE.txt",
    "USE_POLICY.md", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    "qwen.tiktoken", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors",
    "additional_chat_templates/rag.jinja",
}  # fmt: skip
LEFT = {
    "modeling_evil.py", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    "pytorch_model.bin", "model.onnx", "adapter_config.json", "adapter_model.safetensors", "adaptool.json", "README.md",
    "flax_model.msgpack", "model.safetensors.index.json.bak", ".gitattributes", ".env", "events.out.tfevents.1",
    "consolidated.00.pth", "run.sh", "LICENSE.py", "NOTICE.so", "LICENSE.bin", "COPYING.pkl", "1_Pooling/pooling.py",
    "1_Pooling/pytorch_model.bin", "checkpoint-10/config.json", "onnx/config.json",
}  # fmt: skip


def fill(folder: Path, names: set[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_text("{}")


def test_what_is_copied_and_what_is_not(base, adapter, out):
    fill(base, COPIED | LEFT)
    merged(base, adapter, out)
    found = set(tree(out))
    assert COPIED - found == set()
    assert (LEFT - {"adaptool.json", "README.md"}) & found == set()
    assert (out / "adaptool.json").read_text() != "{}"
    assert (out / "README.md").read_text() != "{}"
    assert found - COPIED == {"adaptool.json", "README.md", "config.json", "model.safetensors"}
    for name in COPIED - {"tokenizer.json", "generation_config.json"}:
        assert (out / name).read_text() == "{}"


def test_python_only_when_asked(base, adapter, out, tmp_path):
    (base / "modeling_x.py").write_text("1")
    edit_json(base / "config.json", auto_map={"AutoModel": "modeling_x.Model"})
    report = merged(base, adapter, out)
    assert not list(out.rglob("*.py"))
    assert any("--allow-remote-code-files" in note for note in report.notes)
    assert "auto_map" not in config_of(out)
    merged(base, adapter, tmp_path / "with", remote_code=True)
    assert (tmp_path / "with" / "modeling_x.py").read_text() == "1"
    assert config_of(tmp_path / "with")["auto_map"] == {"AutoModel": "modeling_x.Model"}


def test_python_of_an_adapter_never(base, adapter, out):
    (adapter / "tokenizer_evil.py").write_text("1")
    (adapter / "tokenizer.json").write_text("{}")
    merged(base, adapter, out, remote_code=True)
    assert not list(out.rglob("*.py"))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "name", ["tokenizer.model", "vocab.txt", "LICENSE", "1_Pooling/config.json", "2_Dense/model.safetensors"]
)
def test_a_pickle_by_any_name_is_left(base, adapter, out, name, protocol):
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_bytes(pickle.dumps({"a": [os.getcwd]}, protocol))
    merged(base, adapter, out)
    assert not (out / name).exists()


def test_a_component_whose_header_looks_like_a_pickle_is_copied(base, adapter, out):
    """A header of 128 bytes begins with the byte that a pickle begins with."""
    path = write_tensors(base / "2_Dense" / "model.safetensors", {"linear.weight": ("F32", numbers("F32", (4, 4), 0))})
    header, data = path.read_bytes()[8:-64], path.read_bytes()[-64:]
    path.write_bytes((128).to_bytes(8, "little") + header.ljust(128) + data)
    merged(base, adapter, out)
    assert path.read_bytes() == (out / "2_Dense" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x1f\x8b"])
def test_an_archive_is_left(base, adapter, out, head):
    (base / "vocab.txt").write_bytes(head + bytes(100))
    merged(base, adapter, out)
    assert not (out / "vocab.txt").exists()


SECRET = "ssh-rsa secret"
NAMES = ["tokenizer.json", "LICENSE", "chat_template.jinja", "1_Pooling/config.json", "1_Pooling/x.jinja",
         "2_Dense/model.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["base", "adapter"])
def test_a_symlink_that_leaves_the_folder_is_not_followed(base, adapter, out, tmp_path, name, where):
    (tmp_path / "secret").write_text(SECRET)
    folder = {"base": base, "adapter": adapter}[where]
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    if where == "adapter":
        with pytest.raises(MismatchError, match="FIL010"):
            merged(base, adapter, out)
    merged(base, adapter, out, ignore=["FIL010"])
    assert SECRET.encode() not in b"".join(tree(out).values())


def test_a_component_folder_that_is_a_symlink_is_not_followed(base, adapter, out, tmp_path):
    fill(tmp_path, {"home/config.json", "home/tokens.json", "home/x.jinja"})
    (base / "1_Pooling").symlink_to(tmp_path / "home")
    merged(base, adapter, out)
    assert not list(out.glob("1_Pooling/*"))


def test_a_folder_with_a_files_name_is_passed_over(base, adapter, out):
    (base / "1_Pooling" / "x.jinja").mkdir(parents=True)
    (base / "1_Pooling" / "config.json").mkdir()
    (base / "chat_template.jinja").mkdir()
    os.mkfifo(base / "vocab.txt")
    merged(base, adapter, out)
    assert (out / "adaptool.json").is_file()


def test_a_dangling_symlink_is_passed_over(base, adapter, out):
    (base / "vocab.txt").symlink_to("nowhere")
    merged(base, adapter, out)
    assert not (out / "vocab.txt").exists()


def test_an_hf_cache_is_copied_through_its_symlinks(base, adapter, out, tmp_path):
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("c" * 40)
    blobs = snapshot.parent.parent / "blobs"
    (snapshot / "1_Pooling").mkdir(parents=True)
    blobs.mkdir()
    fill(base, {"1_Pooling/config.json"})
    for number, file in enumerate(sorted(path for path in base.rglob("*") if path.is_file())):
        shutil.move(file, blobs / str(number))
        (snapshot / file.relative_to(base)).symlink_to(blobs / str(number))
    merged(snapshot, adapter, out)
    assert {"tokenizer.json", "1_Pooling/config.json", "config.json", "model.safetensors"} <= set(tree(out))
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert manifest_of(out)["base"]["name"] == "org/name"
    assert manifest_of(out)["base"]["revision"] == "c" * 40


def test_the_adapters_tokenizer_wins(base, adapter, out):
    fill(base, {"tokenizer_config.json", "vocab.txt"})
    (adapter / "tokenizer.json").write_text('{"added": 1}')
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    report = merged(base, adapter, out)
    assert (out / "tokenizer.json").read_text() == '{"added": 1}'
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not (out / "vocab.txt").exists()
    assert any("tokenizer is the adapter's" in note for note in report.notes)


def test_an_adapters_chat_template_alone_changes_nothing_else(base, adapter, out):
    fill(base, {"tokenizer_config.json"})
    (adapter / "special_tokens_map.json").write_text('{"mine": 1}')
    merged(base, adapter, out)
    assert json.loads((out / "tokenizer.json").read_text()) == {"version": "1.0"}


def test_a_lone_weights_file_brings_no_neighbours(adapter, out, tmp_path):
    folder = tmp_path / "downloads"
    fill(folder, {"tokenizer.json", "notes.txt", "LICENSE"})
    lone = shutil.copy(llama(tmp_path / "x") / "model.safetensors", folder / "x.safetensors")
    merged(Path(lone), adapter, out)
    assert "notes.txt" not in tree(out)


def test_a_base_without_a_config_gets_none(adapter, out, tmp_path):
    base = llama(tmp_path / "base")
    (base / "config.json").unlink()
    merged(base, adapter, out)
    assert not (out / "config.json").exists()
    assert "transformers" not in (out / "README.md").read_text()


def test_config_is_the_bases_but_for_what_changed(base, adapter, out):
    edit_json(base / "config.json", rope_scaling={"factor": 2.0}, custom=[1, "ü"], torch_dtype="float32")
    merged(base, adapter, out)
    expected = json.loads((base / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    assert expected == config_of(out)
    assert list(expected) == list(config_of(out))


@pytest.mark.parametrize(("kind", "expected"), [("F16", "float16"), ("F32", "float32"), ("BF16", "bfloat16")])
def test_config_says_the_type_of_the_weights(adapter, out, tmp_path, kind, expected):
    base = llama(tmp_path / "typed", kind=kind)
    edit_json(base / "config.json", torch_dtype="float64")
    merged(base, adapter, out)
    assert expected == config_of(out)["torch_dtype"] == manifest_of(out)["recipe"]["dtype"]


def test_the_newer_name_of_the_type_is_kept(base, adapter, out):
    config = json.loads((base / "config.json").read_text())
    del config["torch_dtype"]
    write_json(base / "config.json", config | {"dtype": "float32"})
    merged(base, adapter, out)
    assert config_of(out)["dtype"] == "bfloat16"
    assert "torch_dtype" not in config_of(out)


def test_a_nested_text_config_is_edited_too(adapter, out, tmp_path):
    base = llama(tmp_path / "tied", tied=True)
    config = json.loads((base / "config.json").read_text())
    write_json(
        base / "config.json",
        config | {"text_config": {"vocab_size": 40, "torch_dtype": "float32", "tie_word_embeddings": True}},
    )
    head = {f"{PREFIX}lm_head.weight": ("F32", numbers("F32", (40, 64), 7))}
    merged(base, lora(tmp_path / "head", extra=head, modules_to_save=["lm_head"]), out)
    text = config_of(out)["text_config"]
    assert (text["tie_word_embeddings"], text["torch_dtype"]) == (False, "bfloat16")


@pytest.mark.parametrize(("saved", "expected"), [(["lm_head"], False), (None, True)])
def test_the_tie_flag_is_true_to_the_weights(out, tmp_path, saved, expected):
    base = llama(tmp_path / "tied", tied=True)
    head = {f"{PREFIX}lm_head.weight": ("F32", numbers("F32", (40, 64), 7))} if saved else {}
    merged(base, lora(tmp_path / "head", extra=head, modules_to_save=saved), out)
    assert config_of(out)["tie_word_embeddings"] is expected
    assert ("lm_head.weight" in open_base(out).store) is (not expected)


def test_a_resized_vocabulary_is_in_the_config(base, out, tmp_path):
    rows = {
        f"{PREFIX}{name}.weight": ("F32", numbers("F32", (43, 64), 7)) for name in ("model.embed_tokens", "lm_head")
    }
    merged(base, lora(tmp_path / "resized", extra=rows), out)
    assert config_of(out)["vocab_size"] == 43
    assert manifest_of(out)["recipe"]["resizes_vocabulary"] == 43


def test_a_new_head_brings_its_class_and_labels(base, out, tmp_path):
    score = {f"{PREFIX}score.weight": ("F32", numbers("F32", (3, 64), 7))}
    merged(base, lora(tmp_path / "cls", extra=score, task_type="SEQ_CLS", modules_to_save=["score"]), out)
    config = config_of(out)
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert config["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_labels_that_fit_are_kept(base, out, tmp_path):
    labels = {"id2label": {"0": "no", "1": "yes", "2": "perhaps"}, "label2id": {"no": 0, "yes": 1, "perhaps": 2}}
    edit_json(base / "config.json", **labels)
    score = {f"{PREFIX}score.weight": ("F32", numbers("F32", (3, 64), 7))}
    merged(base, lora(tmp_path / "cls", extra=score, task_type="SEQ_CLS", modules_to_save=["score"]), out)
    assert {name: config_of(out)[name] for name in labels} == labels


def front_matter(text: str) -> dict:
    """The metadata block of a card, as the Hub parses it."""
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL).group(1))


def test_the_card_says_what_the_hub_reads(base, adapter, out):
    (base / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- x\n---\nA model.")
    merged(base, adapter, out)
    metadata = front_matter((out / "README.md").read_text())
    assert metadata["base_model"] == ["zoo/base"]
    assert metadata["base_model_relation"] == "merge"
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "transformers"


@pytest.mark.parametrize(
    "named", [None, "/home/me/llama", "../llama", "C:\\models\\llama", "org/na: me", "a/b\nlicense: mit"]
)
def test_what_is_no_hub_id_is_not_claimed(base, out, tmp_path, named):
    merged(base, lora(tmp_path / "a", base_model_name_or_path=named), out, ignore=["CFG012"])
    text = (out / "README.md").read_text()
    assert "base_model" not in front_matter(text)
    assert "license" not in front_matter(text)
    assert "/home/me" not in "".join(
        data.decode("latin-1") for name, data in tree(out).items() if "safetensors" not in name
    )


def test_no_path_of_this_machine_is_published(base, adapter, out, tmp_path):
    merged(base, adapter, out)
    for name, data in tree(out).items():
        assert str(tmp_path).encode() not in data, name


@pytest.mark.parametrize("name", ["`rm -rf`", "a\nb", "---", "<script>", "ünï", "a: b"])
def test_a_card_survives_any_name(name):
    text = card(["org/base"], [name], "mit")
    assert front_matter(text)["license"] == "mit"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---", "mit"),
        ("---\ntags:\n- x\nlicense:   llama3.1  \n---\n", "llama3.1"),
        ("license: mit", None),
        ("---\nlicense: [a, b]\n---", None),
        ("---\nlicense: mit\nevil: 1\n", None),
        ("---\n  license: mit\n---", None),
        ("", None),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
    ],
)
def test_licences(tmp_path, text, expected):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert expected == licence_of(tmp_path)


def test_no_readme_no_licence(tmp_path):
    assert licence_of(tmp_path) is None


def test_the_manifest_fits_its_schema_and_lists_every_file(base, adapter, out):
    jsonschema = pytest.importorskip("jsonschema")
    fill(base, {"1_Pooling/config.json"})
    merged(base, adapter, out, digest_base=True)
    manifest = manifest_of(out)
    jsonschema.Draft202012Validator(read_schema("manifest")).validate(manifest)
    listed = {record["name"]: record["size"] for record in manifest["files"]}
    assert listed == {name: len(data) for name, data in tree(out).items() if name != "adaptool.json"}


def test_the_manifest_records_its_inputs(base, adapter, out):
    from adaptool.adapters.adapter import open_adapter

    merged(base, adapter, out, digest_base=True)
    manifest = manifest_of(out)
    store = open_base(base).store
    assert manifest["base"]["header_digest"] == header_digest(store)
    assert manifest["base"]["digest"] == content_digest(store)
    (record,) = manifest["adapters"]
    assert record["digest"] == adapter_digest(open_adapter(adapter))
    assert record["files"] == [file_record(path, hashed=True).to_dict() for path in sorted(adapter.iterdir())]
    assert record["base_model"] == "zoo/base"
    assert manifest["checked"]["sampled_rows"] > 0


def test_a_base_is_hashed_only_when_asked(base, adapter, out):
    merged(base, adapter, out)
    assert "digest" not in manifest_of(out)["base"]


def test_equal_merges_have_equal_folders(base, adapter, tmp_path):
    merged(base, adapter, tmp_path / "one", workers=1)
    shutil.copytree(tmp_path / "base", tmp_path / "elsewhere" / "base")
    merged(tmp_path / "elsewhere" / "base", adapter, tmp_path / "two", workers=3)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_digest_ignores_order_and_files(adapter, tmp_path):
    from adaptool.adapters.adapter import open_adapter

    store = open_adapter(adapter).store
    shuffled = {name: (store[name].dtype.name, store.array(name)) for name in reversed(list(store))}
    other = lora(tmp_path / "other", target_modules=["v_proj", "q_proj"])
    write_tensors(other / "adapter_model.safetensors", shuffled)
    assert adapter_digest(open_adapter(adapter)) == adapter_digest(open_adapter(other))
    edit_json(other / "adapter_config.json", lora_alpha=9)
    assert adapter_digest(open_adapter(adapter)) != adapter_digest(open_adapter(other))


LOADED = [
    "llama_plain_bf16", "llama_sharded", "llama_seqcls_on_causal", "bert_seqcls_on_bare", "gpt2_bare_base",
    "tied_head_bf16",
    "tied_embed_bf16", "tied_save_embed", "llama_resized_saved", "tied_resized_saved", "gpt_neox_save_head",
    "t5_untied",
    "vit_classifier", "llama_pickled", "gemma3_text_all", "gpt_oss_experts",
]  # fmt: skip


@pytest.mark.parametrize("name", LOADED)
def test_transformers_loads_it_whole(name, zoo, out):
    """No tensor missing, none left over, none resized, and the values those PEFT's merge has at run time."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from zoo_build import DTYPES, quiet
    from zoo_models import MODELS

    built = zoo(name)
    from adaptool.api import merge

    for _ in merge(list(zip(built.adapter_dirs, built.weights, strict=True)), built.base_dir, out):
        pass
    with quiet():
        cls = MODELS[built.case.model].cls
        model, info = cls.from_pretrained(out, dtype=DTYPES[built.case.dtype], output_loading_info=True)
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        assert not info[kind], kind
    if "partial" not in built.case.flags:
        assert not info["unexpected_keys"]
    if "tied_truth" in built.case.flags:
        return
    with quiet():
        expected = cls.from_pretrained(built.merged_dir, dtype=DTYPES[built.case.dtype]).state_dict()
    result = model.state_dict()
    assert expected.keys() == result.keys()
    for key, tensor in expected.items():
        assert torch.allclose(tensor.float(), result[key].float(), rtol=2.0**-20, atol=2.0**-24), key
    if name != "gpt2_bare_base":  # whose config names the class without a head, and goes on doing so
        assert (
            config_of(out)["architectures"]
            == json.loads((built.merged_dir / "config.json").read_text())["architectures"]
        )
