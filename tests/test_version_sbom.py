"""The bill of materials: valid CycloneDX 1.6, the same for the same adapter, and all of the lineage in it."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
from making import edit_json, llama, lora, merged
from making_git import Repo, isolate, needs_lfs, save_adapter

from adaptool.api import fix
from adaptool.cli.main import main
from adaptool.errors import MismatchError, NotFoundError
from adaptool.versioning.bill.card import Card, card_of
from adaptool.versioning.bill.sbom import bill_of_materials
from adaptool.versioning.bill.sbom_parts import licences, purl
from adaptool.versioning.record import Base, Parent, record_beside, record_text
from adaptool.versioning.recording import record_of, write_record

COMMIT = "a" * 40

CARD = """---
license: apache-2.0
pipeline_tag: text-generation
datasets:
- org/sql-pairs
- "local data"
language: [en, de]
---
# sql
"""


def versioned(folder, **what):
    """Put an adapter under version; ``what`` is said of it."""
    write_record(folder, record_text(replace(record_of(folder, record_beside(folder)), **what)))
    return folder


def valid(bill):
    """The bill, held to the official schema of CycloneDX 1.6, offline, and to what a schema cannot say."""
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion

    assert None is validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    refs = list(references(bill))
    assert len(refs) == len(set(refs))
    edges = {edge["ref"]: edge.get("dependsOn", []) for edge in bill["dependencies"]}
    top = {bill["metadata"]["component"]["bom-ref"], *(part["bom-ref"] for part in bill["components"])}
    assert top == set(edges)
    assert {ref for refs in edges.values() for ref in refs} <= top
    datasets = bill["metadata"]["component"].get("modelCard", {}).get("modelParameters", {}).get("datasets", [])
    assert {data["ref"] for data in datasets} <= top
    return bill


def references(value):
    if isinstance(value, dict):
        if "bom-ref" in value:
            yield value["bom-ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def properties(part):
    return {item["name"].removeprefix("adaptool:"): item["value"] for item in part["properties"]}


def named(bill, name):
    [part] = [part for part in bill["components"] if part["name"] == name]
    return part


def test_an_adapter(tmp_path):
    folder = save_adapter(tmp_path / "sql", revision=COMMIT)
    (folder / "README.md").write_text(CARD)
    versioned(folder, version="1.2.0", metrics={"exact match": 0.71, "judge": "good"}, description="Text to SQL.")
    bill = valid(bill_of_materials(folder))
    main = bill["metadata"]["component"]
    record = record_of(folder)
    told = {"type": "machine-learning-model", "name": "sql", "version": "1.2.0", "description": "Text to SQL.",
            "licenses": [{"license": {"id": "Apache-2.0"}}]}  # fmt: skip
    assert told == {name: main[name] for name in told}
    weights = next(file for file in record.files if file.name == "adapter_model.safetensors")
    assert [{"alg": "SHA-256", "content": weights.sha256}] == main["hashes"]
    assert {file.name: file.sha256 for file in record.files} == {
        part["name"]: part["hashes"][0]["content"] for part in main["components"]
    }
    assert {
        "kind": "adapter", "peft-type": "LORA", "config:r": "4", "config:lora_alpha": "8",
        "config:target_modules": "q_proj, v_proj", "content-digest": record.content.digest,
    } == properties(main)  # fmt: skip
    assert main["modelCard"] == {
        "modelParameters": {
            "task": "text-generation",
            "datasets": [{"ref": "data:org/sql-pairs"}, {"ref": "data:local data"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [{"type": "exact match", "value": "0.71"}, {"type": "judge", "value": "good"}]
        },
    }
    base = named(bill, "org/base")
    assert f"pkg:huggingface/org/base@{COMMIT}" == base["purl"]
    assert base["version"] == COMMIT
    assert [part["name"] for part in main["pedigree"]["ancestors"]] == ["org/base"]
    [edge] = [edge for edge in bill["dependencies"] if edge["ref"] == main["bom-ref"]]
    assert sorted([base["bom-ref"], "data:org/sql-pairs", "data:local data"]) == edge["dependsOn"]


def test_the_same_adapter_gives_the_same_bill(tmp_path):
    one, two = (versioned(save_adapter(tmp_path / place / "sql")) for place in ("a", "b"))
    assert bill_of_materials(one) == bill_of_materials(two)
    (one / "model.sig").write_text("{}")
    (one / "sbom.cdx.json").write_text("{}")
    assert bill_of_materials(one) == bill_of_materials(two)
    assert uuid.UUID(bill_of_materials(one)["serialNumber"]).version == 5
    versioned(two, version="0.2.0")
    assert bill_of_materials(one)["serialNumber"] != bill_of_materials(two)["serialNumber"]


def test_a_base_that_is_no_hub_id_tells_no_path(tmp_path):
    bill = valid(bill_of_materials(versioned(save_adapter(tmp_path / "sql", base="/home/ana/models/llama-8b"))))
    assert "ana" not in json.dumps(bill)
    assert "purl" not in named(bill, "llama-8b")


def test_a_branch_is_no_version_of_a_base(tmp_path):
    bill = valid(bill_of_materials(versioned(save_adapter(tmp_path / "sql", revision="main"))))
    base = named(bill, "org/base")
    assert base["purl"] == "pkg:huggingface/org/base"
    assert properties(base) == {"revision": "main"}


def test_an_adapter_without_a_manifest_or_a_base(tmp_path):
    bill = valid(bill_of_materials(save_adapter(tmp_path / "sql", base=None)))
    assert bill["components"] == []
    with pytest.raises(NotFoundError):
        bill_of_materials(tmp_path / "gone")


def test_a_manifest_that_is_not_true_has_no_bill(tmp_path):
    folder = versioned(save_adapter(tmp_path / "sql"))
    save_adapter(folder, seed=1)
    with pytest.raises(MismatchError, match="manifest and content disagree"):
        bill_of_materials(folder)


def test_files_saved_again_are_listed_as_they_are(tmp_path):
    folder = versioned(save_adapter(tmp_path / "sql"))
    edit_json(folder / "adapter_config.json", peft_version="0.17.0")
    listed = {part["name"]: part["hashes"][0]["content"] for part in
              valid(bill_of_materials(folder))["metadata"]["component"]["components"]}  # fmt: skip
    assert {file.name: file.sha256 for file in record_of(folder).files} == listed


def test_the_lineage_is_followed(tmp_path, monkeypatch):
    """sql was trained from style, which was trained from first; and merged with one from the hub."""
    isolate(monkeypatch, tmp_path / "home")
    repo = Repo(tmp_path / "repo")

    def add(name, seed, *parents, **what):
        folder = repo.adapter(f"adapters/{name}", seed=seed)
        versioned(folder, parents=parents, **what)
        repo.commit(name)
        record = record_beside(folder)
        return Parent("trained_from", name, record.content.digest, record.version, f"adapters/{name}")

    first = add("first", 1, license="mit")
    style = add("style", 2, first, base=Base("org/base", COMMIT))
    hub = Parent("composed_of", "org/tone", version="b" * 40)
    add("sql", 3, style, hub, license="MIT OR Apache-2.0")
    bill = valid(bill_of_materials(repo.folder / "adapters" / "sql"))
    main = bill["metadata"]["component"]
    edges = {edge["ref"]: edge.get("dependsOn", []) for edge in bill["dependencies"]}
    refs = {name: named(bill, name)["bom-ref"] for name in ("first", "style", "org/tone")}
    assert {refs["style"], refs["org/tone"]} <= set(edges[main["bom-ref"]])
    assert refs["first"] in edges[refs["style"]]
    assert f"model:org/base@{COMMIT}" in edges[refs["style"]]
    assert f"pkg:huggingface/org/tone@{'b' * 40}" == named(bill, "org/tone")["purl"]
    assert named(bill, "first")["licenses"] == [{"license": {"id": "MIT"}}]
    assert main["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert properties(named(bill, "style"))["relation"] == "trained_from"
    assert [part["name"] for part in main["pedigree"]["ancestors"]] == ["style", "org/tone", "org/base"]


def test_parents_outside_of_a_repository_are_named(tmp_path):
    parent = Parent("trained_from", "style", "c" * 64, "2.0.0", "adapters/style")
    bill = valid(bill_of_materials(versioned(save_adapter(tmp_path / "sql"), parents=(parent,))))
    assert named(bill, "style")["version"] == "2.0.0"


@needs_lfs
def test_a_clone_without_its_content(tmp_path, monkeypatch):
    """The pointers tell the digests, so the bill is the same."""
    isolate(monkeypatch, tmp_path / "home")
    repo = Repo(tmp_path / "repo")
    repo.lfs()
    folder = versioned(repo.adapter("sql"))
    repo.commit()
    clone = repo.clone(tmp_path / "clone")
    assert bill_of_materials(folder) == bill_of_materials(clone.folder / "sql")


def test_what_was_made(tmp_path):
    """A merged model, its conversion back, and a corrected adapter."""
    base, adapter = llama(tmp_path / "base"), lora(tmp_path / "sql")
    merged(base, adapter, tmp_path / "merged")
    bill = valid(bill_of_materials(tmp_path / "merged"))
    main = bill["metadata"]["component"]
    assert properties(main)["kind"] == "merged"
    assert main["modelCard"]["modelParameters"]["architectureFamily"] == "llama"
    assert {"base", "sql", "zoo/base"} == {part["name"] for part in bill["components"]}
    assert properties(named(bill, "sql"))["relation"] == "merged_into"
    assert {"model.safetensors", "config.json"} <= {part["name"] for part in main["components"]}
    assert all(part["hashes"] for part in main["components"])


def test_a_corrected_adapter(tmp_path):
    job = fix(lora(tmp_path / "sql", use_rslora=True), tmp_path / "fixed", consumers=("ollama",))
    for _ in job:
        pass
    bill = valid(bill_of_materials(tmp_path / "fixed"))
    assert bill["metadata"]["component"]["name"] == "fixed"
    assert properties(named(bill, "sql"))["relation"] == "fixed_from"
    assert [part["name"] for part in bill["metadata"]["component"]["pedigree"]["ancestors"]] == ["sql", "zoo/base"]


@pytest.mark.parametrize("manifest", [
    {"base": {"name": "org/base", "revision": COMMIT, "header_digest": "0" * 64, "files": []}},
    {"base": {"name": 3, "revision": []}}, {"base": []}, {"adapters": 7, "recipe": [1]},
    {"adapters": [1, {"name": {}}]},
])  # fmt: skip
def test_a_converted_model(tmp_path, manifest):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    files = [{"name": "model-Q4_K_M.gguf", "size": 4}]
    made = {"schema": "adaptool/manifest/1", "kind": "converted", "adaptool": "0.1.0", "files": files, **manifest}
    (folder / "adaptool.json").write_text(json.dumps(made))
    bill = valid(bill_of_materials(folder))
    assert properties(bill["metadata"]["component"])["kind"] == "converted"


CARDS = {
    "": Card(),
    "no block": Card(),
    "---\nlicense: mit\n": Card(),
    "---\nlicense: mit\n---": Card("mit"),
    "---\r\nlicense: mit\r\n---\r\n": Card("mit"),
    "\ufeff---\nlicense: mit\n---\n": Card("mit"),
    "---\nlicense: 'mit' # yes\n---\n": Card("mit"),
    "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\n": Card("llama3", "LICENSE"),
    "---\ndatasets: a/b\n---\n": Card(datasets=("a/b",)),
    "---\ndatasets: [a/b, 'c, d']\n---\n": Card(datasets=("a/b", "c, d")),
    "---\ndatasets:\n  - a/b\n  - c\ntags:\n- x\n---\n": Card(datasets=("a/b", "c"), tags=("x",)),
    "---\ndatasets:\n- name: a\n  x: y\n---\n": Card(datasets=("name: a",)),
    "---\nlicense: {a: b}\nlanguage: null\n---\n": Card(),
    "---\nlicense: |\n  text\n---\n": Card(),
    "---\nmodel-index:\n- name: x\n  results:\n  - task: y\nlicense: mit\n---\n": Card("mit"),
}


@pytest.mark.parametrize("text", CARDS, ids=range(len(CARDS)))
def test_cards(tmp_path, text):
    (tmp_path / "README.md").write_bytes(text.encode())
    assert CARDS[text] == card_of(tmp_path)


@pytest.mark.parametrize("data", [b"\xff\xfe---", b"---\n" + b"a: b\n" * 100_000, b"\0" * 100])
def test_cards_that_are_none(tmp_path, data):
    (tmp_path / "README.md").write_bytes(data)
    assert Card() == card_of(tmp_path)


LICENCES = {
    "apache-2.0": [{"license": {"id": "Apache-2.0"}}],
    "GPL-3.0-or-later": [{"license": {"id": "GPL-3.0-or-later"}}],
    "llama3.1": [{"license": {"name": "llama3.1"}}],
    "MIT OR (Apache-2.0 AND bsd-3-clause)": [{"expression": "MIT OR (Apache-2.0 AND BSD-3-Clause)"}],
    "mine AND yours": [{"license": {"name": "mine AND yours"}}],
    "unknown": [],
    "": [],
}


@pytest.mark.parametrize("text", LICENCES)
def test_licences(text):
    assert LICENCES[text] == licences(text)


def test_package_urls():
    assert purl("o+rg/na me", COMMIT.upper()) == "pkg:huggingface/o%2Brg/na%20me@" + COMMIT


HOSTILE = "\x1b[31mx\u202e\n<script>"


def test_what_is_hostile_is_only_text(tmp_path, capsys):
    folder = save_adapter(tmp_path / "sql", base=f"org/{HOSTILE}", target_modules=[HOSTILE, 3, None])
    (folder / "README.md").write_text(f"---\nlicense: {HOSTILE!r}\ndatasets: [{HOSTILE!r}]\n---\n")
    versioned(folder, description=HOSTILE, metrics={HOSTILE: HOSTILE}, license=HOSTILE)
    valid(bill_of_materials(folder))
    assert main(["version", "sbom", str(folder)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_command(tmp_path, capsys, monkeypatch):
    folder = versioned(save_adapter(tmp_path / "sql"))
    out = tmp_path / "sbom.cdx.json"
    assert main(["version", "sbom", str(folder), "--out", str(out)]) == 0
    assert f"{out}\n" == capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written == bill_of_materials(folder)
    assert main(["version", "sbom", str(folder), "--out", str(out)]) == 2
    capsys.readouterr()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1735732800")
    assert main(["version", "sbom", str(folder), "--out", str(out), "--overwrite", "--json"]) == 0
    stamped = json.loads(capsys.readouterr().out)
    assert stamped["metadata"]["timestamp"] == "2025-01-01T12:00:00Z"
    assert stamped == valid(json.loads(out.read_text()))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert main(["version", "sbom", str(folder)]) == 2
