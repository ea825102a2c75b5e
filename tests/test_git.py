"""Git revisions as inputs: every kind of clone, LFS or not, hostile trees and settings; nothing fetched or run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from making_git import Repo, isolate, needs_lfs, save_adapter

import adaptool.git
from adaptool.adapters.adapter import open_adapter
from adaptool.cli.main import main
from adaptool.errors import AdaptoolError, FormatError, GitError, NotFetchedError, NotFoundError
from adaptool.git.layout import lay_out
from adaptool.git.lfs import LfsStore
from adaptool.git.named import Source, split_revision
from adaptool.git.process import state_of
from adaptool.git.repository import Blob, Repository, find_repository, repository_of
from adaptool.git.revisions import open_beside, resolve_revision
from adaptool.git.trees import adapters_in_tree
from adaptool.git.working import is_content
from adaptool.tensors.locate import RESOLVERS, as_given, locate
from adaptool.tensors.pointers import Pointer, parse_pointer

OID = "ab" * 32
SQL = "adapters/sql"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path / ".settings")


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """Two versions of one adapter, the first tagged v1.0.0; the current folder is its root."""
    made = Repo(tmp_path / "repo")
    made.adapter(SQL, seed=1)
    made.commit("first")
    made.tag("v1.0.0", "the first")
    made.adapter(SQL, seed=2)
    made.write(f"{SQL}/tokenizer.json", "{}")
    made.commit("second")
    monkeypatch.chdir(made.folder)
    return made


def first_factor(path):
    store = open_adapter(path).store
    return store.array(next(iter(store)))


def names(path):
    return sorted(item.name for item in path.iterdir())


def told(text):
    """The error ``text`` gives, with its hint, in the user's names."""
    with pytest.raises(AdaptoolError) as caught:
        open_adapter(locate(text))
    return f"{as_given(caught.value.message)} | {as_given(caught.value.hint or '')}"


# --- pointers


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12\n", Pointer(OID, 12)),
        (f"version https://git-lfs.github.com/spec/v1\r\noid sha256:{OID}\r\nsize 12\r\n", Pointer(OID, 12)),
        (f"version https://hawser.github.com/spec/v1\noid sha256:{OID}\nsize 0\n", Pointer(OID, 0)),
        (
            f"version https://git-lfs.github.com/spec/v1\next-0-foo sha256:{OID}\noid sha256:{OID}\nsize 12\n",
            Pointer(OID, 12, extended=True),
        ),
        (f"# xet version 0\nfilesize = 99\nhash = '{OID}'\n", Pointer(OID, 99, "xet")),
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\n", None),
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID[1:]}\nsize 12\n", None),
        (f"version https://git-lfs.github.com/spec/v1\noid md5:{OID}\nsize 12\n", None),
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize -1\n", None),
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12\nmore 1\n", None),
        (f"version https://evil.example/spec/v1\noid sha256:{OID}\nsize 12\n", None),
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12\n" + "\n" * 1024, None),
        ("# xet version 0\nfilesize = 99\nfilesize = 99\n", None),
        ("", None),
    ],
)
def test_pointers_are_read_strictly(content, expected):
    assert expected == parse_pointer(content.encode())


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_model.bin"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 18915328\n", "Git LFS pointer"),
        (f"# xet version 0\nfilesize = 18915328\nhash = '{OID}'\n", "Xet pointer"),
    ],
)
def test_a_pointer_in_place_of_weights_says_what_it_is(tmp_path, name, content, said):
    save_adapter(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / name).write_text(content)
    with pytest.raises(NotFetchedError) as caught:
        open_adapter(tmp_path)
    assert said in caught.value.message
    assert "18,915,328 bytes" in caught.value.message
    assert caught.value.hint is not None


# --- what is typed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v1.0.0", ("v1.0.0", None)),
        ("HEAD~3:adapters/sql", ("HEAD~3", "adapters/sql")),
        (":adapters/sql", ("", "adapters/sql")),
        ("main@{yesterday 12:00}:x", ("main@{yesterday 12:00}", "x")),
        ("HEAD^{/fix: bug}:x:y", ("HEAD^{/fix: bug}", "x:y")),
        ("a{b:c", ("a{b", "c")),
        (":/fix: the bug", (":/fix: the bug", None)),
        ("HEAD:", ("HEAD", "")),
    ],
)
def test_a_revision_ends_at_the_first_colon_outside_braces(text, expected):
    assert expected == split_revision(text)


