"""FIL020–FIL099: what else lies in the folder."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME
from adaptool.rules.draft import file
from adaptool.rules.draft_pickle import zipped
from adaptool.rules.families.files import READ_AS_FILES
from adaptool.rules.files.listing import Entry, listing, printable
from adaptool.rules.files.programs import survey
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

OWN_NAMES = (CONFIG_NAME, WEIGHTS_NAME, PICKLE_NAME)

_CODE = re.compile(
    r"\.(?:py[cowdz]?|ipynb|whl|egg|(?:ba|z|fi)?sh|psm?1|bat|cmd|vbs|[mc]?js|ts|jar|class|rb|pl|php|lua|so|dll|dylib|exe"
    r"|com|scr|msi|apk|lnk|desktop|hta|reg|command|app)"
)

KNOWN_CODE = ("zero_to_fp32.py",)
"""DeepSpeed puts it into every checkpoint."""

_PRIVATE = re.compile(
    r"\.env(?:\.(?!example|sample|template|dist).+)?|[._]netrc|\.npmrc|\.pypirc|\.git-credentials|\.pgpass|\.htpasswd|\.boto"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)(?:_sk)?|.+\.(?:pem|key|p12|pfx|jks|kdbx|ppk)|\.(?:bash|zsh|python|psql)_history"
    r"|credentials(?:\.json)?|client_secret.*\.json|service[-_]account.*\.json|kubeconfig|\.dockercfg|stored_tokens",
    re.IGNORECASE,
)
_PRIVATE_PLACE = re.compile(
    r"(?:^|/)\.(?:ssh|aws|gnupg|kube|azure)(?:/|$)|(?:^|/)\.(?:huggingface/token|docker/config\.json)$"
)

_UNFINISHED = re.compile(r".+\.(?:incomplete|partial|part|crdownload|aria2|download)")

_MODEL = re.compile(
    r"(?:model|pytorch_model|tf_model|flax_model|consolidated|diffusion_pytorch_model)(?:[-._]\d.*)?"
    r"\.(?:safetensors|bin|h5|msgpack|pth|pt)"
)
_HUGE = 1 << 30
_TIMES = 20
"""An optimizer's state is twice the weights, in float32 of 16-bit weights four times."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".cab", ".a", ".deb", ".rpm", ".lz4")


@rule("FIL020", "error", "machine code in the folder", breaks=file("tokenizer.model", b"\x7fELF\2\1\1" + bytes(57)))
def native_code(subject: Subject) -> Iterator[Problem]:
    """An adapter is numbers; an executable or a library among them, under whatever name, is there to be run.

    Fix: delete it, and distrust where it came from.
    """
    for entry in _others(subject):
        if entry.format is not None and entry.format.group == "native":
            yield Problem(f"{entry.shown} is {entry.format.what}", entry.shown)


@rule("FIL021", "warning", "code beside the adapter", breaks=file("modeling.py", b"import os\n"))
def code(subject: Subject) -> Iterator[Problem]:
    """PEFT imports nothing from the folder, but loaders with trust_remote_code, notebooks and people do.

    Fix: keep code in a repository of its own; delete it here.
    """
    found = [entry for entry in _others(subject) if _is_code(entry)]
    shown = [entry.shown for entry in found if entry.base not in KNOWN_CODE]
    known = [entry.shown for entry in found if entry.base in KNOWN_CODE]
    if shown:
        yield Problem(f"code lies beside the adapter: {_listed(shown)}", shown[0])
    if known:
        yield Problem(f"DeepSpeed's own script lies beside the adapter: {_listed(known)}", known[0], severity="info")


@rule("FIL030", "error", "an archive that writes outside its folder",
      breaks=file("data.zip", zipped({"../../.ssh/authorized_keys": b"ssh-rsa A"})))  # fmt: skip
def escaping_archive(subject: Subject) -> Iterator[Problem]:
    """A member called ../x or /x, or a link to such a place, lands outside the folder it is unpacked to.

    Fix: do not unpack it; delete it.
    """
    for entry, archive in survey(subject).archives:
        members = [member for member in archive.members if member.escapes]
        if members:
            link = f" -> {printable(members[0].link)}" if members[0].link else ""
            more = f" and {len(members) - 1} more like it" if len(members) > 1 else ""
            yield Problem(f"{entry.shown} holds {printable(members[0].name)}{link}{more}", entry.shown)


@rule("FIL031", "error", "an archive that inflates without end",
      breaks=lambda draft: draft.files.update({"logs.zip": _bomb()}))  # fmt: skip
def zip_bomb(subject: Subject) -> Iterator[Problem]:
    """A few bytes that unpack to gigabytes fill the disk of whoever opens them.

    Fix: do not unpack it; delete it.
    """
    for entry, archive in survey(subject).archives:
        if total := archive.inflates(entry.size):
            yield Problem(f"{entry.shown} has {entry.size} bytes and claims to hold {total}", entry.shown)


@rule("FIL032", "info", "archives beside the adapter", breaks=file("old.zip", zipped({"notes.txt": b"x"})))
def archives(subject: Subject) -> Iterator[Problem]:
    """No loader looks into an archive, and neither does a review: what is in it is not part of the adapter.

    Fix: unpack it where it belongs, or leave it out.
    """
    names = [entry.shown for entry in _others(subject) if entry.format is not None and
             (entry.format.group in ("archive", "compressed", "tar") or entry.suffix in _ARCHIVES)]  # fmt: skip
    if names:
        yield Problem(f"beside the adapter: {_listed(names)}", names[0])


