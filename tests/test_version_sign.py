"""Signatures: ours and model-signing's, each taken by the other; and everything that must not be taken for one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from making_git import Repo, isolate, needs_lfs, save_adapter
from test_schemas import check

from adaptool.cli.main import main
from adaptool.errors import AdaptoolError, FormatError, MismatchError, NotFetchedError, NotFoundError, UsageError
from adaptool.versioning.record import record_text
from adaptool.versioning.recording import record_of, write_record
from adaptool.versioning.signing.bundle import Bundle, bundle_text, read_bundle
from adaptool.versioning.signing.dsse import PAYLOAD_TYPE, Envelope, encoded
from adaptool.versioning.signing.keys import read_private_key, read_public_key
from adaptool.versioning.signing.pinned import keys_for
from adaptool.versioning.signing.signing import sign
from adaptool.versioning.signing.statement import read_statement, statement_of, statement_payload
from adaptool.versioning.signing.verifying import verify_version

pytest.importorskip("cryptography", reason="the extra [sign] is not installed")

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils

THEIRS = Path(__file__).parent / "data" / "model-signing"
MODEL_SIGNING = shutil.which(os.environ.get("MODEL_SIGNING", "model_signing"))
"""The other tool, where it is installed: it brings dozens of packages, so the test extra leaves it out."""

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
HASHES = {"P-256": hashes.SHA256(), "P-384": hashes.SHA384(), "P-521": hashes.SHA512()}


def make_keys(folder, name="key", kind="P-256", passphrase=None):
    """A pair of PEM files: NAME.pem and NAME.pub."""
    made = {"Ed25519": ed25519.Ed25519PrivateKey.generate, "RSA": lambda: rsa.generate_private_key(65537, 2048)}
    key = made[kind]() if kind in made else ec.generate_private_key(CURVES.get(kind) or ec.SECP256K1())
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    form = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(form, serialization.PrivateFormat.PKCS8, how))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(form, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path):
    """A pair of PEM files."""
    return make_keys(tmp_path)


@pytest.fixture
def adapter(tmp_path):
    """An adapter with a version, a card, a tokenizer and a chat template."""
    folder = save_adapter(tmp_path / "sql")
    (folder / "README.md").write_text("# sql\n")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}")
    return versioned(folder)


@pytest.fixture
def signed(adapter, keys):
    """The same, signed."""
    sign(adapter, read_private_key(keys[0])).write()
    return adapter


def versioned(folder):
    write_record(folder, record_text(record_of(folder)))
    return folder


def verified(folder, *keys, **how):
    return verify_version(folder, [read_public_key(key) for key in keys], **how)


def told(found):
    """What a verification found, without the words."""
    return found.verdict, found.signature.status, {(one.file, one.what, one.against) for one in found.differences}


VERIFIED = ("verified", "verified", set())


# --- both directions


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "Ed25519"])
def test_what_was_signed_is_verified(adapter, tmp_path, kind):
    private, public = make_keys(tmp_path, kind=kind)
    signing = sign(adapter, read_private_key(private))
    assert not (adapter / "model.sig").exists()
    signing.write()
    found = verified(adapter, public)
    assert told(found) == VERIFIED
    assert found.exit_code == 0
    assert [file.name for file in signing.files] == list(found.signature.files)
    assert signing.digest == found.signature.digest
    assert found.signature.name == "sql"


@pytest.mark.skipif(MODEL_SIGNING is None, reason="model-signing is not installed")
@pytest.mark.parametrize("kind", list(CURVES))
def test_model_signing_takes_ours_and_we_take_theirs(adapter, tmp_path, kind):
    private, public = make_keys(tmp_path, kind=kind)
    sign(adapter, read_private_key(private)).write()
    ours = ["verify", "key", adapter, "--signature", adapter / "model.sig", "--public_key", public]
    run = {"check": False, "capture_output": True}
    assert subprocess.run([MODEL_SIGNING, *ours], **run).returncode == 0
    (adapter / "README.md").write_text("# another card\n")
    assert subprocess.run([MODEL_SIGNING, *ours], **run).returncode == 0
    (adapter / "tokenizer_config.json").write_text('{"a": 1}')
    assert subprocess.run([MODEL_SIGNING, *ours], **run).returncode == 1
    versioned(adapter)
    theirs = ["sign", "key", adapter, "--signature", adapter / "model.sig", "--private_key", private]
    assert subprocess.run([MODEL_SIGNING, *theirs], **run).returncode == 0
    assert told(verified(adapter, public)) == VERIFIED


@pytest.mark.parametrize("method", ["files", "shards", "blake2b"])
def test_what_model_signing_signed_is_verified(method):
    """Written by model-signing 1.1.1: whole files, shards of 300 bytes, and another hash function."""
    found = verified(THEIRS / "adapter", THEIRS / "public.pem", signature=THEIRS / f"{method}.sig")
    assert told(found) == VERIFIED
    assert len(found.signature.files) == 4


def test_a_hash_function_that_is_not_there_is_no_approval():
    found = verified(THEIRS / "adapter", THEIRS / "public.pem", signature=THEIRS / "blake3.sig")
    assert ("unchecked", "unchecked", set()) == told(found)
    assert found.exit_code == 3
    assert "blake3" in found.signature.because


@pytest.mark.parametrize("method", ["files", "shards", "blake2b"])
@pytest.mark.parametrize("change", [b"", b"x", None])
def test_their_signature_over_other_bytes_is_not(tmp_path, method, change):
    folder = tmp_path / "adapter"
    shutil.copytree(THEIRS / "adapter", folder)
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + b"\x7f" if change is None else data + change)
    found = verified(folder, THEIRS / "public.pem", signature=THEIRS / f"{method}.sig")
    wrong = {("adapter_model.safetensors", "changed", "signature")}
    assert (VERIFIED if change == b"" else ("not verified", "mismatch", wrong)) == told(found)


@pytest.mark.parametrize("kind", list(CURVES))
def test_a_signature_is_what_the_specifications_say(adapter, tmp_path, kind):
    """DSSE, in-toto and the predicate, taken apart without adaptool."""
    private, public = make_keys(tmp_path, kind=kind)
    sign(adapter, read_private_key(private)).write()
    bundle = json.loads((adapter / "model.sig").read_text())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    assert hashlib.sha256(public.read_bytes()).hexdigest() == hint
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    [signature] = envelope["signatures"]
    message = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    key = serialization.load_pem_public_key(public.read_bytes())
    key.verify(base64.b64decode(signature["sig"]), message, ec.ECDSA(HASHES[kind]))
    statement = json.loads(payload)
    resources = statement["predicate"]["resources"]
    names = [resource["name"] for resource in resources]
    signed = {path.relative_to(adapter).as_posix() for path in adapter.rglob("*") if path.is_file()}
    assert signed - {"README.md", "model.sig"} == set(names)
    assert sorted(names, key=PurePosixPath) == names
    for resource in resources:
        assert hashlib.sha256((adapter / resource["name"]).read_bytes()).hexdigest() == resource["digest"]
    joined = b"".join(bytes.fromhex(resource["digest"]) for resource in resources)
    assert [{"name": "sql", "digest": {"sha256": hashlib.sha256(joined).hexdigest()}}] == statement["subject"]
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"


def test_signing_again_changes_nothing(adapter, keys):
    private = read_private_key(keys[0])
    assert sign(adapter, private).text == sign(adapter, private).text


# --- what a signature outlives, and what not


def edit(name, content):
    def do(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return do


@pytest.mark.parametrize("change", [
    edit("README.md", "another card"), edit(".gitattributes", "* -text"), edit(".github/workflows/x.yml", ""),
    edit(".cache/huggingface/download/x.metadata", ""), edit("other.sig", "{}"),
    lambda folder: (folder / "README.md").unlink(),
])  # fmt: skip
def test_a_card_and_what_is_gits_may_change(signed, keys, change):
    change(signed)
    assert told(verified(signed, keys[1])) == VERIFIED


@pytest.mark.parametrize("name", [
    "adapter_model.bin", "extra.safetensors", "modeling.py", "sub/x.py", ".hidden", "sub/.git/x.py", "sub/model.sig",
    "additional_chat_templates/b.jinja", "model.sig.py", "ADAPTER_CONFIG.JSON", "Readme.md",
])  # fmt: skip
def test_a_file_that_was_not_signed_is_told(signed, keys, name):
    edit(name, "x")(signed)
    found = verified(signed, keys[1])
    assert told(found)[:2] == ("not verified", "mismatch")
    unsigned = {one.file for one in found.differences if one.what == "unsigned"}
    assert {name if ".git/" not in name else "sub/.git"} == unsigned
    assert found.exit_code == 1


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json",
                                  "adaptool.json", "additional_chat_templates/tool.jinja"])  # fmt: skip
@pytest.mark.parametrize("gone", [False, True])
def test_a_signed_file_that_changed_is_told(signed, keys, name, gone):
    if gone:
        (signed / name).unlink()
    else:
        with (signed / name).open("ab") as file:
            file.write(b" ")
    found = verified(signed, keys[1])
    assert (name, "missing" if gone else "changed", "signature") in told(found)[2]
    assert found.exit_code == 1


def test_the_tensors_that_changed_are_named(signed, keys):
    save_adapter(signed, seed=1)
    found = verified(signed, keys[1])
    assert told(found)[:2] == ("not verified", "mismatch")
    [detail] = [one.detail for one in found.differences if one.file.endswith("rs") and one.against == "manifest"]
    assert detail.startswith("8 of 8 tensors differ: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    assert detail.endswith("and 5 more")


def test_a_config_that_changed_is_named(adapter):
    save_adapter(adapter, alpha=16)
    found = verified(adapter)
    assert {("adapter_config.json", "changed", "manifest")} == told(found)[2]


def test_another_base_is_told(adapter):
    save_adapter(adapter, base="org/other")
    found = verified(adapter)
    assert ("adapter_config.json", "changed", "manifest") in told(found)[2]
    assert any("org/other" in one.detail for one in found.differences)


def test_a_re_save_is_no_change_of_content(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "peft_version": "0.17.0"}, indent=1))
    found = verified(adapter)
    assert ("not signed", "none", set()) == told(found)
    assert found.notes == ("saved again with the same content: adapter_config.json",)
    assert found.exit_code == 0


def test_a_manifest_that_contradicts_itself_is_told(adapter):
    manifest = json.loads((adapter / "adaptool.json").read_text())
    manifest["content"]["digest"] = "0" * 64
    (adapter / "adaptool.json").write_text(json.dumps(manifest))
    assert ("adaptool.json", "contradiction", "manifest") in told(verified(adapter))[2]


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(), lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-9]),
])  # fmt: skip
def test_weights_that_cannot_be_read_are_not_as_the_manifest_says(adapter, damage):
    damage(adapter / "adapter_model.safetensors")
    found = verified(adapter)
    assert (found.verdict, found.exit_code) == ("not verified", 1)
    assert "adapter_model.safetensors" in {one.file for one in found.differences}


@pytest.mark.parametrize("change", [{"peft_version": "0.17.0"}, {"lora_alpha": 99}])
def test_a_config_beside_a_pointer(adapter, change):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    pointer(adapter / "adapter_model.safetensors")
    found = verified(adapter)
    assert found.exit_code == int("lora_alpha" in change)
    assert found.manifest.status == ("differs" if "lora_alpha" in change else "agrees")


# --- whose key


def test_without_a_key_nothing_is_verified(signed):
    found = verified(signed)
    assert ("unchecked", "unchecked", set()) == told(found)
    assert found.exit_code == 3


def test_a_signature_that_was_taken_away_is_missed(adapter, keys):
    assert ("not verified", "missing", set()) == told(verified(adapter, keys[1]))
    assert ("not signed", "none", set()) == told(verified(adapter))


def test_nothing_to_verify_by_is_no_approval(tmp_path, keys):
    folder = save_adapter(tmp_path / "bare")
    with pytest.raises(NotFoundError, match="neither a signature nor a manifest"):
        verified(folder)
    sign(folder, read_private_key(keys[0])).write()
    assert told(verified(folder, keys[1])) == VERIFIED


def test_another_key_does_not_verify(signed, tmp_path, keys):
    _, other = make_keys(tmp_path, "other")
    found = verified(signed, other)
    assert ("not verified", "invalid", set()) == told(found)
    assert found.signature.because.startswith("not made by the key given")
    assert told(verified(signed, other, keys[1])) == VERIFIED
    assert str(keys[1]) == verified(signed, other, keys[1]).signature.key.file


@pytest.mark.parametrize("kind", ["P-384", "Ed25519"])
def test_a_key_of_another_type_does_not_verify(signed, tmp_path, kind):
    _, other = make_keys(tmp_path, "other", kind)
    assert ("not verified", "invalid", set()) == told(verified(signed, other))


def test_the_key_in_a_bundle_is_never_believed(adapter, tmp_path, keys):
    """A stranger's signature with the stranger's key, and with the trusted key's fingerprint as its hint."""
    private, public = make_keys(tmp_path, "stranger")
    signing = sign(adapter, read_private_key(private))
    bundle = json.loads(signing.text)
    bundle["verificationMaterial"]["publicKey"] = {
        "hint": read_public_key(keys[1]).fingerprint,
        "rawBytes": base64.b64encode(public.read_bytes()).decode(),
    }
    (adapter / "model.sig").write_text(json.dumps(bundle))
    assert ("not verified", "invalid", set()) == told(verified(adapter, keys[1]))