@pytest.mark.parametrize(
    ("cwd", "text", "expected"),
    [
        ("", "v1.0.0", "v1.0.0:adapters/sql"),
        ("", "HEAD", "HEAD:adapters/sql"),
        ("", "@", "@:adapters/sql"),
        ("", "main", "main:adapters/sql"),
        ("", "HEAD~1:adapters/sql", "HEAD~1:adapters/sql"),
        ("", "HEAD~1:adapters/sql/", "HEAD~1:adapters/sql"),
        ("", "v1.0.0^{commit}:adapters/sql", "v1.0.0^{commit}:adapters/sql"),
        ("", "HEAD^{/first}:adapters/sql", "HEAD^{/first}:adapters/sql"),
        ("", ":/first", ":/first:adapters/sql"),
        ("", "main@{0}:adapters/sql", "main@{0}:adapters/sql"),
        ("", ":adapters/sql", ":adapters/sql"),
        ("", ":0:adapters/sql", ":adapters/sql"),
        ("", "HEAD:adapters", "HEAD:adapters"),
        ("", "HEAD:", "HEAD:"),
        ("adapters", "HEAD:./sql", "HEAD:adapters/sql"),
        ("adapters", "HEAD:../adapters/sql", "HEAD:adapters/sql"),
        ("adapters/sql", "HEAD:.", "HEAD:adapters/sql"),
        ("adapters/sql", "HEAD:./adapter_model.safetensors", "HEAD:adapters/sql/adapter_model.safetensors"),
        ("", "HEAD:adapters/sql/adapter_model.safetensors", "HEAD:adapters/sql/adapter_model.safetensors"),
    ],
)
def test_every_way_to_name_a_revision(repo, monkeypatch, cwd, text, expected):
    monkeypatch.chdir(repo.folder / cwd)
    assert expected == as_given(str(locate(text)))


def test_the_content_is_that_of_the_revision(repo):
    assert not np.array_equal(first_factor(locate("v1.0.0")), first_factor(locate("HEAD")))
    assert np.array_equal(first_factor(locate("HEAD")), first_factor(repo.folder / SQL))
    assert names(locate("v1.0.0")) == ["adapter_config.json", WEIGHTS]
    assert names(locate("HEAD")) == ["adapter_config.json", WEIGHTS, "tokenizer.json"]
    assert open_adapter(locate("v1.0.0")).name == "sql"


def test_one_file_brings_its_config_and_no_other_large_one(repo):
    repo.write(f"{SQL}/optimizer.bin", os.urandom(3 << 20))
    repo.commit()
    weights = locate(f"HEAD:{SQL}/{WEIGHTS}")
    assert open_adapter(weights).store
    assert names(weights.parent) == ["adapter_config.json", WEIGHTS, "tokenizer.json"]
    assert (repo.folder / SQL / "optimizer.bin").read_bytes() == (locate(f"HEAD:{SQL}") / "optimizer.bin").read_bytes()


def test_the_index_is_what_is_staged(repo):
    repo.adapter(SQL, seed=3)
    repo.git("add", SQL)
    staged = first_factor(repo.folder / SQL)
    repo.adapter(SQL, seed=4)
    assert np.array_equal(staged, first_factor(locate(f":{SQL}")))


def test_both_sides_of_a_conflict(repo):
    repo.branch("ours", "v1.0.0")
    repo.adapter(SQL, seed=5)
    repo.commit()
    repo.git("merge", "main", okay=(1,))
    assert np.array_equal(first_factor(locate(f"ours:{SQL}/{WEIGHTS}")), _stage(repo, 2))
    assert np.array_equal(first_factor(locate(f"main:{SQL}/{WEIGHTS}")), _stage(repo, 3))


def _stage(repo, number):
    folder = Repository(repo.folder).index(stage=number)
    blob = folder[f"{SQL}/{WEIGHTS}"]
    target = repo.folder.parent / f"stage{number}"
    save_adapter(target)
    (target / WEIGHTS).unlink()
    Repository(repo.folder).copy(blob.oid, target / WEIGHTS)
    return first_factor(target)


def test_a_path_wins_and_a_marked_path_never_asks_git(repo, monkeypatch):
    repo.git("branch", "adapters/sql-old")
    assert Path(SQL) == locate(SQL)
    monkeypatch.setattr("adaptool.tensors.locate.RESOLVERS", [lambda text: pytest.fail(f"asked for {text}")])
    for text in ("./HEAD", "../HEAD", "/HEAD", "~/HEAD"):
        with pytest.raises(NotFoundError):
            locate(text)


def test_a_branch_that_reads_like_a_hub_id_is_the_branch(repo):
    repo.branch("feature/x")
    assert as_given(str(locate("feature/x"))) == "feature/x:adapters/sql"
    assert resolve_revision("org/name") is None


def test_a_bare_revision_means_the_place_one_is_in(repo, monkeypatch):
    repo.adapter("adapters/chat", seed=9)
    repo.commit()
    monkeypatch.chdir(repo.folder / "adapters" / "chat")
    assert as_given(str(locate("HEAD"))) == "HEAD:adapters/chat"
    monkeypatch.chdir(repo.folder)
    assert as_given(str(locate("v1.0.0"))) == "v1.0.0:adapters/sql"
    assert "HEAD: 2 adapters in HEAD: which one? | name it: HEAD:adapters/chat; " in told("HEAD")
    assert "adapters/chat, adapters/sql" in told("HEAD")
    repo.adapter(".", seed=10)
    repo.commit()
    assert as_given(str(locate("HEAD"))) == "HEAD:"