@rule("FIL040", "error", "a file name that hides", breaks=file("adapter_\u202egnp.exe", b"x"))
def hiding_names(subject: Subject) -> Iterator[Problem]:
    """Characters that are invisible, turn the text round or command the terminal make a name look like another one.

    Fix: delete the file, or rename it if it is yours.
    """
    for entry in listing(subject).entries:
        if not entry.base.isprintable() or entry.base != entry.base.strip() or "\\" in entry.base:
            what = (
                "has control or invisible characters" if not entry.base.isprintable() else "hides a space or backslash"
            )
            yield Problem(f'the name "{entry.shown}" {what}', entry.shown)
        elif (own := _imitated(entry.base)) is not None:
            yield Problem(f"the name {entry.base!a} imitates {own} with other letters", entry.shown)


@rule("FIL041", "error", "names that differ in case only", breaks=file("Adapter_Config.json", b"{}"))
def colliding_names(subject: Subject) -> Iterator[Problem]:
    """Where names ignore case, on Windows and macOS, one of the two overwrites the other: who wins is who came last.

    Fix: delete the one that is not PEFT's.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in listing(subject).entries:
        groups.setdefault(unicodedata.normalize("NFKC", entry.name).casefold(), []).append(entry)
    for entries in groups.values():
        if len(entries) > 1:
            names = [entry.shown for entry in entries]
            grave = any(READ_AS_FILES.fullmatch(entry.base) for entry in entries)
            yield Problem(f"{' and '.join(names[:3])} are one name", names[0], severity=None if grave else "warning")


@rule("FIL050", "warning", "a private file", push="error", breaks=file(".env", b"A=b\n"))
def private_files(subject: Subject) -> Iterator[Problem]:
    """Files of this name hold passwords, tokens or keys; whoever gets the adapter gets them.

    Fix: delete it; if it was ever published, revoke what was in it.
    """
    for entry in listing(subject).entries:
        if entry.kind != "folder" and (_PRIVATE.fullmatch(entry.base) or _PRIVATE_PLACE.search(entry.name)):
            yield Problem(f"{entry.shown} is a place for secrets", entry.shown)


@rule("FIL051", "info", "a .git folder", breaks=file(".git/HEAD", b"ref: refs/heads/main\n"))
def git_folder(subject: Subject) -> Iterator[Problem]:
    """A clone's history is fine to work in and was not looked into; packed or copied along, it carries every file ever
    deleted and perhaps a token in its remote's address.

    Fix: publish with a tool that leaves it out (hf upload does), or copy the files without it.
    """
    for entry in listing(subject).entries:
        if entry.base == ".git" and entry.kind == "folder":
            yield Problem(f"{entry.shown} was not looked into", entry.shown)


@rule("FIL060", "info", "a whole model beside the adapter", breaks=file("model.safetensors", b"\2" + bytes(7) + b"{}"))
def whole_model(subject: Subject) -> Iterator[Problem]:
    """An adapter is small so that the base need not be copied; with model weights beside it, loaders differ in which of
    the two they take.

    Fix: leave the model out, or publish it on its own.
    """
    own = listing(subject).by_name.get(subject.weights_name)
    most = max(_HUGE, _TIMES * own.size) if own is not None else _HUGE
    big = [entry for entry in _others(subject) if entry.is_top and (_MODEL.fullmatch(entry.name) or entry.size > most)]
    if big:
        names = [f"{entry.shown} ({entry.size} bytes)" for entry in big]
        yield Problem(f"beside the adapter: {_listed(names)}", big[0].shown)


@rule("FIL062", "warning", "an unfinished download", breaks=file(f"{WEIGHTS_NAME}.incomplete", b"x"))
def unfinished(subject: Subject) -> Iterator[Problem]:
    """A download that was cut off leaves its part behind; the finished file may be of an earlier version.

    Fix: download the adapter again, and delete the part.
    """
    names = [entry.shown for entry in _others(subject) if entry.is_top and _UNFINISHED.fullmatch(entry.base)]
    if names:
        yield Problem(f"there is {_listed(names)}", names[0])


@rule("FIL063", "warning", "an empty file", breaks=file("tokenizer.json", b""))
def empty_files(subject: Subject) -> Iterator[Problem]:
    """A file of no bytes that loaders read: a save or a copy that failed, for want of room on the disk perhaps.

    Fix: copy it again from where the adapter was trained.
    """
    empty = [entry for entry in _others(subject) if entry.is_top and entry.size == 0 and entry.name != CONFIG_NAME]
    names = [entry.shown for entry in empty if READ_AS_FILES.fullmatch(entry.name)]
    if names:
        yield Problem(f"of no bytes: {_listed(names)}", names[0])


def _others(subject: Subject) -> Iterator[Entry]:
    """Every file but the weights."""
    return (entry for entry in listing(subject).files if entry.name != subject.weights_name)


def _is_code(entry: Entry) -> bool:
    is_script = entry.format is not None and entry.format.group == "script"
    is_native = entry.format is not None and entry.format.group == "native"
    return (_CODE.fullmatch(entry.suffix) is not None or is_script) and not is_native


def _imitated(name: str) -> str | None:
    """The adapter's own file whose name this one looks like in other alphabets."""
    if name.isascii():
        return None
    return next((own for own in OWN_NAMES if difflib.SequenceMatcher(None, name, own).ratio() > 0.8), None)


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _bomb() -> bytes:
    """A zip whose directory claims more than it could hold."""
    small = zipped({"0.txt": bytes(64)})
    at = small.rfind(b"PK\1\2") + 24
    return small[:at] + (0xF0000000).to_bytes(4, "little") + small[at + 4 :]