def test_a_signature_over_another_folder_is_told(signed, tmp_path, keys):
    other = versioned(save_adapter(tmp_path / "other", seed=5))
    shutil.copy(signed / "model.sig", other)
    found = verified(other, keys[1])
    assert told(found)[:2] == ("not verified", "mismatch")
    assert ("adapter_model.safetensors", "changed", "signature") in told(found)[2]


def test_pinned_keys(signed, tmp_path, keys):
    (tmp_path / "keys").mkdir()
    shutil.move(keys[1], tmp_path / "keys" / "release.pub")
    settings = tmp_path / "adaptool.toml"
    settings.write_text('[version]\nkeys = ["keys/release.pub"]\n[validate]\nignore = ["ADV"]\n')
    trusted = keys_for(signed, (), tmp_path)
    found = verify_version(signed, trusted.keys, pinned_by=trusted.pinned_by)
    assert told(found) == VERIFIED
    assert str(settings) == found.signature.key.pinned_by
    assert keys_for(signed, (), tmp_path.parent).keys == ()


def test_a_folder_cannot_vouch_for_itself(signed, keys):
    shutil.copy(keys[1], signed / "key.pub")
    (signed / "adaptool.toml").write_text('[version]\nkeys = ["key.pub"]\n')
    with pytest.raises(UsageError, match="cannot say whom to trust"):
        keys_for(signed, (), signed)