@pytest.mark.parametrize("tag", ["sql-v1.2.0", "sql-1.2.0", "sql/v1.2.0", "sql@1.2.0", "adapters/sql/v1.2.0"])
def test_a_tag_tells_whose_it_is(repo, monkeypatch, tag):
    repo.adapter("adapters/chat", seed=9)
    repo.commit()
    repo.tag(tag)
    monkeypatch.chdir(repo.folder / "adapters" / "chat")
    assert f"{tag}:adapters/sql" == as_given(str(locate(tag)))


def test_beside_the_other_side(repo, monkeypatch):
    repo.adapter("adapters/chat", seed=9)
    repo.commit()
    repo.tag("v2.0.0")
    for path in (Path(SQL), repo.folder / SQL, Path("adapters/../adapters/sql")):
        assert as_given(str(open_beside("v2.0.0", path))) == "v2.0.0:adapters/sql"
    assert f"v2.0.0:{SQL}/{WEIGHTS}" == as_given(str(open_beside("v2.0.0", Path(SQL) / WEIGHTS)))
    assert f"HEAD:{SQL}" == as_given(str(open_beside(f"HEAD:{SQL}", Path("adapters/chat"))))
    monkeypatch.chdir("/")
    assert as_given(str(open_beside("v2.0.0", repo.folder / SQL))) == "v2.0.0:adapters/sql"
    assert open_beside("org/name", repo.folder / SQL) is None
    monkeypatch.chdir(repo.folder)
    assert as_given(str(open_beside("v2.0.0", Path("HEAD:adapters/sql")))) == "v2.0.0:adapters/sql"
    assert as_given(str(open_beside("v1.0.0", Path("HEAD")))) == "v1.0.0:adapters/sql"
    assert open_beside("org/name", Path("HEAD:adapters/sql")) is None
    with pytest.raises(NotFoundError, match=r"v1.0.0: no adapters/chat in v1.0.0"):
        open_beside("v1.0.0", repo.folder / "adapters" / "chat")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HEAD:nope", "HEAD:nope: no nope in HEAD | adapters there: adapters/sql"),
        ("v9:adapters/sql", "no revision 'v9'"),
        ("v1.0.1:adapters/sql", "did you mean: v1.0.0"),
        ("HEAD~30", "no revision 'HEAD~30'"),
        (f"{'1' * 40}", f"no revision '{'1' * 40}'"),
        ("HEAD:adapters/sql/tokenizer.json/x", "no adapters/sql/tokenizer.json/x in HEAD"),
        (":nope", "no nope in the index"),
        ("nope", "nope: no such file or folder"),
        ("--help:x", "no such file or folder"),
        ("--upload-pack=x", "no such file or folder"),
        ("hf://org/x", "not supported by this version"),
        ("HEAD:docs", "no adapter in HEAD:docs or below"),
    ],
)
def test_what_is_not_there_is_said(repo, text, expected):
    repo.write("docs/x", "y")
    repo.commit()
    assert expected in told(text)


def test_outside_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert resolve_revision("main") is None
    assert "not in a Git repository" in told("HEAD~1")
    with pytest.raises(NotFoundError, match="not in a Git repository"):
        repository_of(tmp_path)


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolve_revision("main") is None
    with pytest.raises(GitError, match="git is not installed"):
        Repository(tmp_path).run("version")


def test_importing_the_room_is_enough():
    assert adaptool.git.resolve in RESOLVERS


