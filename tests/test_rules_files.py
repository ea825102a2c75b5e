"""The rules about files: each damage and each attack by its own rule and no other, and silence over healthy folders."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import shutil
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptool.rules.draft import CONFIG, Draft, file, framed, numbers
from adaptool.rules.draft_pickle import ARGUMENTS, SYSTEM, torch_zip, zipped
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.families.layout import A, appended, cut, entry, header
from adaptool.rules.families.stand_ins import POINTER
from adaptool.rules.files import archives, listing, programs
from adaptool.rules.files.imports import HIDDEN, read_program, trust
from adaptool.rules.selection import Selection

FIXTURES = Path(__file__).parent.parent / "fixtures"
WEIGHTS, BINARY, JSON = "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"
FILES = Selection(("FIL",))

Mutation = Callable[[Draft], object]


def report(adapter: Path, selection: Selection = FILES, **options: str) -> AdapterReport:
    """What the rules say of a folder; none of them may have stumbled."""
    result = validate([adapter], None, Options(selection, **options))
    assert result.failures == ()
    found = result.results[0]
    assert [unchecked for unchecked in found.unchecked if "internal error" in unchecked.reason] == []
    return found


def codes(found: AdapterReport, *severities: str) -> list[str]:
    return [finding.code for finding in found.findings if finding.severity in severities]


def drafted(mutation: Mutation, folder: Path) -> Path:
    draft = Draft()
    mutation(draft)
    return draft.write(folder)[0]


def instead(content: bytes, name: str = BINARY) -> Mutation:
    """The mutation that leaves one file of weights: this one."""

    def mutate(draft: Draft) -> None:
        draft.removed.add(WEIGHTS)
        draft.files[name] = content
        if name == WEIGHTS:
            draft.removed.clear()

    return mutate


def length(number: int) -> Mutation:
    """The mutation that rewrites the header's length."""
    return lambda draft: draft.files.update({WEIGHTS: struct.pack("<Q", number) + draft.weights()[8:]})


def renamed(name: str) -> Mutation:
    return lambda draft: instead(draft.weights(), name)(draft)


def tensor(name: str) -> Mutation:
    return lambda draft: draft.tensors.update({name: numbers((4, 4), 1)})


def zip_in_a_tensor(draft: Draft) -> None:
    draft.tensors["z.weight"] = np.frombuffer(zipped({"evil.py": b"import os"}), np.uint8)


def pickle_in_safetensors(draft: Draft) -> None:
    """A length that reads "U", a string to skip; more of them through the header; and the payload is a tensor."""
    header = json.dumps({"__metadata__": {"a": "0U~" + "x" * 126}}).encode()[:-3]  # the text begins at byte 23
    skip = 6 + header.index(b"0U~")
    length = skip << 8 | ord("U")
    tail = b'"}, "a.weight": {"dtype": "U8", "shape": [%4d], "data_offsets": [0, %4d]}}' % (200, 200)
    text = header.ljust(length - len(tail), b"x")
    chained = bytearray(text + tail)
    at = header.index(b"0U~")
    while at + 129 < len(text):  # POP, then skip 126 bytes
        chained[at : at + 3] = b"0U~"
        at += 129
    chained[at : at + 3] = b"0U" + bytes([len(chained) - at - 3])
    draft.files[WEIGHTS] = framed(bytes(chained), (b"0" + SYSTEM[2:]).ljust(200, b"x"))


def tarred(*members: tarfile.TarInfo, contents: bytes = b"", mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for member in members:
            member.size = len(contents) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(contents))
    return out.getvalue()