def test_settings_of_no_use_are_told(tmp_path, signed):
    (tmp_path / "pyproject.toml").write_text('[tool.adaptool.version]\nkeys = "x"\n')
    with pytest.raises(UsageError, match="must be a list of paths"):
        keys_for(signed, (), tmp_path)


# --- what is no signature


def forged(folder, private, change=lambda statement: None, *, kind=PAYLOAD_TYPE, payload=None):
    """A bundle by the trusted key itself over a statement that is not as it should be."""
    if payload is None:
        statement = json.loads(read_bundle_of(folder, private).envelope.payload)
        change(statement)
        payload = json.dumps(statement).encode()
    key = read_private_key(private)
    envelope = Envelope(payload, key.sign(encoded(kind, payload)), kind)
    (folder / "model.sig").write_text(bundle_text(Bundle(envelope, key.public.fingerprint)))


def read_bundle_of(folder, private):
    sign(folder, read_private_key(private)).write()
    return read_bundle(folder / "model.sig")


def resources(change):
    def do(statement):
        items = statement["predicate"]["resources"]
        change(items)
        joined = b"".join(bytes.fromhex(item["digest"]) for item in items)
        statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(joined).hexdigest()

    return do


def item(name, digest="0" * 64):
    return {"name": name, "algorithm": "sha256", "digest": digest}