def test_what_was_laid_out_is_gone_when_the_process_ends(repo):
    code = (
        "import adaptool.git, sys\nfrom adaptool.tensors.locate import locate\n"
        "print(locate('v1.0.0'), flush=True)\n"
        "raise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip())
    assert folder.name == "sql"
    assert not folder.parent.parent.exists()


# --- every kind of clone


def test_an_unborn_head(tmp_path, monkeypatch):
    repo = Repo(tmp_path / "new")
    monkeypatch.chdir(repo.folder)
    assert list(Repository(repo.folder).log()) == []
    assert Repository(repo.folder).commit("HEAD") is None
    assert "has no commit yet" in told("HEAD:x")
    repo.adapter(SQL)
    repo.git("add", "--all")
    assert open_adapter(locate(f":{SQL}")).store


def test_a_detached_head_and_packed_references(repo):
    repo.switch("v1.0.0")
    repo.git("pack-refs", "--all")
    repo.git("gc", "--quiet")
    assert not (repo.folder / ".git" / "refs" / "tags" / "v1.0.0").exists()
    assert np.array_equal(first_factor(locate("v1.0.0")), first_factor(locate("HEAD")))
    assert tuple(tag.name for tag in Repository(repo.folder).tags()) == ("v1.0.0",)


def test_a_worktree_shares_all(repo, tmp_path, monkeypatch):
    tree = repo.worktree(tmp_path / "tree", "v1.0.0")
    monkeypatch.chdir(tree.folder)
    assert find_repository(tree.folder / SQL).folder == tree.folder
    assert find_repository(tree.folder).common == (repo.folder / ".git").resolve()
    assert np.array_equal(first_factor(locate("HEAD")), first_factor(locate("v1.0.0")))
    assert np.array_equal(first_factor(locate("main")), first_factor(repo.folder / SQL))


def test_a_bare_clone(repo, tmp_path, monkeypatch):
    bare = repo.clone(tmp_path / "bare.git", bare=True)
    monkeypatch.chdir(bare.folder)
    assert Repository(bare.folder, bare=True) == find_repository(bare.folder / "refs")
    assert np.array_equal(first_factor(locate("HEAD")), first_factor(repo.folder / SQL))
    assert as_given(str(locate("v1.0.0"))) == "v1.0.0:adapters/sql"
    with pytest.raises(NotFoundError, match="no adapters/sql in the index"):
        locate(":adapters/sql")


def test_a_shallow_clone_says_that_it_is_one(repo, tmp_path, monkeypatch):
    shallow = repo.clone(tmp_path / "shallow", depth=1)
    monkeypatch.chdir(shallow.folder)
    assert find_repository(shallow.folder).shallow
    assert open_adapter(locate("HEAD")).store
    with pytest.raises(NotFetchedError, match="history is cut off") as caught:
        locate("HEAD~1")
    assert "git fetch --unshallow --tags" in caught.value.hint
    assert len(list(find_repository(shallow.folder).log())) == 1


@pytest.mark.parametrize("what", ["blob:none", "blob:limit=2k", "tree:0"])
def test_a_partial_clone_fetches_nothing(repo, tmp_path, monkeypatch, what):
    partial = repo.clone(tmp_path / "partial", filter=what, options=["--no-checkout"])
    monkeypatch.chdir(partial.folder)
    repository = find_repository(partial.folder)
    objects = partial.git("count-objects", "-v")
    assert repository.partial
    with pytest.raises(NotFetchedError):
        locate(f"v1.0.0:{SQL}")
    if what != "tree:0":
        blob = repository.tree("HEAD")[f"{SQL}/{WEIGHTS}"]
        with pytest.raises(NotFetchedError, match="is not in this clone"):
            repository.sizes([blob.oid])
        with pytest.raises(NotFetchedError, match="is not in this clone"):
            repository.read(blob.oid, 9)
        with pytest.raises(NotFetchedError, match="is not in this clone"):
            repository.copy(blob.oid, tmp_path / "x")
    assert objects == partial.git("count-objects", "-v")
    repo.folder.rename(tmp_path / "gone")
    with pytest.raises(NotFetchedError):
        locate(f"HEAD:{SQL}")


def test_a_clone_that_borrows_objects(repo, tmp_path, monkeypatch):
    repo.git("clone", "--quiet", "--shared", ".", str(tmp_path / "borrower"))
    monkeypatch.chdir(tmp_path / "borrower")
    assert open_adapter(locate("v1.0.0")).store


def test_sha256_objects(tmp_path, monkeypatch):
    repo = Repo(tmp_path / "long", options=["--object-format=sha256"])
    repo.adapter(SQL)
    repo.commit()
    repo.adapter(SQL, seed=2)
    monkeypatch.chdir(repo.folder)
    assert len(Repository(repo.folder).commit("HEAD")) == 64
    assert open_adapter(locate("HEAD")).store
    assert [f"{SQL}/{WEIGHTS}"] == list(Repository(repo.folder).changed("HEAD"))
    partial = repo.clone(tmp_path / "partial", filter="blob:none", options=["--no-checkout"])
    monkeypatch.chdir(partial.folder)
    with pytest.raises(NotFetchedError):
        locate("HEAD")


def test_a_submodule_is_opened_in_its_own_repository(repo, tmp_path, monkeypatch):
    outer = Repo(tmp_path / "outer")
    inner = outer.submodule(repo, "vendor/team")
    outer.commit("with a submodule")
    inner.switch("v1.0.0")
    outer.commit("an older one")
    monkeypatch.chdir(outer.folder)
    assert np.array_equal(first_factor(locate(f"HEAD:vendor/team/{SQL}")), first_factor(inner.folder / SQL))
    assert np.array_equal(first_factor(locate(f"HEAD~1:vendor/team/{SQL}")), first_factor(repo.folder / SQL))
    clone = outer.clone(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    with pytest.raises(NotFetchedError, match="the submodule is not checked out") as caught:
        locate(f"HEAD:vendor/team/{SQL}")
    assert caught.value.hint == "git submodule update --init -- vendor/team"


def test_a_submodule_without_its_working_tree(repo, tmp_path, monkeypatch):
    outer = Repo(tmp_path / "outer")
    outer.submodule(repo, "team")
    outer.commit()
    outer.git("submodule", "deinit", "--force", "team")
    monkeypatch.chdir(outer.folder)
    assert open_adapter(locate(f"HEAD:team/{SQL}")).store


def test_a_hook_that_was_told_of_its_repository_can_open_others(repo, tmp_path, monkeypatch):
    other = Repo(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.folder))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.folder / ".git" / "index"))
    monkeypatch.setenv("GIT_PREFIX", "x/")
    monkeypatch.setenv("GIT_GLOB_PATHSPECS", "1")
    assert find_repository(Path()).folder == repo.folder
    assert open_adapter(locate("v1.0.0")).store
    assert open_adapter(locate(f":{SQL}")).store


