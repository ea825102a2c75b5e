"""A year of adapters under version: some sixty commits, good ones and every kind of bad one, each with its verdict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from making_git import Repo

from adaptool.versioning.record import Base, Parent, Record, read_record, record_text, weights_digest
from adaptool.versioning.recording import record_of

PIN = "a" * 40
SQL, CHAT, ROUTER, MERGED = "adapters/sql", "adapters/chat", "adapters/router", "adapters/merged"
WEIGHTS = "adapter_model.safetensors"


@dataclass
class Step:
    """One commit, and what is expected of it against its first parent."""

    commit: str
    subject: str
    errors: Mapping[str, set[str]]
    """Codes of severity error by adapter; those that are not named have none."""
    others: Mapping[str, set[str]]
    """Codes of warnings and notes, where it matters."""
    exit_code: int
    words: Mapping[str, str]
    """What is said of an adapter's change, where it matters."""


@dataclass
class Year:
    """The repository and its commits on the main branch, the oldest first."""

    repo: Repo
    steps: list[Step] = field(default_factory=list)
    seeds: int = 100

    # --- what happens to adapters

    def train(self, path: str, **how: Any) -> Path:
        """Other weights, and nothing else."""
        self.seeds += 1
        return self.repo.adapter(path, **{"seed": self.seeds, **how})

    def stamp(self, path: str, version: str, base: Base | None = None, **changes: Any) -> Record:
        """The manifest of what lies there, as ``version bump`` would write it."""
        folder = self.repo.folder / path
        old = self.record(path) if (folder / "adaptool.json").exists() else None
        record = record_of(folder, old)
        record = replace(record, version=version, base=base or Base(record.base.name, PIN), **changes)
        self.write(path, record)
        return record

    def write(self, path: str, record: Record) -> None:
        self.repo.write(f"{path}/adaptool.json", record_text(record))

    def record(self, path: str) -> Record:
        return read_record((self.repo.folder / path / "adaptool.json").read_bytes(), path)

    def weights(self, path: str) -> dict[str, np.ndarray[Any, Any]]:
        """The tensors that lie there."""
        data = (self.repo.folder / path / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        body = data[8 + length :]
        return {
            name: np.frombuffer(body[slice(*one["data_offsets"])], np.float32).reshape(one["shape"])
            for name, one in header.items()
        }

    def done(
        self, subject: str, errors: Mapping[str, set[str]] | None = None, others: Mapping[str, set[str]] | None = None,
        words: Mapping[str, str] | None = None, *, exit_code: int | None = None, commit: str = "",
    ) -> str:  # fmt: skip
        """Commit, with what is expected of it."""
        commit = commit or self.repo.commit(subject)
        code = exit_code if exit_code is not None else int(bool(errors))
        self.steps.append(Step(commit, subject, errors or {}, others or {}, code, words or {}))
        return commit


def a_year(folder: Path) -> Year:
    """Everything, in order."""
    year = Year(Repo(folder))
    for part in (begin, everyday, saved_anew, manifests, levels, branches, places, lineage, tags, pointers, files):
        part(year)
    return year


def begin(year: Year) -> None:
    for path, version in ((SQL, "0.1.0"), (CHAT, "1.0.0")):
        year.train(path)
        year.stamp(path, version)
    year.done("two adapters")
    year.train(SQL)
    year.stamp(SQL, "0.1.1")
    year.done("sql: trained on", words={SQL: "other adapter"})
    year.repo.write("README.md", "adapters of ours\n")
    year.done("a readme")
    year.repo.write(f"{SQL}/README.md", "a model card\n")
    year.done("a model card")


def everyday(year: Year) -> None:
    year.train(CHAT)
    year.stamp(CHAT, "1.0.0")
    year.done("chat: forgot the version", {CHAT: {"VER101"}})
    year.stamp(CHAT, "1.0.1")
    year.done("chat: the version after all")
    year.train(SQL)
    year.done("sql: forgot the manifest", {SQL: {"VER003", "VER101"}})
    year.stamp(SQL, "0.1.2")
    year.done("sql: the manifest after all")
    year.train(SQL)
    year.done("sql: forgot again", {SQL: {"VER003", "VER101"}})
    year.stamp(SQL, "0.1.2")
    year.done("sql: the old version for new content", {SQL: {"VER101"}})
    year.stamp(SQL, "0.1.3")
    year.done("sql: 0.1.3")
    year.train(SQL)
    year.stamp(SQL, "0.1.4")
    year.done("sql: 0.1.4")
    year.repo.git("revert", "--no-edit", "HEAD", date=year.repo.next_date())
    year.done("sql: reverted", {SQL: {"VER103"}}, commit=year.repo.head)
    year.stamp(SQL, "0.1.5")
    year.done("sql: the old content as 0.1.5")


def saved_anew(year: Year) -> None:
    factors = year.weights(CHAT)
    year.repo.adapter(CHAT, tensors=dict(reversed(factors.items())), peft_version="0.18.0")
    year.done("chat: saved by another PEFT", others={CHAT: {"VER004"}}, words={CHAT: "re-saved"})
    year.stamp(CHAT, "1.0.1")
    year.done("chat: the files of the new save")
    turned = dict(factors)
    random = np.random.default_rng(5)
    for name in factors:
        if name.endswith("lora_A.weight"):
            q = np.linalg.qr(random.normal(size=(4, 4)))[0]
            other = name.replace("lora_A", "lora_B")
            turned[name], turned[other] = q.T @ factors[name], factors[other] @ q
    year.repo.adapter(CHAT, tensors=turned)
    year.stamp(CHAT, "1.0.1")
    year.done("chat: rotated", words={CHAT: "re-factorised"})
    scaled = {name: value * (2 if "lora_A" in name else 0.5) for name, value in turned.items()}
    year.repo.adapter(CHAT, tensors=scaled)
    year.stamp(CHAT, "1.0.1")
    year.done("chat: re-scaled", words={CHAT: "re-scaled"})
    year.repo.adapter(CHAT, tensors=scaled, alpha=16)
    year.stamp(CHAT, "1.0.1")
    year.done("chat: another alpha, no version", {CHAT: {"VER101"}})
    year.stamp(CHAT, "1.0.2")
    year.done("chat: 1.0.2")
    year.write(CHAT, replace(year.record(CHAT), metrics={"accuracy": 0.5}, description="talks"))
    year.done("chat: metrics")


def manifests(year: Year) -> None:
    year.train(ROUTER)
    year.done("router: no manifest", {ROUTER: {"VER001"}})
    year.stamp(ROUTER, "1.0.0")
    year.done("router: 1.0.0")
    year.write(ROUTER, replace(year.record(ROUTER), version="v1.1"))
    year.done("router: no version", {ROUTER: {"VER105"}})
    year.stamp(ROUTER, "1.0.1-rc.1")
    year.done("router: 1.0.1-rc.1")
    year.train(ROUTER)
    year.stamp(ROUTER, "1.0.1-rc.2")
    year.done("router: 1.0.1-rc.2")
    year.stamp(ROUTER, "1.0.1")
    year.done("router: 1.0.1")
    year.train(ROUTER)
    year.stamp(ROUTER, "1.0.1+build.7")
    year.done("router: a build is no version", {ROUTER: {"VER101"}})
    year.stamp(ROUTER, "1.0.2")
    year.done("router: 1.0.2")
    text = (year.repo.folder / ROUTER / "adaptool.json").read_text()
    year.repo.write(f"{ROUTER}/adaptool.json", f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n")
    year.done("router: a merge gone wrong", {ROUTER: {"VER002"}})
    year.repo.write(f"{ROUTER}/adaptool.json", text)
    year.done("router: restored")
    year.stamp(ROUTER, "1.0.2", Base("org/base", "main"))
    year.done("router: a branch for a base", {ROUTER: {"VER301"}})
    year.stamp(ROUTER, "1.0.2", Base("org/base", PIN))
    year.done("router: pinned")
    record = year.record(ROUTER)
    year.write(ROUTER, replace(record, base=Base("other/model", PIN), version="2.0.0"))
    year.done("router: the manifest's base is another", {ROUTER: {"VER302"}})
    year.write(ROUTER, replace(record, version="2.0.1"))
    year.done("router: the base again")
    year.write(ROUTER, replace(record, version="3.0.0"))
    year.done("router: 3.0.0")


def levels(year: Year) -> None:
    year.train(SQL, rank=8)
    year.stamp(SQL, "0.1.6")
    year.done("sql: another rank as a patch", {SQL: {"VER102"}})
    year.stamp(SQL, "0.2.0")
    year.done("sql: 0.2.0")
    year.train(SQL, rank=8, modules=("q_proj", "k_proj", "v_proj"))
    year.stamp(SQL, "0.3.0")
    year.done("sql: k_proj as a minor")
    year.train(SQL, rank=8, modules=("q_proj",))
    year.stamp(SQL, "0.4.0")
    year.done("sql: fewer modules as a minor", {SQL: {"VER102"}})
    year.stamp(SQL, "1.0.0")
    year.done("sql: 1.0.0")
    year.train(SQL, rank=8, modules=("q_proj",), base="org/larger")
    year.stamp(SQL, "1.1.0")
    year.done("sql: another base as a minor", {SQL: {"VER102"}})
    year.stamp(SQL, "2.0.0")
    year.done("sql: 2.0.0")


def branches(year: Year) -> None:
    repo = year.repo
    repo.branch("feature")
    year.train(SQL, rank=8, modules=("q_proj",), base="org/larger")
    year.stamp(SQL, "2.0.1")
    repo.commit("sql: on a branch")
    repo.switch("main")
    year.train(SQL, rank=8, modules=("q_proj",), base="org/larger")
    year.stamp(SQL, "2.0.1")
    year.done("sql: 2.0.1 on main")
    repo.git("merge", "--no-commit", "--no-ff", "-X", "theirs", "-s", "ort", "feature", okay=(0, 1))
    repo.git("checkout", "feature", "--", SQL)
    year.done("a merge: one version for two contents", {SQL: {"VER101", "VER104"}})
    year.stamp(SQL, "2.0.2")
    year.done("sql: 2.0.2")
    repo.branch("second")
    year.train(CHAT)
    year.stamp(CHAT, "1.0.3")
    repo.commit("chat: on a branch")
    repo.switch("main")
    year.train(SQL, rank=8, modules=("q_proj",), base="org/larger")
    year.stamp(SQL, "2.0.3")
    year.done("sql: 2.0.3")
    year.done("a merge as it should be", commit=repo.merge("second"))


def places(year: Year) -> None:
    repo = year.repo
    repo.git("mv", ROUTER, "adapters/routing")
    year.done("router: renamed")
    repo.git("mv", "adapters/routing", ROUTER)
    year.train(ROUTER)
    year.stamp(ROUTER, "3.0.0")
    year.done("router: back, and trained on", {ROUTER: {"VER101"}})
    year.stamp(ROUTER, "3.0.1")
    year.done("router: 3.0.1")
    repo.git("rm", "-r", "--quiet", ROUTER)
    year.done("router: removed", others={ROUTER: {"VER501"}})
    repo.git("checkout", "HEAD~1", "--", ROUTER)
    year.done("router: restored")
    repo.git("rm", "-r", "--quiet", ROUTER)
    year.done("router: removed again", others={ROUTER: {"VER501"}})
    year.train(ROUTER)
    year.stamp(ROUTER, "3.0.1", name="router")
    year.done("router: another one by its version", {ROUTER: {"VER101"}})
    repo.git("rm", "-r", "--quiet", ROUTER)
    year.done("router: gone", others={ROUTER: {"VER501"}})
    year.train(ROUTER)
    year.stamp(ROUTER, "2.0.0", name="router")
    year.done("router: a lower version", {ROUTER: {"VER103"}})
    year.stamp(ROUTER, "3.1.0")
    year.done("router: 3.1.0")


def lineage(year: Year) -> None:
    sql, chat = year.record(SQL), year.record(CHAT)
    year.train(MERGED)
    parents = (Parent("composed_of", "sql", sql.content.digest, sql.version, path=SQL),
               Parent("composed_of", "chat", chat.content.digest, chat.version))  # fmt: skip
    year.stamp(MERGED, "1.0.0", parents=parents)
    year.done("merged: of two")
    year.stamp(MERGED, "1.1.0", parents=(*parents, Parent("composed_of", "gone", "0" * 64, path="adapters/gone")))
    year.done("merged: of one that is not there", {MERGED: {"VER401"}})
    year.stamp(MERGED, "1.1.0", parents=(parents[0], replace(parents[1], path=CHAT, digest="1" * 64)))
    year.done("merged: of one that is another", {MERGED: {"VER402"}})
    year.stamp(MERGED, "1.2.0", parents=(*parents, Parent("trained_from", "somebody/adapter", "2" * 64)))
    year.done("merged: of one on the hub")
    year.train(SQL, rank=8, modules=("q_proj",), base="org/larger")
    year.stamp(SQL, "2.0.4")
    year.done("sql: 2.0.4, a parent goes on")
    year.train(MERGED)
    year.stamp(MERGED, "1.2.1")
    year.done("merged: its parent is in the history")


def tags(year: Year) -> None:
    record = year.record(CHAT)
    year.repo.tag(f"chat-v{record.version}", f"chat {record.version}\n\nadaptool-digest: {record.content.digest}\n")
    year.train(CHAT)
    year.stamp(CHAT, "1.0.4")
    commit = year.repo.commit("chat: 1.0.4, and 1.0.3's tag moved here")
    year.repo.tag("chat-v1.0.3", force=True)
    year.done("chat: 1.0.4, and 1.0.3's tag moved here", {CHAT: {"VER201"}}, commit=commit)


def pointers(year: Year) -> None:
    repo = year.repo
    content = (repo.folder / SQL / WEIGHTS).read_bytes()
    oid = hashlib.sha256(content).hexdigest()
    stored = repo.lfs_object(oid)
    stored.parent.mkdir(parents=True)
    stored.write_bytes(content)
    repo.write(f"{SQL}/{WEIGHTS}", pointer(oid, len(content)))
    year.done("sql: into LFS")
    record = year.record(SQL)
    files = tuple(replace(one, sha256="3" * 64) if one.name == WEIGHTS else one for one in record.files)
    tensors = {name: replace(one, digest="4" * 64) for name, one in record.tensors.items()}
    other = replace(record.content, weights=weights_digest({name: one.digest for name, one in tensors.items()}))
    repo.write(f"{SQL}/{WEIGHTS}", pointer("5" * 64, len(content)))
    year.done("sql: a pointer to something else", {SQL: {"VER003"}})
    repo.write(f"{SQL}/{WEIGHTS}", pointer("3" * 64, len(content)))
    year.write(SQL, replace(record, files=files, content=other, version="2.0.5", tensors=tensors))
    year.done("sql: a pointer to what is not fetched")
    repo.write(f"{SQL}/{WEIGHTS}", content)
    year.stamp(SQL, "2.0.6")
    year.done("sql: out of LFS")


def pointer(oid: str, size: int) -> str:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


def files(year: Year) -> None:
    repo = year.repo
    repo.write(f"{CHAT}/tokenizer_config.json", {"model_max_length": 8})
    year.done("chat: a file too many", {CHAT: {"VER005"}})
    year.stamp(CHAT, "1.0.4")
    year.done("chat: listed")
    repo.git("rm", "--quiet", f"{CHAT}/tokenizer_config.json")
    year.done("chat: a file too few", {CHAT: {"VER005"}})
    year.stamp(CHAT, "1.0.4")
    year.done("chat: not listed")
    whole = (repo.folder / CHAT / WEIGHTS).read_bytes()
    repo.write(f"{CHAT}/{WEIGHTS}", whole[:-100])
    year.done("chat: cut off", {CHAT: {"VER003"}})
    repo.write(f"{CHAT}/{WEIGHTS}", whole)
    year.done("chat: whole again")