STATEMENTS = {
    "a file twice": resources(lambda items: items.append(items[0])),
    "two subjects": lambda statement: statement["subject"].append(statement["subject"][0]),
    "no subject": lambda statement: statement["subject"].clear(),
    "another root digest": lambda statement: statement["subject"][0]["digest"].update(sha256="0" * 64),
    "no files": resources(lambda items: items.clear()),
    "a path upwards": resources(lambda items: items.append(item("../x"))),
    "an absolute path": resources(lambda items: items.append(item("/etc/passwd"))),
    "a path through a dot": resources(lambda items: items.append(item("./adapter_config.json"))),
    "a double slash": resources(lambda items: items.append(item("a//b"))),
    "a backslash": resources(lambda items: items.append(item("..\\x"))),
    "a drive": resources(lambda items: items.append(item("C:x"))),
    "a null": resources(lambda items: items.append(item("x\0y"))),
    "no name": resources(lambda items: items.append(item(""))),
    "a name that is none": resources(lambda items: items.append({**item(""), "name": 3})),
    "a case twin": resources(lambda items: items.append(item("Adapter_Config.json"))),
    "a unicode twin": resources(lambda items: items.extend([item("\u00e9"), item("e\u0301")])),
    "a short digest": resources(lambda items: items.append(item("x", "00"))),
    "another algorithm": resources(lambda items: items.append({**item("x"), "algorithm": "md5"})),
    "capitals in a digest": resources(lambda items: items.append(item("x", "A" * 64))),
    "no digest": lambda statement: statement["predicate"]["resources"][0].pop("digest"),
    "no predicate": lambda statement: statement.pop("predicate"),
    "resources that are none": lambda statement: statement["predicate"].update(resources={"a": 1}),
    "ignored paths that are none": lambda statement: statement["predicate"]["serialization"].update(ignore_paths="."),
}


@pytest.mark.parametrize("change", STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_that_can_be_read_in_two_ways_is_refused(signed, keys, change):
    forged(signed, keys[0], change)
    assert ("not verified", "invalid", set()) == told(verified(signed, keys[1]))


OTHERS = {
    "another predicate": lambda statement: statement.update(predicateType="https://slsa.dev/provenance/v1"),
    "model-signing before 1.0": lambda statement: statement.update(predicateType="https://model_signing/Digests/v0.1"),
    "another statement": lambda statement: statement.update(_type="https://in-toto.io/Statement/v0.1"),
    "another hash": lambda statement: statement["predicate"]["serialization"].update(hash_type="blake3"),
    "a hash that is none": lambda statement: statement["predicate"]["serialization"].update(hash_type=["sha256"]),
    "another method": lambda statement: statement["predicate"]["serialization"].update(method="tensors"),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_statement_of_another_kind_is_not_checked(signed, keys, change):
    forged(signed, keys[0], change)
    found = verified(signed, keys[1])
    assert ("unchecked", "unchecked", set()) == told(found)
    assert found.exit_code == 3


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b'{"_type": 1, "_type": 2}', b'{"a": NaN}', b"[" * 100_000, b"\xff"]
)
def test_a_payload_that_is_none(signed, keys, payload):
    forged(signed, keys[0], payload=payload)
    assert verified(signed, keys[1]).exit_code != 0


def test_a_key_that_stands_twice_is_refused(signed, keys):
    """The last of two equal keys counts for some parsers, the first for others."""
    payload = read_bundle_of(signed, keys[0]).envelope.payload
    forged(signed, keys[0], payload=payload.replace(b'{"_type"', b'{"_type":"x","_type"'))
    assert ("not verified", "invalid", set()) == told(verified(signed, keys[1]))


def test_a_signature_over_another_type_of_payload(signed, keys):
    """Signed as text/plain and relabelled, or the other way round: the type is part of what is signed."""
    payload = read_bundle_of(signed, keys[0]).envelope.payload
    forged(signed, keys[0], payload=payload, kind="text/plain")
    assert ("unchecked", "unchecked", set()) == told(verified(signed, keys[1]))
    bundle = json.loads((signed / "model.sig").read_text())
    bundle["dsseEnvelope"]["payloadType"] = PAYLOAD_TYPE
    (signed / "model.sig").write_text(json.dumps(bundle))
    assert ("not verified", "invalid", set()) == told(verified(signed, keys[1]))


@pytest.mark.parametrize("ignored", [".", "", "adapter_model.bin", "/", "*"])
def test_a_signer_cannot_leave_out_what_a_loader_reads(adapter, keys, ignored):
    sign(adapter, read_private_key(keys[0])).write()
    forged(
        adapter, keys[0], lambda value: value["predicate"]["serialization"].update(ignore_paths=[ignored, "README.md"])
    )
    assert told(verified(adapter, keys[1])) == VERIFIED
    (adapter / "adapter_model.bin").write_bytes(b"x")
    found = verified(adapter, keys[1])
    assert told(found)[:2] == ("not verified", "mismatch")
    assert ("adapter_model.bin", "unsigned" if ignored in ("/", "*") else "left out", "signature") in told(found)[2]


def bundles(change):
    def do(text):
        value = json.loads(text)
        change(value)
        return json.dumps(value)

    return do


def resigned(change):
    """The signature's bytes, changed."""

    def do(value):
        [signature] = value["dsseEnvelope"]["signatures"]
        signature["sig"] = base64.b64encode(change(base64.b64decode(signature["sig"]))).decode()

    return bundles(do)