def test_a_commit_hook_sees_the_index_of_the_commit(repo, monkeypatch, tmp_path):
    hook = repo.write(
        ".git/hooks/pre-commit",
        f"#!/bin/sh\nexec '{sys.executable}' -c \"import adaptool.git\n"
        "from adaptool.tensors.locate import locate\nfrom pathlib import Path\nimport shutil\n"
        f"shutil.copytree(locate(':{SQL}'), '{tmp_path / 'seen'}')\"\n",
    )
    hook.chmod(0o755)
    repo.adapter(SQL, seed=7)
    repo.git("commit", "--quiet", "--all", "-m", "by a hook")
    assert np.array_equal(first_factor(repo.folder / SQL), first_factor(tmp_path / "seen"))


def test_a_push_is_seen_before_it_is_taken(repo, tmp_path):
    bare = repo.clone(tmp_path / "bare.git", bare=True)
    hook = bare.folder / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        f"#!/bin/sh\nread old new ref\nexec '{sys.executable}' -c \"import adaptool.git, sys\n"
        f"from adaptool.tensors.locate import locate\nprint('SEEN', locate(sys.argv[1] + ':{SQL}').name)\" $new\n"
    )
    hook.chmod(0o755)
    repo.adapter(SQL, seed=8)
    repo.commit()
    done = subprocess.run(["git", "push", bare.url, "main"], cwd=repo.folder, env=repo.environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert "SEEN sql" in done.stderr


def test_the_state_of_a_hook_is_for_its_own_repository(tmp_path, monkeypatch):
    inside, outside = tmp_path / ".git", tmp_path / "other"
    monkeypatch.setenv("GIT_INDEX_FILE", str(inside / "index.lock"))
    monkeypatch.setenv("GIT_ALTERNATE_OBJECT_DIRECTORIES", "/x")
    assert {"GIT_INDEX_FILE": str(inside / "index.lock")} == state_of(inside)
    assert state_of(outside) == {}


# --- LFS


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The same with the weights in LFS."""
    made = Repo(tmp_path / "kept")
    made.lfs()
    made.adapter(SQL, seed=1)
    made.commit("first")
    made.tag("v1.0.0")
    made.adapter(SQL, seed=2)
    made.commit("second")
    monkeypatch.chdir(made.folder)
    return made


def pointer_of(repo, revision="HEAD"):
    repository = Repository(repo.folder)
    return parse_pointer(repository.read(repository.tree(revision)[f"{SQL}/{WEIGHTS}"].oid, 1024))


@needs_lfs
def test_lfs_content_comes_from_the_store(kept):
    expected = first_factor(kept.folder / SQL)
    assert np.array_equal(expected, first_factor(locate("HEAD")))
    assert not np.array_equal(expected, first_factor(locate("v1.0.0")))
    stored = kept.lfs_object(pointer_of(kept).oid)
    assert stored.samefile(locate("HEAD") / WEIGHTS)


@needs_lfs
@pytest.mark.parametrize("kind", ["clone", "bare", "worktree", "shallow", "shared"])
def test_lfs_in_other_clones(kept, tmp_path, monkeypatch, kind):
    if kind == "worktree":
        clone = kept.worktree(tmp_path / kind)
    elif kind == "shared":
        kept.git("clone", "--quiet", "--shared", ".", str(tmp_path / kind), variables={"GIT_LFS_SKIP_SMUDGE": "1"})
        clone = Repo(tmp_path / kind, settings=kept.settings, made=True)
    else:
        clone = kept.clone(tmp_path / kind, bare=kind == "bare", depth=1 if kind == "shallow" else None)
    monkeypatch.chdir(clone.folder)
    if kind not in ("worktree", "shared"):
        said = told(f"HEAD:{SQL}")
        assert f"HEAD:{SQL}/{WEIGHTS}: a Git LFS pointer, not the weights (5,189 bytes, not fetched)" in said
        how = "git lfs fetch origin HEAD" if kind == "bare" else "git lfs pull"
        assert f"| fetch them with: {how} --include={SQL}/{WEIGHTS}" in said
        clone.lfs_pull()
    adaptool.git.revisions._opened.cache_clear()
    assert np.array_equal(first_factor(locate(f"HEAD:{SQL}")), first_factor(kept.folder / SQL))


@needs_lfs
def test_what_was_not_fetched_of_another_revision(kept, tmp_path, monkeypatch):
    clone = kept.clone(tmp_path / "clone")
    clone.lfs_pull()
    monkeypatch.chdir(clone.folder)
    assert open_adapter(locate("HEAD")).store
    assert f"git lfs fetch origin v1.0.0 --include={SQL}/{WEIGHTS}" in told("v1.0.0")
    clone.git("lfs", "fetch", "origin", "v1.0.0", f"--include={SQL}/{WEIGHTS}")
    adaptool.git.revisions._opened.cache_clear()
    assert open_adapter(locate("v1.0.0")).store


@needs_lfs
@pytest.mark.parametrize("where", ["absolute", "relative"])
def test_a_store_elsewhere(kept, tmp_path, monkeypatch, where):
    folder = tmp_path / "store" if where == "absolute" else Path("elsewhere")
    kept.git("config", "lfs.storage", str(folder))
    (kept.folder / ".git" / "lfs").rename(kept.folder / ".git" / folder)
    assert open_adapter(locate("v1.0.0")).store


@needs_lfs
def test_lfs_in_a_submodule(kept, tmp_path, monkeypatch):
    outer = Repo(tmp_path / "outer")
    inner = outer.submodule(kept, "team")
    outer.commit()
    monkeypatch.chdir(outer.folder)
    assert "Git LFS pointer" in told(f"HEAD:team/{SQL}")
    inner.lfs_pull()
    adaptool.git.revisions._opened.cache_clear()
    assert open_adapter(locate(f"HEAD:team/{SQL}")).store


@needs_lfs
def test_a_damaged_object_is_refused(kept):
    stored = kept.lfs_object(pointer_of(kept).oid)
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match="is damaged in this clone's store"):
        locate("HEAD")
    stored.write_bytes(b"short")
    assert LfsStore(Repository(kept.folder)).find(pointer_of(kept)) is None


@needs_lfs
def test_a_file_that_is_its_pointers_content_has_not_changed(kept):
    repository = Repository(kept.folder)
    os.utime(kept.folder / SQL / WEIGHTS)
    os.utime(kept.folder / SQL / "adapter_config.json")
    assert repository.changed("HEAD") == {}
    kept.adapter(SQL, seed=5)
    assert [f"{SQL}/{WEIGHTS}"] == list(repository.changed("HEAD"))
    assert {"0"} == set(repository.changed("HEAD")[f"{SQL}/{WEIGHTS}"][1].oid)


def test_content_is_judged_by_size_and_hash(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    oid = hashlib.sha256(b"abc").hexdigest()
    assert is_content(file, Pointer(oid, 3))
    assert not is_content(file, Pointer(oid, 4))
    assert not is_content(file, Pointer(OID, 3))
    assert not is_content(file, Pointer(oid, 3, extended=True))
    assert not is_content(tmp_path / "nope", Pointer(oid, 3))


# --- hostile trees


def tree_of(repo, entries):
    """A tree of (mode, name, object) as it is given, also where git would never write it; its hash."""
    raw = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries)
    done = subprocess.run(["git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"], cwd=repo.folder,
                          env=repo.environment, input=raw, capture_output=True, check=True)  # fmt: skip
    return done.stdout.decode().strip()


def blob_of(repo, content):
    return repo.git("hash-object", "-w", "--stdin", asked=content)


def test_names_never_lead_out_of_the_folder(repo, tmp_path):
    config, secret = blob_of(repo, "{}"), blob_of(repo, "secret")
    inner = tree_of(repo, [("100644", b"adapter_config.json", config), ("100644", b"pwned", secret)])
    tree = tree_of(
        repo,
        [
            ("40000", b"..", inner),
            ("40000", b".GIT", inner),
            ("40000", b"a\nb", inner),
            ("100644", b"adapter_config.json", config),
            ("100644", b"ADAPTER_CONFIG.json", secret),
            ("100644", b"x\x1b[31m", secret),
        ],
    )
    source = Source(Repository(repo.folder), tree, Repository(repo.folder).tree(tree))
    top = lay_out(source, source.folders, "")
    assert (top / "adapter_config.json").read_text() == "{}"
    found = {path.relative_to(top).as_posix() for path in top.rglob("*")}
    written = {"adapter_config.json", "ADAPTER_CONFIG.json", "x\x1b[31m"}
    assert written | {"a\nb", "a\nb/adapter_config.json", "a\nb/pwned"} >= found >= {"a\nb", "adapter_config.json"}
    assert [top.name] == names(top.parent)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("/etc/passwd", "leads out of the repository"),
        ("../../../../etc/passwd", "leads out of the repository"),
        ("weights.safetensors", "leads in a circle"),
        ("../nope", "which is no file in that revision"),
    ],
)
def test_links_are_never_followed_on_disk(repo, tmp_path, link, expected):
    (repo.folder / SQL / WEIGHTS).unlink()
    (repo.folder / SQL / WEIGHTS).symlink_to(link if "weights" not in link else WEIGHTS)
    repo.commit()
    assert expected in told(f"HEAD:{SQL}")


def test_links_are_resolved_inside_the_revision(repo):
    (repo.folder / "current").symlink_to("adapters/sql")
    (repo.folder / "adapters" / "shared").mkdir()
    (repo.folder / "adapters" / "shared" / "adapter_config.json").symlink_to("../sql/adapter_config.json")
    (repo.folder / "adapters" / "shared" / WEIGHTS).symlink_to("../../current/../sql/" + WEIGHTS)
    repo.commit()
    repo.git("rm", "--quiet", "-r", "--cached", "adapters/sql/tokenizer.json")
    assert f"HEAD:{SQL}" == as_given(str(locate("HEAD:current")))
    expected = first_factor(repo.folder / SQL)
    (repo.folder / SQL / WEIGHTS).unlink()  # on the disk they lead nowhere now
    assert np.array_equal(expected, first_factor(locate("HEAD:adapters/shared")))
    assert np.array_equal(expected, first_factor(locate(f"HEAD:current/{WEIGHTS}")))


@pytest.mark.parametrize(
    "name", ["with space", "ünï-日本", 'quo"te', "new\nline", "-dash", "star*[x]", "col:on", "\ttab"]
)
def test_odd_names(repo, monkeypatch, name):
    repo.adapter(f"adapters/{name}", seed=6)
    repo.commit()
    assert {SQL, f"adapters/{name}"} == set(adapters_in_tree(Repository(repo.folder).tree("HEAD")))
    assert np.array_equal(first_factor(repo.folder / "adapters" / name), first_factor(locate(f"HEAD:adapters/{name}")))
    repo.adapter(f"adapters/{name}", seed=7)
    assert [f"adapters/{name}/{WEIGHTS}"] == list(Repository(repo.folder).changed("HEAD"))
    assert len(list(Repository(repo.folder).log(f"adapters/{name}"))) == 1


def test_a_repository_in_an_odd_folder(tmp_path, monkeypatch):
    repo = Repo(tmp_path / "ünï code\nline")
    repo.adapter(".")
    repo.commit()
    monkeypatch.chdir(repo.folder)
    assert find_repository(Path()).folder == repo.folder
    assert open_adapter(locate("HEAD")).store


PROGRAMS = [
    "core.fsmonitor",
    "core.pager",
    "pager.log",
    "pager.diff",
    "diff.external",
    "diff.evil.textconv",
    "diff.evil.command",
    "filter.evil.clean",
    "filter.evil.smudge",
    "filter.evil.process",
    "filter.e=il.clean",
    "core.sshCommand",
    "core.askPass",
    "core.gitProxy",
    "gpg.program",
    "core.editor",
    "core.alternateRefsCommand",
    "uploadpack.packObjectsHook",
    "alias.rev-parse",
    "alias.cat-file",
    "alias.ls-tree",
    "alias.log",
    "remote.origin.uploadpack",
    "credential.helper",
]


def test_nothing_in_a_repositorys_settings_runs(repo, tmp_path):
    evil, hooks, ran = tmp_path / "evil", tmp_path / "hooks", tmp_path / "RAN"
    evil.write_text(f'#!/bin/sh\necho "$0 $*" >> "{ran}"\ncat\n')
    evil.chmod(0o755)
    hooks.mkdir()
    for name in ("post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / name).write_text(evil.read_text())
        (hooks / name).chmod(0o755)
    repo.write(".gitattributes", "*.safetensors filter=evil diff=evil\n*.json filter=e=il diff=evil\n")
    repo.commit()
    for key in PROGRAMS:
        repo.git("config", key, f"!{evil}" if key.startswith(("alias", "credential")) else str(evil))
    more = {"core.hooksPath": str(hooks), "filter.evil.required": "true", "log.showSignature": "true",
            "diff.orderFile": str(tmp_path / "nope"), "color.ui": "always", "log.follow": "true",
            "remote.origin.url": f"ext::{evil}", "remote.origin.promisor": "true", "protocol.allow": "always",
            "remote.origin.partialclonefilter": "blob:none", "i18n.logOutputEncoding": "utf-16",
            "format.pretty": "oneline"}  # fmt: skip
    for key, value in more.items():
        repo.git("config", key, value)
    ran.unlink(missing_ok=True)
    for path in repo.folder.glob(f"{SQL}/*"):
        os.utime(path)
    repository = find_repository(Path())
    assert [commit.subject for commit in repository.log(SQL)] == ["second", "first"]
    assert len(repository.tags()) == 1
    assert [path for path in repository.changed("HEAD") if path.startswith("adapters")] == []
    assert f"{SQL}/{WEIGHTS}" in repository.changed("HEAD~2", "HEAD")
    assert repository.untracked() == ()
    assert repository.merge_base("HEAD", "v1.0.0") == repository.commit("v1.0.0")
    assert open_adapter(locate("v1.0.0")).store
    assert open_adapter(locate(f":{SQL}")).store
    with pytest.raises(NotFetchedError):
        repository.read("1" * 40, 10)
    assert not ran.exists()
    repo.git("-c", "core.fsmonitor=false", "diff", "HEAD", okay=(0, 1, 128))
    assert ran.exists(), "the trap is one that git itself falls into"


# --- the repository's own words


def test_changes(repo):
    repository = Repository(repo.folder)
    repo.write("new", "x")
    (repo.folder / SQL / "tokenizer.json").unlink()
    changed = repository.changed("HEAD")
    assert [(f"{SQL}/tokenizer.json", None)] == [(path, after) for path, (_, after) in changed.items()]
    assert repository.untracked() == ("new",)
    assert {f"{SQL}/{WEIGHTS}", f"{SQL}/tokenizer.json"} == set(repository.changed("v1.0.0", "HEAD"))


def test_tags_and_their_messages_cannot_be_forged(repo):
    repo.tag("light")
    repo.tag("odd", "a\n\x01\nv9\n%00\nb")
    tags = {tag.name: tag for tag in Repository(repo.folder).tags()}
    assert {"v1.0.0", "light", "odd"} == set(tags)
    assert (tags["v1.0.0"].message, tags["v1.0.0"].annotated) == ("the first\n", True)
    assert (tags["light"].message, tags["light"].annotated) == ("", False)
    assert tags["odd"].message == "a\n\x01\nv9\n%00\nb\n"


def test_a_log_of_odd_authors(repo):
    repo.git("config", "user.name", "E\x1b[31mve\u202e")
    repo.write("x", "1")
    oid = repo.commit("subject with \x1f and ünï", date="2025-05-06T07:08:09+02:00")
    newest = next(Repository(repo.folder).log())
    assert (oid, "subject with \x1f and ünï", "2025-05-06T07:08:09+02:00") == (newest.oid, newest.subject, newest.date)
    assert newest.author == "E\x1b[31mve\u202e"


def test_the_reader_reads_many_and_survives_the_odd(repo):
    repository = Repository(repo.folder)
    tree = repository.tree("HEAD")
    config = tree[f"{SQL}/adapter_config.json"]
    with repository.reader() as reader:
        assert [reader.size(config.oid)] * 200 == [len(reader.read(config.oid, 9999)) for _ in range(200)]
        assert reader.size("1" * 40) is None
        with pytest.raises(NotFetchedError):
            reader.read("1" * 40, 10)
        with pytest.raises(GitError, match="more than the 10"):
            reader.read(config.oid, 10)
        with pytest.raises(GitError, match="is a tree"):
            reader.size(repository.resolve("HEAD", "tree"))
        with pytest.raises(GitError, match="is no object"):
            reader.size("HEAD\nx")
        assert reader.read(config.oid, 9999)[:1] == b"{"
    assert (repo.folder / SQL / "adapter_config.json").stat().st_size == repository.sizes([config.oid])[config.oid]


def test_thousands_of_adapters_are_listed_and_read(tmp_path):
    repo = Repo(tmp_path / "many")
    config = blob_of(repo, "{}")
    files = [f"adapters/{i}/{name}" for i in range(3000) for name in ("adapter_config.json", "README.md")]
    asked = "".join(f"100644 {config}\t{path}\n" for path in files)
    repo.git("update-index", "--index-info", asked=asked)
    repo.commit(add=False)
    repository = Repository(repo.folder)
    adapters = adapters_in_tree(repository.tree("HEAD"))
    assert len(adapters) == 3000
    with repository.reader() as reader:
        assert {b"{}"} == {reader.read(files["adapter_config.json"].oid, 99) for files in adapters.values()}


def test_adapters_of_a_tree():
    paths = ["adapter_config.json", "a/adapter_model.bin", "a/tokenizer/vocab.txt", "b/c/adapter_model.safetensors",
             "b/c/README.md", "d/config.json", "e/adapter_config.json/x"]  # fmt: skip
    tree = {path: Blob(path, OID) for path in paths} | {"sub": Blob("sub", OID, "160000")}
    found = {folder: sorted(files) for folder, files in adapters_in_tree(tree).items()}
    assert found == {"": ["adapter_config.json"], "a": ["adapter_model.bin"], "b/c": ["README.md", WEIGHTS]}


def test_the_command_line_takes_revisions_and_says_so(repo, capsys):
    assert main(["-v", "diff", "v1.0.0", SQL]) == 1
    said = capsys.readouterr()
    assert "v1.0.0:adapters/sql: a Git revision" in said.err
    assert main(["inspect", "v1.0.0", "--json"]) == 0
    assert '"path": "v1.0.0:adapters/sql"' in capsys.readouterr().out
    assert main(["validate", f"HEAD:{SQL}"]) == 0
    assert capsys.readouterr().out.startswith(f"HEAD:{SQL}  LoRA")
    assert main(["inspect", "HEAD:nope"]) == 3
    assert "hint: adapters there: adapters/sql" in capsys.readouterr().err


def test_a_repository_git_does_not_trust(repo, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert resolve_revision("org/name") is None
    with pytest.raises(GitError, match="dubious ownership") as caught:
        locate("HEAD:adapters/sql")
    assert f"safe.directory {repo.folder}" in caught.value.hint


def test_a_link_in_place_of_a_submodule_is_not_followed(repo, tmp_path, monkeypatch):
    outer = Repo(tmp_path / "outer")
    outer.git("update-index", "--add", "--cacheinfo", f"160000,{repo.head},team")
    outer.commit(add=False)
    (outer.folder / "team").symlink_to(repo.folder)
    monkeypatch.chdir(outer.folder)
    with pytest.raises(NotFetchedError, match="the submodule is not checked out"):
        locate(f"HEAD:team/{SQL}")