def linked(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def zip_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("shadow")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/shadow")
    return out.getvalue()


def objects(array: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([array], dtype=object), allow_pickle=True)
    return out.getvalue()


class Harm:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


HARM = [pickle.dumps({"w": Harm()}, protocol) for protocol in range(6)]
OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
MEMOIZED = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c\x04true\x85R."
ASSEMBLED = b"\x80\x04\x8c\x05posix\x8c\x03sys\x8c\x03tem\x86\x93)R."

HOSTILE: dict[str, tuple[Mutation, str]] = {
    "header: beyond the file": (length(10_000_000), "FIL110"),
    "header: one byte beyond the file": (lambda d: length(len(d.weights()) - 7)(d), "FIL110"),
    "header: all bits set": (length(2**64 - 1), "FIL110"),
    "header: the sign bit": (length(2**63), "FIL110"),
    "header: over 100 MB claimed": (length(100_000_001), "FIL110"),
    "header: empty": (length(0), "FIL113"),
    "header: a list": (header([1]), "FIL113"),
    "header: a byte order mark": (header(b"\xef\xbb\xbf{}"), "FIL113"),
    "header: not UTF-8": (header(b'{"\xff": 1}'), "FIL113"),
    "header: UTF-16": (header('{"a": 1}'.encode("utf-16-le")), "FIL113"),
    "header: NaN": (header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'), "FIL113"),
    "header: a huge number": (header(b'{"a":' + b"9" * 10_000 + b"}"), "FIL113"),
    "header: half a character": (header(b'{"\\ud800":1}'), "FIL113"),
    "header: something after it": (header(b"{} {}"), "FIL113"),
    "header: a space before it": (header(b" {}"), "FIL113"),
    "header: a tensor twice": (header(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2)), "FIL114"),
    "header: a shape twice": (header(b'{"a":{"dtype":"F32","shape":[1],"shape":[4],"data_offsets":[0,16]}}'), "FIL114"),
    "header: metadata twice": (header(b'{"__metadata__":{},"__metadata__":{"a":"b"}}'), "FIL114"),
    "header: deep lists": (header(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "FIL115"),
    "header: deep objects": (header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "FIL115"),
    "metadata: a number": (header({"__metadata__": {"a": 1}, "a": A}), "FIL116"),
    "metadata: nested": (header({"__metadata__": {"a": {"b": "c"}}, "a": A}), "FIL116"),
    "metadata: a list": (header({"__metadata__": ["a"], "a": A}), "FIL116"),
    "entry: a field too many": (header({"a": A | {"scale": 1}}), "FIL117"),
    "entry: a field missing": (header({"a": {"dtype": "F32", "shape": [4]}}), "FIL117"),
    "entry: no object": (header({"a": [0, 16]}), "FIL117"),
    "dtype: unknown": (header({"a": entry("F33")}), "FIL120"),
    "dtype: in lower case": (header({"a": entry("f32")}), "FIL120"),
    "dtype: a number": (header({"a": entry(32)}), "FIL120"),
    "shape: negative": (header({"a": entry(shape=[-4])}), "FIL121"),
    "shape: negative twice": (header({"a": entry(shape=[-2, -2])}), "FIL121"),
    "shape: a float": (header({"a": entry(shape=[4.0])}), "FIL121"),
    "shape: a boolean": (header({"a": entry(shape=[True, 4])}), "FIL121"),
    "shape: text": (header({"a": entry(shape=["4"])}), "FIL121"),
    "shape: no list": (header({"a": entry(shape=4)}), "FIL121"),
    "shape: a thousand axes": (header({"a": entry(shape=[1] * 1000 + [4])}), "FIL121"),
    "offsets: negative": (header({"a": entry(offsets=[-16, 0])}), "FIL121"),
    "offsets: three": (header({"a": entry(offsets=[0, 8, 16])}), "FIL121"),
    "shape: wraps to fit": (header({"a": entry(shape=[2**62, 4, 2], offsets=[0, 0])}), "FIL122"),
    "shape: beyond 64 bits": (header({"a": entry(shape=[2**64 + 4])}), "FIL122"),
    "offsets: beyond 64 bits": (header({"a": entry(offsets=[2**64, 2**64 + 16])}), "FIL122"),
    "range: too short": (header({"a": entry(shape=[5])}), "FIL123"),
    "range: backwards": (header({"a": entry(offsets=[16, 0])}), "FIL123"),
    "overlap: by half": (header({"a": A, "b": entry(offsets=[8, 24])}, bytes(24)), "FIL130"),
    "overlap: whole": (header({"a": A, "b": A}), "FIL130"),
    "hole: in front": (header({"a": entry(offsets=[8, 24])}, bytes(24)), "FIL131"),
    "hole: in the middle": (header({"a": A, "b": entry(offsets=[20, 36])}, bytes(36)), "FIL131"),
    "trailing: one byte": (appended(b"\0"), "FIL132"),
    "trailing: text": (appended(b"hello"), "FIL132"),
    "polyglot: a zip appended": (appended(zipped({"x.py": b"1"})), "FIL133"),
    "polyglot: a zip behind padding": (appended(bytes(999) + zipped({"x.py": b"1"})), "FIL133"),
    "polyglot: an ELF appended": (appended(b"\x7fELF\2\1\1" + bytes(99)), "FIL133"),
    "polyglot: a script appended": (appended(b"#!/bin/sh\ntrue\n"), "FIL133"),
    "polyglot: an ELF in a hole": (header({"a": entry(offsets=[64, 80])}, b"\x7fELF" + bytes(76)), "FIL133"),
    "polyglot: a pickle appended": (appended(SYSTEM), "FIL133"),
    "polyglot: a zip that is a tensor": (zip_in_a_tensor, "FIL133"),
    "polyglot: a PDF in the metadata": (lambda d: d.metadata.update(a="%PDF-1.7 1 0 obj"), "FIL133"),
    "polyglot: a pickle from the first byte": (pickle_in_safetensors, "FIL133"),
    "truncated: in the tensors": (cut(0.5), "FIL134"),
    "truncated: by one byte": (lambda d: d.files.update({WEIGHTS: d.weights()[:-1]}), "FIL134"),
    "truncated: no data": (header({"a": A}, b""), "FIL134"),
    "truncated: in the header": (lambda d: d.files.update({WEIGHTS: d.weights()[:100]}), "FIL110"),
    "name: ANSI": (tensor("\x1b[31mred\x1b[0m.weight"), "FIL140"),
    "name: NUL": (tensor("a\0b.weight"), "FIL140"),
    "name: right to left": (tensor("lora_\u202eA.weight"), "FIL140"),
    "name: zero width": (tensor("lora\u200b_A.weight"), "FIL140"),
    "name: a parent folder": (tensor("../../etc/passwd"), "FIL140"),
    "name: a path": (tensor("/etc/passwd"), "FIL140"),
    "name: a Windows path": (tensor("..\\windows\\x"), "FIL140"),
    "name: empty": (tensor(""), "FIL140"),
    "name: another alphabet": (tensor("base_model.model.lor\u0430_A.weight"), "FIL140"),
    "name: endless": (tensor("a" * 100_000), "FIL140"),
    "empty: no bytes": (file(WEIGHTS, b""), "FIL104"),
    "empty: four bytes": (file(WEIGHTS, b"{}\0\0"), "FIL104"),
    "empty: zeros": (file(WEIGHTS, bytes(5000)), "FIL104"),
    "empty: ZeRO-3's 40 bytes": (file(WEIGHTS, framed(b'{"__metadata__":{"format":"pt"}}')), "FIL105"),
    "empty: {}": (file(WEIGHTS, framed(b"{}")), "FIL105"),
    "empty: tensors of no elements": (lambda d: d.tensors.update({k: numbers((0, 4), 0) for k in d.tensors}), "FIL106"),
    "not it: an LFS pointer": (file(WEIGHTS, POINTER), "FIL101"),
    "not it: an LFS pointer for .bin": (instead(POINTER), "FIL101"),
    "not it: a pointer tokenizer": (file("tokenizer.json", POINTER), "FIL101"),
    "not it: a login page": (file(WEIGHTS, b"\n<!doctype html>\n<html>" + bytes(3000)), "FIL102"),
    "not it: an S3 error": (file(WEIGHTS, b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), "FIL102"),
    "not it: a message": (file(WEIGHTS, b"Entry not found"), "FIL102"),
    "not it: a JSON error": (file(WEIGHTS, b'{"error":"Invalid username or password."}'), "FIL102"),
    "not it: a page for .bin": (instead(b"<html><body>404</body></html>"), "FIL102"),
    "not it: a page as tokenizer": (file("tokenizer.json", b"<!DOCTYPE html><html></html>"), "FIL102"),
    "not it: GGUF": (file(WEIGHTS, b"GGUF\3\0\0\0" + bytes(100)), "FIL103"),
    "not it: a zip": (file(WEIGHTS, zipped({"a.txt": b"x"})), "FIL103"),
    "not it: gzip": (file(WEIGHTS, gzip.compress(bytes(1000))), "FIL103"),
    "not it: 7z": (file(WEIGHTS, b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100)), "FIL103"),
    "not it: an ELF": (file(WEIGHTS, b"\x7fELF\2\1\1" + bytes(100)), "FIL103"),
    "not it: a PNG": (file(WEIGHTS, b"\x89PNG\r\n\x1a\n" + bytes(100)), "FIL103"),
    "not it: an array": (file(WEIGHTS, b"\x93NUMPY\1\0\x46\0" + bytes(100)), "FIL103"),
    "not it: noise": (file(WEIGHTS, b"\x8b\xad\xf0\x0d" * 99), "FIL199"),
    "missing: config": (lambda d: d.removed.add(JSON), "FIL001"),
    "missing: weights": (lambda d: d.removed.add(WEIGHTS), "FIL002"),
    "another's: a shard": (renamed("adapter_model-00001-of-00002.safetensors"), "FIL003"),
    "another's: diffusers": (renamed("pytorch_lora_weights.safetensors"), "FIL003"),
    "another's: MLX": (renamed("adapters.safetensors"), "FIL003"),
    "another's: kohya": (renamed("lora.safetensors"), "FIL003"),
    "another's: .pt": (instead(SYSTEM[:0] + b"x" * 9, "adapter_model.pt"), "FIL003"),
    "another's: in capitals": (renamed("Adapter_Model.safetensors"), "FIL003"),
    "another's: a model's": (renamed("model.safetensors"), "FIL003"),
    "below: a checkpoint": (renamed("checkpoint-500/adapter_model.safetensors"), "FIL004"),
    "link: /etc/passwd": (lambda d: d.links.update(tokens="/etc/passwd"), "FIL010"),
    "link: the weights' to a device": (lambda d: d.links.update({WEIGHTS: "/dev/zero"}), "FIL010"),
    "link: up and out": (lambda d: d.links.update({"README.md": "../base/config.json"}), "FIL010"),
    "link: through blobs": (lambda d: d.links.update(x="../../blobs/../../../../../../../../etc/passwd"), "FIL011"),
    "link: to nothing": (lambda d: d.links.update({"README.md": "gone"}), "FIL011"),
    "link: the config's to nothing": (lambda d: d.links.update({JSON: "../../blobs/0123"}), "FIL011"),
    "link: the weights' to nothing": (lambda d: d.links.update({WEIGHTS: "../../blobs/0123"}), "FIL011"),
    "link: to itself": (lambda d: d.links.update(loop="loop"), "FIL011"),
    "link: the weights' to themselves": (lambda d: d.links.update({WEIGHTS: WEIGHTS}), "FIL011"),
    "pipe: beside": (lambda d: d.pipes.add("README.md"), "FIL012"),
    "pipe: the weights": (lambda d: d.pipes.add(WEIGHTS), "FIL012"),
    "pipe: the config": (lambda d: d.pipes.add(JSON), "FIL012"),
    "folder: the weights": (instead(b"x", f"{WEIGHTS}/x"), "FIL013"),
    "folder: the tokenizer": (file("tokenizer.json/x", b"{}"), "FIL013"),
    "code: a library": (file("libop.so", b"\x7fELF\2\1\1" + bytes(99)), "FIL020"),
    "code: an ELF as tokenizer": (file("tokenizer.model", b"\x7fELF\2\1\1" + bytes(99)), "FIL020"),
    "code: a Windows program": (file("README.txt", b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0"), "FIL020"),
    "code: Mach-O": (file("merges.txt", b"\xcf\xfa\xed\xfe" + bytes(99)), "FIL020"),
    "archive: ..": (file("a.zip", zipped({"../x": b"1"})), "FIL030"),
    "archive: .. by backslash": (file("a.zip", zipped({"a\\..\\..\\x": b"1"})), "FIL030"),
    "archive: absolute": (file("a.zip", zipped({"/etc/cron.d/x": b"1"})), "FIL030"),
    "archive: a drive": (file("a.zip", zipped({"C:\\x": b"1"})), "FIL030"),
    "archive: a link in a zip": (file("a.zip", zip_link()), "FIL030"),
    "archive: .. in a tar": (file("a.tar", tarred(tarfile.TarInfo("../x"))), "FIL030"),
    "archive: a link in a tar": (file("a.tar", tarred(linked("x", "/etc"))), "FIL030"),
    "archive: a link in a tar.gz": (file("a.tgz", tarred(linked("x", "../../y"), mode="w:gz")), "FIL030"),
    "archive: .. in a tar.xz": (file("a.bin", tarred(tarfile.TarInfo("a/../../x"), mode="w:xz")), "FIL030"),
    "name: a file's, right to left": (file("adapter\u202egnp.exe", b"x"), "FIL040"),
    "name: a file's, ANSI": (file("a\x1b[2Jb", b"x"), "FIL040"),
    "name: a file's, a newline": (file("README.md\nok", b"x"), "FIL040"),
    "name: a file's, a space": (file("adapter_config.json ", b"{}"), "FIL040"),
    "name: a file's, not UTF-8": (file(os.fsdecode(b"caf\xe9"), b"x"), "FIL040"),
    "name: a file's, Cyrillic": (file("\u0430dapter_config.json", b"{}"), "FIL040"),
    "name: a file's, capitals": (file("Adapter_Config.json", b"{}"), "FIL041"),
    **{f"pickle: the weights, protocol {n}": (instead(data), "FIL202") for n, data in enumerate(HARM)},
    **{f"pickle: .safetensors, protocol {n}": (file(WEIGHTS, data), "FIL202") for n, data in enumerate(HARM)},
    **{f"pickle: beside, protocol {n}": (file("scheduler.pt", data), "FIL210") for n, data in enumerate(HARM)},
    "pickle: in torch's zip": (instead(zipped({"archive/data.pkl": SYSTEM})), "FIL202"),
    "pickle: in a zip called .safetensors": (file(WEIGHTS, zipped({"archive/data.pkl": SYSTEM})), "FIL202"),
    "pickle: in torch's old layout": (instead(OLD_MAGIC + SYSTEM), "FIL202"),
    "pickle: deflated": (instead(zipped({"a/data.pkl": SYSTEM}, zipfile.ZIP_DEFLATED)), "FIL202"),
    "pickle: another's object": (instead(ARGUMENTS), "FIL202"),
    "pickle: TorchScript": (instead(zipped({"a/data.pkl": b"\x80\2}.", "a/constants.pkl": b"\x80\2)."})), "FIL202"),
    "pickle: broken": (lambda d: instead(torch_zip(d.tensors)[:-30])(d), "FIL203"),
    "pickle: no tensors": (instead(zipped({"a/data.pkl": b"\x80\2}."})), "FIL203"),
    "pickle: called .safetensors": (lambda d: d.files.update({WEIGHTS: torch_zip(d.tensors)}), "FIL204"),
    "pickle: safetensors called .bin": (renamed(BINARY), "FIL205"),
    "pickle: as tokenizer.json": (file("tokenizer.json", SYSTEM), "FIL210"),
    "pickle: without a name": (file("data", SYSTEM), "FIL210"),
    "pickle: hidden in the cache": (file(".cache/huggingface/x.lock", SYSTEM), "FIL210"),
    "pickle: in a checkpoint": (file("checkpoint-1/training_args.bin", SYSTEM), "FIL210"),
    "pickle: an old one that ends late": (file("a.pkl", b"(S'true'\nios\nsystem\n."), "FIL210"),
    "pickle: names from the memo": (file("a.pkl", MEMOIZED), "FIL210"),
    "pickle: a name put together": (file("a.pkl", ASSEMBLED), "FIL210"),
    "pickle: through another module": (file("a.pkl", b"\x80\2ctransformers.trainer\nos.system\n)R."), "FIL210"),
    "pickle: torch.hub": (file("a.pt", zipped({"a/data.pkl": b"\x80\2ctorch.hub\nload\n)R."})), "FIL210"),
    "pickle: the second of two": (file("a.pkl", pickle.dumps([1]) + SYSTEM), "FIL210"),
    "pickle: in a zip": (file("a.zip", zipped({"x/model.pkl": SYSTEM})), "FIL210"),
    "pickle: in a zip, by magic": (file("a.zip", zipped({"readme.txt": SYSTEM})), "FIL210"),
    "pickle: in a zip in a zip": (file("a.zip", zipped({"m.pt": zipped({"a/data.pkl": SYSTEM})})), "FIL210"),
    "pickle: in a tar": (file("a.tar", tarred(tarfile.TarInfo("x.pkl"), contents=SYSTEM)), "FIL210"),
    "pickle: in a tar.bz2": (file("a.x", tarred(tarfile.TarInfo("x"), contents=SYSTEM, mode="w:bz2")), "FIL210"),
    "pickle: gzip": (file("a.joblib", gzip.compress(SYSTEM)), "FIL210"),
    "pickle: bzip2": (file("a.pkl.bz2", bz2.compress(SYSTEM)), "FIL210"),
    "pickle: xz": (file("a.pkl", lzma.compress(SYSTEM)), "FIL210"),
    "pickle: an array of objects": (file("a.npy", objects(Harm())), "FIL210"),
    "pickle: arrays of objects": (file("a.npz", zipped({"x.npy": objects(Harm())})), "FIL210"),
    "pickle: adapter_model.bin beside": (file(BINARY, SYSTEM), "FIL210"),
    "keras: a Lambda in .keras": (file("m.keras", zipped({"config.json": b'{"class_name": "Lambda"}'})), "FIL214"),
    "keras: a Lambda in .h5": (file("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(9) + b'"class_name": "Lambda"'), "FIL214"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_each_attack_is_one_error_by_its_own_rule(name, tmp_path):
    mutation, code = HOSTILE[name]
    found = report(drafted(mutation, tmp_path))
    assert codes(found, "error") == [code]
    shown = [finding.message + finding.file for finding in found.findings]
    assert all(text.isprintable() and len(text) < 1200 for text in shown)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name[:6] in ("header", "truncat", "not it", "pickle")])
def test_a_broken_config_does_not_hide_what_is_wrong_with_the_weights(name, tmp_path):
    mutation, code = HOSTILE[name]
    adapter = drafted(mutation, tmp_path)
    (adapter / JSON).write_bytes(b"{")
    assert codes(report(adapter), "error") == [code]


GRAVER = {
    "a .bin of tensors": (lambda d: instead(torch_zip(d.tensors))(d), "FIL201", "warning", "error"),
    "a .env": (file(".env", b"A=b"), "FIL050", "warning", "error"),
    "a key": (file("keys/id_rsa", b"x"), "FIL050", "warning", "error"),
    "a .netrc": (file(".netrc", b"x"), "FIL050", "warning", "error"),
    "both files": (lambda d: d.files.update({BINARY: torch_zip(d.tensors)}), "FIL206", "warning", "warning"),
    "code": (file("modeling_x.py", b"import os"), "FIL021", "warning", "warning"),
    "a notebook": (file("a.ipynb", b"{}"), "FIL021", "warning", "warning"),
    "a script by its first line": (file("run", b"#!/bin/sh\n"), "FIL021", "warning", "warning"),
    "functions": (file("a.pt", zipped({"a/data.pkl": b"\x80\2cmine.hooks\ngo\n)R."})), "FIL211", "warning", "warning"),
    "a pickle as JSON": (file("vocab.json", ARGUMENTS), "FIL213", "warning", "warning"),
    "an unfinished download": (file(f"{WEIGHTS}.incomplete", b"x"), "FIL062", "warning", "warning"),
    "an empty tokenizer": (file("tokenizer.json", b""), "FIL063", "warning", "warning"),
    "names that collide": (file("a.txt", b"1"), "FIL041", "warning", "warning"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAVER)
def test_what_is_a_warning_here_may_be_an_error_before_a_push(name, tmp_path):
    mutation, code, here, pushed = GRAVER[name]
    adapter = drafted(mutation, tmp_path)
    if code == "FIL041":
        (adapter / "A.txt").write_bytes(b"2")
    assert [f.severity for f in report(adapter).findings if f.code == code] == [here]
    assert [f.severity for f in report(adapter, purpose="push").findings if f.code == code] == [pushed]
    assert codes(report(adapter), "error") == []


TRAINING_ARGUMENTS = (
    "accelerate.state PartialState", "accelerate.utils.dataclasses DistributedType", "torch device",
    "transformers.trainer_pt_utils AcceleratorConfig", "transformers.trainer_utils HubStrategy",
    "transformers.trainer_utils IntervalStrategy", "transformers.trainer_utils SaveStrategy",
    "transformers.trainer_utils SchedulerType", "transformers.training_args OptimizerNames",
    "transformers.training_args TrainingArguments",
)  # fmt: skip
"""What torch.save(TrainingArguments(…)) of transformers 5.23 imports."""


def trainer_checkpoint(folder: Path) -> None:
    """What transformers' Trainer leaves beside an adapter."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict(), folder / "scheduler.pt")
    rebuilt = b"".join(b"c%b\n)R0" % name.replace(" ", "\n").encode() for name in TRAINING_ARGUMENTS)
    (folder / "training_args.bin").write_bytes(zipped({"training_args/data.pkl": b"\x80\x02" + rebuilt + b"N."}))
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    torch.save(states, folder / "rng_state.pth")
    torch.save({"scale": 65536.0, "growth_factor": 2.0}, folder / "scaler.pt", _use_new_zipfile_serialization=False)
    for name in ("trainer_state.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("<!-- This model card has been generated -->\n# x\n")
    (folder / "merges.txt").write_text("#version: 0.2\nc at\n")
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>" + bytes(9))
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / "events.out.tfevents.1").write_bytes(bytes(30))
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (folder / ".cache/huggingface/download").mkdir(parents=True)
    (folder / ".cache/huggingface/download/README.md.metadata").write_text("abc\ndef\n1.0\n")


def test_a_trainer_checkpoint_is_healthy(tmp_path):
    adapter = Draft().write(tmp_path)[0]
    trainer_checkpoint(adapter)
    (adapter / "checkpoint-10").mkdir()
    for name in (JSON, WEIGHTS, "optimizer.pt", "training_args.bin", "rng_state.pth"):
        shutil.copy(adapter / name, adapter / "checkpoint-10" / name)
    (adapter / "best").symlink_to("checkpoint-10")
    (adapter / "zero_to_fp32.py").write_text("import argparse\n")
    found = report(adapter, Selection())
    assert [finding for finding in found.findings if finding.severity != "info"] == []
    assert codes(report(adapter), "info") == ["FIL021", "FIL212"]
    assert found.verdict == "ok"


@pytest.mark.parametrize("name", ["smollm2-lora", "minilm-lora", "minilm-seqcls-lora"])
def test_the_fixtures_are_healthy(name):
    assert report(FIXTURES / name).findings == ()


def snapshot(folder: Path, below: str = "") -> Path:
    """The adapter as the hub's cache keeps it: links from snapshots/REVISION into blobs."""
    adapter = Draft().write(folder)[0]
    repository = folder / "models--me--lora"
    snapshot = repository / "snapshots" / "0a1b2c" / below
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(adapter.iterdir())):
        path.rename(repository / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(os.path.relpath(repository / "blobs" / f"{number:064x}", snapshot))
    return snapshot


@pytest.mark.parametrize("below", ["", "final"])
def test_a_snapshot_of_links_into_its_own_blobs_is_healthy(below, tmp_path):
    found = report(snapshot(tmp_path, below), Selection())
    assert found.findings == ()
    assert found.verdict == "ok"


def test_a_snapshot_is_healthy_by_whatever_way_it_is_reached(tmp_path):
    (tmp_path / "way").symlink_to(snapshot(tmp_path))
    assert report(tmp_path / "way").findings == ()


def test_a_blob_that_is_itself_a_link_out_is_not(tmp_path):
    folder = snapshot(tmp_path)
    blob = folder.parent.parent / "blobs" / "evil"
    blob.symlink_to("/etc/passwd")
    (folder / "tokenizer.json").symlink_to(blob)
    assert codes(report(folder), "error") == ["FIL010"]


def test_another_repositorys_blobs_are_not_its_own(tmp_path):
    folder = snapshot(tmp_path)
    other = tmp_path / "models--you--secret" / "blobs"
    other.mkdir(parents=True)
    (other / "0").write_text("{}")
    (folder / "tokenizer.json").symlink_to(other / "0")
    assert codes(report(folder), "error") == ["FIL010"]


def test_a_socket_is_named_and_not_opened(tmp_path, monkeypatch):
    adapter = Draft().write(tmp_path)[0]
    monkeypatch.chdir(adapter)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        assert codes(report(adapter), "error") == ["FIL012"]


def test_a_folder_that_is_too_large_is_not_approved(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "ENTRIES_LIMIT", 20)
    adapter = Draft().write(tmp_path)[0]
    for number in range(30):
        (adapter / f"x{number}").touch()
    found = report(adapter)
    assert [unchecked.code for unchecked in found.unchecked] == ["FIL012"]
    assert "more than 20 files" in found.unchecked[0].reason
    assert found.verdict == "unchecked"


def test_a_folder_that_is_too_deep_is_not_approved(tmp_path):
    adapter = Draft().write(tmp_path)[0]
    (adapter / "/".join("abcdefghij")).mkdir(parents=True)
    found = report(adapter)
    assert "8 folders deep" in found.unchecked[0].reason
    assert found.verdict == "unchecked"


def test_a_file_that_cannot_be_opened_is_not_approved(tmp_path, monkeypatch):
    adapter = Draft().write(tmp_path)[0]
    (adapter / "optimizer.pt").write_bytes(b"x")
    usual = os.open

    def refusing(path, *args, **kwargs):
        if str(path).endswith("optimizer.pt"):
            raise PermissionError(13, "Permission denied")
        return usual(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    found = report(adapter)
    assert [unchecked.reason for unchecked in found.unchecked] == [
        "not everything in the folder could be looked at: optimizer.pt: cannot be opened: Permission denied"
    ]
    assert found.verdict == "unchecked"


def test_weights_that_cannot_be_opened_are_not_approved(tmp_path, monkeypatch):
    adapter = Draft().write(tmp_path)[0]
    usual = os.open

    def refusing(path, *args, **kwargs):
        if str(path).endswith(WEIGHTS):
            raise PermissionError(13, "Permission denied")
        return usual(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    assert report(adapter).verdict == "unchecked"


def test_pickles_longer_than_the_budget_are_not_approved(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "BUDGET", 1000)
    adapter = Draft().write(tmp_path)[0]
    for name in "ab":
        (adapter / f"{name}.pkl").write_bytes(pickle.dumps(list(range(2000))))
    assert report(adapter).verdict == "unchecked"


def test_an_archive_is_not_inflated(tmp_path):
    deflated = zipped({f"{n}.txt": bytes(40 << 20) for n in range(1)}, zipfile.ZIP_DEFLATED)
    read = archives.read_archive(io.BytesIO(deflated), deflated)
    assert [(member.size, len(member.content)) for member in read.members] == [(40 << 20, 1024)]


TRUSTED = {
    "joblib.numpy_pickle.NumpyArrayWrapper": "state", "pandas.core.frame.DataFrame": "state",
    "torch.utils.data.dataset.Subset": "state", "torch.distributed.checkpoint.metadata.Metadata": "state",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler": "state", "dill._dill._create_function": "danger",
    "torch._utils._rebuild_tensor_v2": "tensors", "collections.OrderedDict": "tensors", "builtins.set": "tensors",
    "numpy._core.multiarray._reconstruct": "tensors", "transformers.training_args.TrainingArguments": "state",
    "__main__.ScriptArguments": "state", "trl.trainer.sft_config.SFTConfig": "state", "pathlib.PosixPath": "state",
    "datetime.timedelta": "state", "torch.optim.adamw.AdamW": "state", "mine.hooks.go": "code",
    "builtins.getattr": "code", "torch.storage._load_from_bytes": "code", "builtins.eval": "danger",
    "__builtin__.eval": "danger", "nt.system": "danger", "posix.system": "danger", "subprocess.Popen": "danger",
    "runpy._run_code": "danger", "torch.hub.load": "danger", "torch.load": "danger", "numpy.load": "danger",
    "torch.utils.cpp_extension.load": "danger", "joblib.load": "danger", "operator.attrgetter": "danger",
    "transformers.trainer.os.system": "danger", "webbrowser.open": "danger", "pickle.loads": "danger", HIDDEN: "danger",
}  # fmt: skip


@pytest.mark.parametrize("name", TRUSTED)
def test_how_far_an_import_is_trusted(name):
    assert trust(name) == TRUSTED[name]


@pytest.mark.parametrize("text", [b"cat\ndog\n", b"import os\n", b"configs\nand more\n", b"(see above)", b"", b".\n"])
def test_text_is_no_pickle(text):
    assert read_program(io.BytesIO(text)) is None


@pytest.mark.parametrize("data", HARM)
def test_the_imports_of_a_pickle_are_those_python_would_do(data):
    program = read_program(io.BytesIO(data))
    assert program is not None
    assert program.imports == ("posix.system",)
    assert program.whole


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_reading_a_program_never_raises(data):
    for start in (b"", b"\x80\x04", b"cos\nsystem\n"):
        read_program(io.BytesIO(start + data))


GOOD = Draft().weights()


@settings(max_examples=120, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=4)), min_size=1, max_size=4),
       kept=st.one_of(st.just(len(GOOD)), st.integers(0, len(GOOD))))  # fmt: skip
def test_a_damaged_file_is_never_approved(edits, kept, tmp_path_factory):
    data = bytearray(GOOD)
    for at, new in edits:
        data[at : at + len(new)] = new
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / JSON).write_text(json.dumps(CONFIG))
    (folder / WEIGHTS).write_bytes(data[:kept])
    found = report(folder, Selection())
    safetensors = pytest.importorskip("safetensors")
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="np"):
            pass
    except Exception:  # the reference implementation's own errors, whichever they are
        assert found.verdict != "ok"