def long_form(signature):
    """The same two numbers in BER: the length of the sequence in two bytes."""
    return bytes([signature[0], 0x81, signature[1]]) + signature[2:]


def padded(signature):
    """The same two numbers, r with a zero more."""
    size = signature[3]
    return bytes([0x30, signature[1] + 1, 2, size + 1, 0]) + signature[4:]


BUNDLES = {
    "empty": lambda text: "",
    "cut off": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "hello",
    "a list": lambda text: "[]",
    "a key twice": lambda text: text.replace('{\n  "mediaType"', '{"mediaType": "x", "mediaType"'),
    "another media type": bundles(lambda value: value.update(mediaType="text/plain")),
    "no media type": bundles(lambda value: value.pop("mediaType")),
    "no material": bundles(lambda value: value.pop("verificationMaterial")),
    "no envelope": bundles(lambda value: value.pop("dsseEnvelope")),
    "no signature": bundles(lambda value: value["dsseEnvelope"]["signatures"].clear()),
    "two signatures": bundles(lambda value: value["dsseEnvelope"]["signatures"].append({"sig": "AAAA"})),
    "two equal ones": bundles(lambda value: value["dsseEnvelope"].update(
        signatures=value["dsseEnvelope"]["signatures"] * 2)),
    "base64 cut off": bundles(lambda value: value["dsseEnvelope"].update(
        payload=value["dsseEnvelope"]["payload"][:-1])),
    "base64 with a line break": bundles(lambda value: value["dsseEnvelope"].update(
        payload=value["dsseEnvelope"]["payload"][:8] + "\n" + value["dsseEnvelope"]["payload"][8:])),
    "base64 with another alphabet": bundles(lambda value: value["dsseEnvelope"].update(payload="-_-_")),
    "base64 with bits left over": bundles(lambda value: value["dsseEnvelope"].update(payload="QR==")),
    "a payload that is none": bundles(lambda value: value["dsseEnvelope"].update(payload=7)),
    "another payload": bundles(lambda value: value["dsseEnvelope"].update(payload="e30=")),
    "an empty signature": resigned(lambda signature: b""),
    "a signature of zeros": resigned(lambda signature: bytes(len(signature))),
    "a byte after it": resigned(lambda signature: signature + b"\0"),
    "a byte less": resigned(lambda signature: signature[:-1]),
    "another encoding": resigned(long_form),
    "a padded number": resigned(padded),
    "zero and zero": resigned(lambda signature: utils.encode_dss_signature(0, 0)),
    "a huge signature": resigned(lambda signature: signature * 100),
}  # fmt: skip


@pytest.mark.parametrize("change", BUNDLES.values(), ids=BUNDLES)
def test_a_bundle_that_is_none_is_refused(signed, keys, change):
    place = signed / "model.sig"
    place.write_text(change(place.read_text()))
    found = verified(signed, keys[1])
    assert ("not verified", "invalid", set()) == told(found)
    assert found.exit_code == 1


def test_a_huge_bundle_is_not_read(signed, keys):
    with (signed / "model.sig").open("r+b") as file:
        file.truncate(1 << 30)
    assert ("not verified", "invalid", set()) == told(verified(signed, keys[1]))


