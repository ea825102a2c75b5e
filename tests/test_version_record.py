"""The record of an adapter: what is read from it, digests that survive a re-save, and manifests from strangers."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from making import lora, numbers, write_json, write_tensors
from making_git import random_factors, save_adapter

from adaptool.adapters.adapter import open_adapter
from adaptool.comparing.contents import contents_of
from adaptool.errors import AdaptoolError, FormatError, NotFetchedError
from adaptool.reports.schemas import read_schema
from adaptool.tensors.safetensors import open_safetensors
from adaptool.versioning import hashing
from adaptool.versioning.hashing import hash_weights
from adaptool.versioning.record import Parent, read_record, record_text
from adaptool.versioning.recording import contents_of_record, record_of, shipped, write_record
from adaptool.versions import adapter_digest, listed_only, tensor_digest

COMMIT = "0123456789" * 4


@pytest.fixture
def sql(tmp_path):
    return save_adapter(tmp_path / "sql")


def text_of(folder):
    return record_text(record_of(folder))


def test_a_record_is_what_its_text_says(sql):
    record = record_of(sql)
    assert record == read_record(record_text(record).encode(), "here")
    assert record_text(record) == record_text(read_record(record_text(record).encode(), "here"))
    Draft202012Validator(read_schema("manifest")).validate(json.loads(record_text(record)))


def test_it_holds_what_is_there(sql):
    record = record_of(sql)
    assert (record.name, record.version, record.peft_type, record.base.name) == ("sql", "0.1.0", "LORA", "org/base")
    assert [file.name for file in record.files] == ["adapter_config.json", "adapter_model.safetensors"]
    for file in record.files:
        data = (sql / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
    adapter = open_adapter(sql)
    assert {key: tensor_digest(adapter.store, key) for key in adapter.store} == {
        key: tensor.digest for key, tensor in record.tensors.items()
    }
    assert adapter_digest(adapter) == record.content.digest
    assert record.contradictions == ()


def test_digests_are_an_interface(tmp_path):
    """Whoever recorded them years ago compares with them: what they are over may never change."""
    numbers = np.arange(8, dtype="<f4")
    names = ["base_model.model.m.q_proj.lora_A.weight", "base_model.model.m.q_proj.lora_B.weight"]
    shapes = [(2, 4), (4, 2)]
    tensors = {name: ("F32", numbers.reshape(shape)) for name, shape in zip(names, shapes, strict=True)}
    write_tensors(tmp_path / "adapter_model.safetensors", dict(reversed(tensors.items())))
    write_json(tmp_path / "adapter_config.json", {"r": 2, "lora_alpha": 4, "peft_type": "LORA", "bias": "none"})

    def sha(data):
        return hashlib.sha256(data).digest()

    config = sha(b'{"lora_alpha":4,"peft_type":"LORA","r":2}')
    a = sha(f'["{names[0]}","F32",[2,4]]'.encode() + numbers.tobytes())
    b = sha(f'["{names[1]}","F32",[4,2]]'.encode() + numbers.tobytes())
    content = record_of(tmp_path).content
    assert (config.hex(), sha(a + b).hex(), sha(config + sha(a + b)).hex()) == (
        content.config, content.weights, content.digest
    )  # fmt: skip


def test_nothing_of_the_machine_or_the_moment_is_in_it(sql, tmp_path):
    elsewhere = tmp_path / "other" / "place" / "sql"
    shutil.copytree(sql, elsewhere)
    assert text_of(sql) == text_of(elsewhere)
    assert str(tmp_path) not in text_of(sql)


def resaved(folder):
    """As another release of PEFT saves it: other order, defaults written out, its own version."""
    fields = json.loads((folder / "adapter_config.json").read_text())
    fields = {"peft_version": "0.99.0", "inference_mode": False, **dict(reversed(fields.items()))}
    fields |= {"target_modules": fields["target_modules"][::-1], "megatron_core": "megatron.core", "rank_pattern": {}}
    write_json(folder / "adapter_config.json", fields)
    store = open_safetensors(folder / "adapter_model.safetensors")
    tensors = {
        name: (store[name].dtype.name, store.read(name).reshape(store[name].shape)) for name in list(store)[::-1]
    }
    write_tensors(folder / "adapter_model.safetensors", tensors)


def test_a_resaved_adapter_has_the_same_content_and_other_files(sql):
    before = record_of(sql)
    resaved(sql)
    after = record_of(sql)
    assert before.content == after.content
    assert before.tensors == after.tensors
    assert before.files != after.files


@pytest.mark.parametrize("change", ["weights", "alpha", "key", "dtype"])
def test_what_computes_something_else_is_another_content(sql, change):
    before = record_of(sql)
    factors = random_factors(0)
    if change == "key":
        factors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = factors.pop(next(iter(factors)))
    new = {"weights": {"seed": 1}, "alpha": {"alpha": 9}, "key": {"tensors": factors}, "dtype": {"dtype": "F64"}}
    save_adapter(sql, **new[change])
    assert before.content.digest != record_of(sql).content.digest


@pytest.mark.parametrize("piece", [16, 100, 4096])
@pytest.mark.parametrize("threads", [0, 1 << 40])
def test_a_file_and_its_tensors_are_hashed_alike_in_pieces_of_any_size(tmp_path, monkeypatch, piece, threads):
    monkeypatch.setattr(hashing, "PIECE", piece)
    monkeypatch.setattr(hashing, "TWO_THREADS", threads)
    shapes = [(3, 5), (0, 4), (), (1,), (64, 64), (7,)]
    tensors = {f"t{i}": ("F32", numbers("F32", shape, i)) for i, shape in enumerate(shapes)}
    path = write_tensors(tmp_path / "x.safetensors", tensors)
    store = open_safetensors(path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest(), {name: tensor_digest(store, name) for name in tensors}
    assert expected == hash_weights(store, path)


def test_a_pickle_is_recorded_by_its_content_too(sql, tmp_path):
    torch = pytest.importorskip("torch")
    before = record_of(sql)
    store = open_safetensors(sql / "adapter_model.safetensors")
    torch.save({name: torch.from_numpy(store.array(name)) for name in store}, tmp_path / "adapter_model.bin")
    (sql / "adapter_model.safetensors").unlink()
    shutil.move(tmp_path / "adapter_model.bin", sql / "adapter_model.bin")
    after = record_of(sql)
    assert before.content == after.content
    assert "adapter_model.bin" in [file.name for file in after.files]


def test_what_a_manifest_alone_tells_is_what_the_adapter_holds(sql):
    adapter, told = open_adapter(sql), contents_of_record(record_of(sql))
    expected = contents_of(adapter)
    assert expected.tensors == told.tensors
    assert (expected.config_digest, expected.base, expected.vocabulary) == (
        told.config_digest, told.base, told.vocabulary
    )  # fmt: skip


def test_the_vocabulary_is_recorded_where_it_matters(tmp_path):
    head = {"base_model.model.lm_head.weight": ("F32", numbers("F32", (40, 64), 1))}
    folder = lora(tmp_path / "a", extra=head, modules_to_save=["lm_head"])
    write_json(folder / "added_tokens.json", {"<sql>": 40})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    record = record_of(folder)
    assert record.vocabulary == {"rows": {"lm_head": 40}, "added": {"<sql>": 40}}
    assert record == read_record(record_text(record).encode(), "here")


def test_what_the_user_said_is_carried_over(sql):
    first = record_of(sql)
    data = json.loads(record_text(first))
    data |= {
        "version": "3.1.4-rc.1", "metrics": {"accuracy": 0.5, "judge": "good"}, "recipe": {"epochs": 3, "x": [1, None]},
        "description": "SQL", "license": "Apache-2.0", "message": "new", "team": {"of": "later versions"},
        "parents": [{"relation": "composed_of", "name": "nl", "digest": "a" * 64, "path": ""}],
    }  # fmt: skip
    stated = read_record(json.dumps(data).encode(), "here")
    assert (Parent("composed_of", "nl", "a" * 64, path=""),) == stated.parents
    save_adapter(sql, seed=5)
    again = json.loads(record_text(record_of(sql, stated)))
    for field in ("version", "metrics", "recipe", "description", "license", "message", "team", "parents"):
        assert data[field] == again[field]
    assert data["content"] != again["content"]


@pytest.mark.parametrize(
    ("recorded", "config", "expected"),
    [
        (None, None, None),
        (COMMIT, None, COMMIT),
        (COMMIT, "main", COMMIT),
        (COMMIT, "f" * 40, "f" * 40),
        (None, "f" * 40, "f" * 40),
        (None, "main", "main"),
        ("v1.0", "v2.0", "v2.0"),
        ("v1.0", COMMIT, COMMIT),
        ("v1.0", None, "v1.0"),
    ],
)
def test_a_pin_is_kept_until_the_config_names_another(sql, recorded, config, expected):
    stated = json.loads(text_of(sql))
    stated["base"]["revision"] = recorded
    save_adapter(sql, revision=config)
    assert expected == record_of(sql, read_record(json.dumps(stated).encode(), "x")).base.revision


def test_a_pin_is_of_its_base_alone(sql):
    stated = json.loads(text_of(sql))
    stated["base"] |= {"revision": COMMIT, "digest": "d" * 64}
    save_adapter(sql, base="org/other")
    base = record_of(sql, read_record(json.dumps(stated).encode(), "x")).base
    assert (base.name, base.revision, base.digest) == ("org/other", None, None)


def test_and_stays_where_a_path_names_the_same_model(sql):
    stated = json.loads(text_of(sql))
    stated["base"]["revision"] = COMMIT
    save_adapter(sql, base="/models/base")
    base = record_of(sql, read_record(json.dumps(stated).encode(), "x")).base
    assert (base.name, base.revision) == ("/models/base", COMMIT)


def test_a_path_into_the_cache_of_the_hub_is_pinned_by_its_commit(sql):
    path = f"/home/someone/.cache/huggingface/hub/models--org--base/snapshots/{COMMIT}"
    save_adapter(sql, base=path)
    assert (path, COMMIT) == (record_of(sql).base.name, record_of(sql).base.revision)


SHIPPED = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json",
           "special_tokens_map.json", "added_tokens.json", "model.py", "adapter_model.bin",
           "additional_chat_templates/tool.jinja"]  # fmt: skip
NOT_SHIPPED = ["README.md", ".gitattributes", "adaptool.json", "model.sig", "LICENSE", "training_args.bin",
               "trainer_state.json", ".adapter_model.safetensors.partial", "notes.txt", "runs/events.1",
               "checkpoint-5/adapter_model.safetensors"]  # fmt: skip


def test_which_files_are_listed():
    assert sorted(SHIPPED) == shipped([*SHIPPED, *NOT_SHIPPED])


def test_a_versioned_adapter_is_nothing_that_adaptool_may_replace(sql):
    write_record(sql, text_of(sql))
    assert not listed_only(sql)


def broken():
    """A change to a sound manifest, and words of the error."""
    yield "kind", lambda m: m | {"kind": "merged"}, "not of an adapter"
    yield "no kind", lambda m: {k: v for k, v in m.items() if k != "kind"}, "kind must be text"
    yield "schema", lambda m: m | {"schema": "adaptool/manifest/2"}, "not the schema"
    yield "name", lambda m: m | {"name": ""}, "name must be text"
    yield "version", lambda m: m | {"version": 1.2}, "version must be text"
    yield "content", lambda m: m | {"content": "x"}, "content: must be an object"
    yield "digest", lambda m: m | {"content": m["content"] | {"config": "XY"}}, "config must be a SHA-256"
    yield "upper", lambda m: m | {"content": m["content"] | {"weights": "A" * 64}}, "weights must be a SHA-256"
    yield "tensors", lambda m: m | {"tensors": []}, "tensors: must be an object"
    yield "tensor", lambda m: m | {"tensors": {"x": "F32 [4]"}}, "is not of the form"
    yield "shape", lambda m: m | {"tensors": {"x": f"F32 [-4] {'a' * 64}"}}, "is not of the form"
    yield "huge", lambda m: m | {"tensors": {"x": f"F32 [{'9' * 30}] {'a' * 64}"}}, "is not of the form"
    yield "files", lambda m: m | {"files": None}, "files must be a list"
    for name in ("/etc/passwd", "../x", "a/../../x", "a\\b", "./x", "a//b", ".", "a\0b"):
        yield (
            name,
            lambda m, name=name: m | {"files": [{"name": name, "size": 1, "sha256": "a" * 64}]},
            "no file beside",
        )
    yield "size", lambda m: m | {"files": [{"name": "x", "size": -1, "sha256": "a" * 64}]}, "a number of bytes"
    yield "bool", lambda m: m | {"files": [{"name": "x", "size": True, "sha256": "a" * 64}]}, "a number of bytes"
    yield "hash", lambda m: m | {"files": [{"name": "x", "size": 1}]}, "sha256 must be text"
    yield "parents", lambda m: m | {"parents": {}}, "parents must be a list"
    yield "relation", lambda m: m | {"parents": [{"relation": "son", "name": "x"}]}, "relation must be one of"
    yield "metrics", lambda m: m | {"metrics": {"a": [1]}}, "a number or text"
    yield "truth", lambda m: m | {"metrics": {"a": True}}, "a number or text"
    yield "base", lambda m: m | {"base": None}, "base: must be an object"
    yield "long", lambda m: m | {"description": "x" * 20_000}, "longer than"
    yield "list", lambda m: [m], "must be an object"


@pytest.mark.parametrize(("name", "change", "words"), list(broken()), ids=[name for name, _, _ in broken()])
def test_a_manifest_that_is_none_is_an_error_in_words(sql, name, change, words):
    data = json.dumps(change(json.loads(text_of(sql)))).encode()
    with pytest.raises(FormatError, match=words) as caught:
        read_record(data, "sql/adaptool.json")
    assert caught.value.message.startswith("sql/adaptool.json")


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", NotFetchedError, "pointer"),
        (b'{\n<<<<<<< HEAD\n "a": 1\n=======\n "a": 2\n>>>>>>> b\n}', FormatError, "conflict markers"),
        (b'{"a": 1, "a": 2}', FormatError, "twice"),
        (b"[" * 100_000, FormatError, "nested"),
        (b"\xff\xfe{}", FormatError, "byte order mark"),
        (b"", FormatError, "not JSON"),
    ],
)
def test_bytes_that_are_no_manifest(data, kind, words):
    with pytest.raises(kind, match=words):
        read_record(data, "here")


def test_an_infinite_number_is_not_written(sql):
    data = text_of(sql).replace('"kind"', '"later": 1e999, "kind"').encode()
    with pytest.raises(FormatError, match="JSON does not have"):
        record_text(read_record(data, "here"))


@pytest.mark.parametrize("text", ["Infinity", "NaN"])
def test_but_a_name_may_be_called_so(sql, text):
    write_record(sql, text_of(sql))
    data = json.loads((sql / "adaptool.json").read_text()) | {"name": text}
    assert text == json.loads(record_text(read_record(json.dumps(data).encode(), "x")))["name"]


def test_a_record_that_contradicts_itself_says_so(sql):
    data = json.loads(text_of(sql))
    first = next(iter(data["tensors"]))
    spliced = data | {"tensors": data["tensors"] | {first: data["tensors"][first][:-64] + "0" * 64}}
    assert len(read_record(json.dumps(spliced).encode(), "x").contradictions) == 1
    stated = data | {"content": data["content"] | {"digest": "0" * 64}}
    assert len(read_record(json.dumps(stated).encode(), "x").contradictions) == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_stands_in_a_manifest_it_is_read_or_refused(tmp_path_factory, data):
    if not hasattr(test_whatever_stands_in_a_manifest_it_is_read_or_refused, "text"):
        folder = save_adapter(tmp_path_factory.mktemp("fuzz") / "sql", layers=1)
        test_whatever_stands_in_a_manifest_it_is_read_or_refused.text = text_of(folder)
    manifest = json.loads(test_whatever_stands_in_a_manifest_it_is_read_or_refused.text)
    place = manifest
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [value for value in place.values() if isinstance(value, dict) and value]
        place = data.draw(st.sampled_from(inner)) if inner else place
    place[data.draw(st.sampled_from(sorted(place)) | st.text(max_size=5))] = data.draw(values)
    try:
        record = read_record(json.dumps(manifest).encode(), "here")
        assert record == read_record(record_text(record).encode(), "here")
    except AdaptoolError:
        pass