@pytest.mark.parametrize("change", [
    bundles(lambda value: value.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json")),
    bundles(lambda value: value.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2")),
    bundles(lambda value: value.update(verificationMaterial={"certificate": {"rawBytes": "AAAA"}})),
    bundles(lambda value: value.update(verificationMaterial={"x509CertificateChain": {"certificates": []}})),
    bundles(lambda value: value.update(messageSignature={})),
])  # fmt: skip
def test_a_bundle_of_another_kind_is_not_checked(signed, keys, change):
    place = signed / "model.sig"
    place.write_text(change(place.read_text()))
    assert ("unchecked", "unchecked", set()) == told(verified(signed, keys[1]))


# --- links, pipes, pointers


def test_a_link_out_of_the_folder_is_not_followed(signed, keys, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(signed / "tokenizer_config.json", elsewhere)
    (signed / "tokenizer_config.json").symlink_to(elsewhere)
    found = verified(signed, keys[1])
    assert ("tokenizer_config.json", "changed", "signature") in told(found)[2]


@pytest.mark.parametrize("target", ["/etc/passwd", "gone", ".."])
def test_an_unsigned_link_is_told(signed, keys, target):
    (signed / "extra.json").symlink_to(target)
    assert ("extra.json", "unsigned", "signature") in told(verified(signed, keys[1]))[2]


def test_a_link_that_leaves_the_folder_is_not_signed(adapter, keys):
    (adapter / "notes").symlink_to("/etc/hostname")
    with pytest.raises(FormatError, match="a link that leaves the folder"):
        sign(adapter, read_private_key(keys[0]))


def test_a_snapshot_of_the_hubs_cache_is_signed_and_verified(tmp_path, keys):
    """Every file of it is a link to a blob."""
    cache = tmp_path / "models--org--sql"
    snapshot = versioned(save_adapter(cache / "snapshots" / ("0" * 40)))
    (cache / "blobs").mkdir()
    for path in list(snapshot.iterdir()):
        shutil.move(path, cache / "blobs" / path.name)
        path.symlink_to(Path("..", "..", "blobs", path.name))
    signing = sign(snapshot, read_private_key(keys[0]))
    assert any("--allow_symlinks" in note for note in signing.notes)
    signing.write()
    assert told(verified(snapshot, keys[1])) == VERIFIED


def test_a_pipe_is_neither_signed_nor_waited_for(adapter, keys):
    os.mkfifo(adapter / "pipe")
    with pytest.raises(FormatError, match="pipe is a pipe"):
        sign(adapter, read_private_key(keys[0]))


def pointer(path):
    """Git LFS's pointer to a file, in its place."""
    data = path.read_bytes()
    oid = hashlib.sha256(data).hexdigest()
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n")


def test_a_pointer_stands_for_the_file(signed, keys):
    pointer(signed / "adapter_model.safetensors")
    found = verified(signed, keys[1])
    assert told(found) == VERIFIED
    assert found.not_fetched == ("adapter_model.safetensors",)
    assert found.manifest.status == "agrees"


def test_a_pointer_to_other_content_is_told(signed, keys):
    (signed / "adapter_model.safetensors").write_bytes(b"other")
    pointer(signed / "adapter_model.safetensors")
    found = verified(signed, keys[1])
    wrong = {("adapter_model.safetensors", "changed", against) for against in ("signature", "manifest")}
    assert ("not verified", "mismatch", wrong) == told(found)


def test_a_pointer_says_nothing_of_shards(tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(THEIRS / "adapter", folder)
    pointer(folder / "adapter_model.safetensors")
    found = verified(folder, THEIRS / "public.pem", signature=THEIRS / "shards.sig")
    assert ("unchecked", "unchecked", set()) == told(found)


def test_a_signature_that_was_not_fetched_is_not_checked(signed, keys):
    pointer(signed / "model.sig")
    assert ("unchecked", "unchecked", set()) == told(verified(signed, keys[1]))


def test_what_was_not_fetched_is_not_signed(adapter, keys):
    pointer(adapter / "adapter_model.safetensors")
    with pytest.raises(NotFetchedError, match="a pointer, not the file"):
        sign(adapter, read_private_key(keys[0]))


@needs_lfs
def test_a_clone_without_its_content_is_verified(tmp_path, keys, monkeypatch):
    isolate(monkeypatch, tmp_path / "home")
    repo = Repo(tmp_path / "repo")
    repo.lfs()
    folder = versioned(repo.adapter("adapters/sql"))
    sign(folder, read_private_key(keys[0])).write()
    repo.commit()
    clone = repo.clone(tmp_path / "clone")
    found = verified(clone.folder / "adapters" / "sql", keys[1])
    assert told(found) == VERIFIED
    assert found.not_fetched == ("adapter_model.safetensors",)


# --- what is not signed


def test_a_manifest_that_is_not_true_is_not_signed(adapter, keys):
    save_adapter(adapter, seed=3)
    with pytest.raises(MismatchError, match=r"manifest and content disagree: adapter_model\.safetensors"):
        sign(adapter, read_private_key(keys[0]))


def test_a_private_key_in_the_folder_is_not_signed(adapter, tmp_path, keys):
    shutil.copy(keys[0], adapter / "notes.txt")
    with pytest.raises(FormatError, match="private key"):
        sign(adapter, read_private_key(keys[0]))
    (adapter / "notes.txt").unlink()
    shutil.move(keys[0], adapter / "key.pem")
    with pytest.raises(UsageError, match="lies in the folder"):
        sign(adapter, read_private_key(adapter / "key.pem"))


@pytest.mark.parametrize("content", [b"precious", b"{}", b""])
def test_what_is_no_signature_is_not_written_over(adapter, keys, tmp_path, content):
    out = tmp_path / "notes.sig"
    out.write_bytes(content)
    with pytest.raises(UsageError, match="is there and is no signature"):
        sign(adapter, read_private_key(keys[0]), out)
    assert content == out.read_bytes()


def test_a_signature_elsewhere(adapter, keys, tmp_path):
    out = tmp_path / "sql.sig"
    sign(adapter, read_private_key(keys[0]), out).write()
    assert ("not verified", "missing", set()) == told(verified(adapter, keys[1]))
    assert told(verified(adapter, keys[1], signature=out)) == VERIFIED
    with pytest.raises(NotFoundError):
        verified(adapter, keys[1], signature=tmp_path / "gone.sig")


def test_twins_are_not_signed(adapter, keys):
    (adapter / "Tokenizer_config.json").write_text("{}")
    versioned(adapter)
    with pytest.raises(FormatError, match="one file to some systems"):
        sign(adapter, read_private_key(keys[0]))


def test_names_are_signed_as_they_are(adapter, keys):
    """Any Unicode form, spaces, dashes: on a system that keeps them."""
    name = unicodedata.normalize("NFD", "täst -x.json")
    (adapter / name).write_text("{}")
    sign(adapter, read_private_key(keys[0])).write()
    assert name in verified(adapter, keys[1]).signature.files
    assert told(verified(adapter, keys[1])) == VERIFIED


@pytest.mark.parametrize("name", ["a\\b.json", os.fsdecode(b"\xff.json")])
def test_names_that_others_read_otherwise_are_not_signed(adapter, keys, name):
    (adapter / name).write_text("{}")
    with pytest.raises(FormatError):
        sign(adapter, read_private_key(keys[0]))


def test_a_merged_model_is_signed_and_verified(tmp_path, keys):
    """Its manifest has sizes only: that is no approval without a signature."""
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"12345678")
    files = [{"name": "model.safetensors", "size": 8}]
    manifest = {"schema": "adaptool/manifest/1", "kind": "merged", "adaptool": "0.1.0", "files": files}
    (folder / "adaptool.json").write_text(json.dumps(manifest))
    assert ("unchecked", "none", set()) == told(verified(folder))
    sign(folder, read_private_key(keys[0])).write()
    assert told(verified(folder, keys[1])) == VERIFIED
    (folder / "model.safetensors").write_bytes(b"123456789")
    assert verified(folder, keys[1]).exit_code == 1


# --- keys


def test_an_encrypted_key(adapter, tmp_path):
    private, public = make_keys(tmp_path, "locked", passphrase="naïve pass".encode())
    with pytest.raises(UsageError, match="is encrypted"):
        read_private_key(private)
    with pytest.raises(UsageError, match="passphrase is wrong"):
        read_private_key(private, "wrong")
    sign(adapter, read_private_key(private, "naïve pass")).write()
    assert told(verified(adapter, public)) == VERIFIED


def test_a_passphrase_for_a_key_that_has_none(keys):
    with pytest.raises(UsageError, match="is not encrypted"):
        read_private_key(keys[0], "x")


def test_a_key_of_the_wrong_half(keys):
    with pytest.raises(UsageError, match="a private key, where the public one is asked for"):
        read_public_key(keys[0])
    with pytest.raises(UsageError, match="cannot sign"):
        read_private_key(keys[1])


@pytest.mark.parametrize("kind", ["RSA", "secp256k1"])
def test_keys_of_other_types(tmp_path, kind):
    private, public = make_keys(tmp_path, kind=kind)
    with pytest.raises(AdaptoolError, match="neither an ECDSA key"):
        read_private_key(private)
    with pytest.raises(AdaptoolError, match="neither an ECDSA key"):
        read_public_key(public)


@pytest.mark.parametrize("content", [
    b"", b"hello", b"\0" * 100_000, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n" * 2,
])  # fmt: skip
def test_what_is_no_key(tmp_path, content):
    place = tmp_path / "key"
    place.write_bytes(content)
    with pytest.raises(AdaptoolError):
        read_public_key(place)
    with pytest.raises(AdaptoolError):
        read_private_key(place)


def test_a_key_as_openssl_writes_it(tmp_path, keys):
    """SEC 1, with the curve's parameters in a block before it."""
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    (tmp_path / "sec1.pem").write_bytes(parameters + text)
    read = read_private_key(tmp_path / "sec1.pem")
    assert read_public_key(keys[1]).fingerprint == read.public.fingerprint
    assert str(tmp_path / "sec1.pem") in repr(read)


def test_the_private_key_is_written_nowhere(adapter, keys):
    signing = sign(adapter, read_private_key(keys[0]))
    secret = "".join(keys[0].read_text().splitlines()[1:-1])[:40]
    assert secret not in signing.text
    assert secret not in repr(signing)


# --- statements


def test_order_is_by_components():
    statement = statement_of("x", {"a.txt": "0" * 64, "a/b": "1" * 64, "a": "2" * 64}, [])
    assert [one.name for one in statement.resources] == ["a", "a/b", "a.txt"]
    assert statement == read_statement(statement_payload(statement), "here")


@pytest.mark.parametrize("shards", [
    [(0, 10), (20, 30)], [(0, 10), (5, 15)], [(1, 10)], [(0, 11)], [(10, 10)], [(0, 10), (0, 10)],
])  # fmt: skip
def test_shards_that_leave_bytes_out_are_refused(shards):
    statement = statement_of("x", {"a": "0" * 64}, [])
    value = json.loads(statement_payload(statement))
    value["predicate"]["serialization"].update(method="shards", shard_size=10.0)
    value["predicate"]["resources"] = [
        {"name": f"a:{start}:{stop}", "algorithm": "sha256-sharded-10", "digest": "0" * 64} for start, stop in shards
    ]
    joined = bytes(32 * len(shards))
    value["subject"][0]["digest"]["sha256"] = hashlib.sha256(joined).hexdigest()
    with pytest.raises(FormatError, match="shard"):
        read_statement(json.dumps(value).encode(), "here")


# --- revisions


@needs_lfs
@pytest.mark.parametrize("bare", [False, True])
def test_a_revision_is_verified_with_every_file_of_it(tmp_path, keys, monkeypatch, capsys, bare):
    """Also those in folders below, and what no reader of an adapter asks for."""
    isolate(monkeypatch, tmp_path / "home")
    repo = Repo(tmp_path / "repo")
    repo.lfs()
    folder = repo.adapter("adapters/sql")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    (folder / "link.json").symlink_to("adapter_config.json")
    versioned(folder)
    sign(folder, read_private_key(keys[0])).write()
    repo.commit()
    repo.tag("good")
    (folder / "sub").mkdir()
    (folder / "sub" / "evil.py").write_text("")
    repo.commit()
    repo.tag("bad")
    clone = repo.clone(tmp_path / "clone", bare=bare)
    monkeypatch.chdir(clone.folder)
    verify = ["version", "verify", "--key", str(keys[1]), "--json"]
    for here in (repo.folder, clone.folder):
        monkeypatch.chdir(here)
        assert main([*verify, "good:adapters/sql"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["verdict"] == "verified"
        assert told["signature"]["file"] == "good:adapters/sql/model.sig"
        assert told["not_fetched"] == ([] if here == repo.folder else ["adapter_model.safetensors"])
        assert main([*verify, "bad:adapters/sql"]) == 1
        [wrong] = json.loads(capsys.readouterr().out)["differences"]
        assert (wrong["file"], wrong["what"]) == ("sub/evil.py", "unsigned")
        assert main([*verify, "gone:adapters/sql"]) == 3
        capsys.readouterr()


# --- the commands


def test_sign_and_verify_on_the_command_line(adapter, keys, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    private, public = map(str, keys)
    assert main(["version", "verify", "sql"]) == 0
    assert "NOT SIGNED" in capsys.readouterr().out
    assert main(["version", "sign", "sql", "--key", private, "--dry-run"]) == 0
    assert "adapter_model.safetensors" in capsys.readouterr().err
    assert not (adapter / "model.sig").exists()
    assert main(["version", "sign", "sql", "--key", private]) == 0
    assert capsys.readouterr().out == "sql/model.sig\n"
    assert main(["version", "verify", "sql", "--key", public]) == 0
    assert "sql 0.1.0  verified" in capsys.readouterr().out
    assert main(["version", "verify", "sql"]) == 3
    assert "no key was given" in capsys.readouterr().out
    (adapter / "x.py").write_text("")
    assert main(["version", "verify", "sql", "--key", public]) == 1
    told = capsys.readouterr().out
    assert "NOT VERIFIED" in told
    assert "x.py" in told
    assert main(["version", "verify", "sql", "--key", private]) == 2
    assert main(["version", "sign", "sql", "--key", public]) == 2
    assert main(["version", "verify", "gone", "--key", public]) == 3
    assert main(["version", "sign", "gone", "--key", private]) == 3
    assert main(["version", "verify", "sql/adapter_model.safetensors", "--key", public]) == 3


def test_a_passphrase_comes_from_the_environment(adapter, tmp_path, capsys, monkeypatch):
    private, public = make_keys(tmp_path, "locked", passphrase=b"secret")
    command = ["version", "sign", str(adapter), "--key", str(private), "--passphrase-env", "KEY_PASSPHRASE"]
    monkeypatch.delenv("KEY_PASSPHRASE", raising=False)
    assert main(command) == 2
    monkeypatch.setenv("KEY_PASSPHRASE", "wrong")
    assert main(command) == 2
    monkeypatch.setenv("KEY_PASSPHRASE", "secret")
    assert main(command) == 0
    assert "secret" not in "".join(capsys.readouterr())
    assert told(verified(adapter, public)) == VERIFIED


def test_a_key_that_others_can_read_is_noted(adapter, keys, capsys):
    keys[0].chmod(0o644)
    assert main(["version", "sign", str(adapter), "--key", str(keys[0])]) == 0
    assert "chmod 600" in capsys.readouterr().err


def test_without_the_package_nothing_is_verified(signed, keys, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    assert main(["version", "verify", str(signed), "--key", str(keys[1])]) == 3
    assert "pip install 'adaptool[sign]'" in capsys.readouterr().err
    assert main(["version", "sign", str(signed), "--key", str(keys[0])]) == 3
    assert main(["version", "verify", str(signed)]) == 3


def test_names_are_not_shown_raw(signed, keys, capsys):
    (signed / "\x1b[31mx\u202e.py").write_text("")
    assert main(["version", "verify", str(signed), "--key", str(keys[1])]) == 1
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\u202e" not in told


@pytest.mark.parametrize("dry", [False, True])
def test_results_are_as_their_schemas_say(signed, keys, capsys, dry):
    sign = ["version", "sign", str(signed), "--key", str(keys[0]), "--json"]
    assert main([*sign, "--dry-run"] if dry else sign) == 0
    check("version-sign", json.loads(capsys.readouterr().out))
    (signed / "notes.csv").write_text("")
    for more, code in ((["--key", str(keys[1])], 1), ([], 3)):
        assert main(["version", "verify", str(signed), "--json", *more]) == code
        check("version-verify", json.loads(capsys.readouterr().out))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_documentation_is_a_walk(tmp_path, monkeypatch, capsys):
    """Every command in docs/signing.md, in its order; those of pip and of the other tool where it is installed."""
    text = (Path(__file__).parent.parent / "docs" / "signing.md").read_text(encoding="utf-8")
    isolate(monkeypatch, tmp_path / "home")
    repo = Repo(tmp_path / "repo")
    versioned(repo.adapter("adapters/sql"))
    repo.commit()
    monkeypatch.chdir(repo.folder)
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line.removeprefix("$ ")) for block in blocks for line in block.splitlines()]
    assert len(commands) > 10
    for tool, *arguments in commands:
        if tool == "adaptool":
            assert main(arguments) == 0, arguments
        elif tool == "model_signing":
            if MODEL_SIGNING is not None:
                subprocess.run([MODEL_SIGNING, *arguments], check=True, capture_output=True)
        elif tool != "pip":
            subprocess.run([tool, *arguments], check=True, capture_output=True)
    assert json.loads((repo.folder / "sql.cdx.json").read_text())["specVersion"] == "1.6"


def test_the_key_of_a_pipe(adapter, keys):
    """<(printf …) in a shell: the private key need not be on a disk."""
    reading, writing = os.pipe()
    os.write(writing, keys[0].read_bytes())
    os.close(writing)
    key = read_private_key(Path(f"/dev/fd/{reading}"))
    os.close(reading)
    sign(adapter, key).write()
    assert told(verified(adapter, keys[1])) == VERIFIED
