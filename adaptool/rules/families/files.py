"""FIL001–FIL019: whether the adapter's files are there, and are files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME
from adaptool.errors import DiskError
from adaptool.rules.draft import Draft
from adaptool.rules.files.listing import Entry, listing, printable
from adaptool.rules.files.programs import survey
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject, attempt
from adaptool.tensors.safetensors import open_safetensors

READ_AS_FILES = re.compile(
    r"adapter_(?:config\.json|model\.(?:safetensors|bin))|README\.md|training_args\.bin|chat_template\.jinja|merges\.txt"
    r"|(?:tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|config|generation_config)\.json|tokenizer\.model"
)
"""The names by which loaders open files."""

_FOREIGN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), what)
    for pattern, what in (
        (r"adapter_model-\d+-of-\d+\.(?:safetensors|bin)", "a shard, where PEFT saves and loads one file"),
        (r"adapter_model\.(?:safetensors|bin)\.index\.json", "an index of shards, where PEFT loads one file"),
        (r"adapter_model\.(?:safetensors|bin|pt|pth|ckpt|pkl)", "the right name in another spelling"),
        (r"pytorch_lora_weights\.(?:safetensors|bin)", "diffusers' name for a LoRA"),
        (r"(?:\d+_)?adapters\.(?:safetensors|npz)", "MLX-LM's name for an adapter"),
        (r"pytorch_(?:adapter|model_head)\.bin", "AdapterHub's name for an adapter"),
        (r"adapter_\d+\.(?:pt|safetensors)", "torchtune's name for an adapter"),
        (r"adapter\.(?:safetensors|bin|pt|pth)|adapter_weights\.\w+", "not PEFT's name"),
        (r".*lora.*\.(?:safetensors|pt|ckpt|bin)", "a name as kohya's scripts and image tools use"),
        (r".*\.gguf|ggml-adapter-model\.bin", "llama.cpp's format"),
        (r"(?:pytorch_)?model.*\.(?:safetensors|bin)|consolidated.*\.pth", "a whole model's name"),
        (r".*\.safetensors", "not PEFT's name"),
    )
)


def _moved(name: str) -> Callable[[Draft], object]:
    def mutate(draft: Draft) -> None:
        draft.files[name] = draft.weights()
        draft.removed.add(WEIGHTS_NAME)

    return mutate


@rule("FIL001", "error", "no adapter_config.json", breaks=lambda draft: draft.removed.add(CONFIG_NAME))
def no_config(subject: Subject) -> Iterator[Problem]:
    """Without its config an adapter has no type, rank or scale: no library can load it.

    Fix: copy adapter_config.json from where the adapter was trained; save_pretrained writes both files.
    """
    path = subject.folder / CONFIG_NAME
    if not path.exists() and not path.is_symlink():
        below = [entry.shown for entry in listing(subject).files if entry.base == CONFIG_NAME]
        where = f"; there is {below[0]}" if below else ""
        yield Problem(f"there is no {CONFIG_NAME} beside {printable(subject.weights_name)}{where}", CONFIG_NAME)


@rule("FIL002", "error", "no weights", breaks=lambda draft: draft.removed.add(WEIGHTS_NAME))
def no_weights(subject: Subject) -> Iterator[Problem]:
    """A config alone is not an adapter: loading it gives a randomly initialised one, or fails.

    Fix: fetch or save the weights again; the download or the save was cut off.
    """
    if subject.weights_path is None and _foreign(subject) is None and not _below(subject):
        yield Problem(f"there is a config and no {WEIGHTS_NAME}", WEIGHTS_NAME)


@rule("FIL003", "error", "weights under a name PEFT does not load", breaks=_moved("pytorch_lora_weights.safetensors"))
def foreign_name(subject: Subject) -> Iterator[Problem]:
    """PEFT opens adapter_model.safetensors or adapter_model.bin; under another name it finds no weights. Other tools'
    files also name their tensors otherwise.

    Fix: rename it if PEFT wrote it; else convert it with the tool it comes from.
    """
    if subject.weights_path is None and (found := _foreign(subject)) is not None:
        entry, what = found
        yield Problem(f"there is no {WEIGHTS_NAME}, but {entry.shown}: {what}{_by_keys(entry)}", entry.shown)


@rule("FIL004", "error", "the adapter is in a subfolder", breaks=_moved(f"checkpoint-500/{WEIGHTS_NAME}"))
def in_a_subfolder(subject: Subject) -> Iterator[Problem]:
    """Loaders look in the folder they are given; a checkpoint below it they do not find.

    Fix: point at the subfolder, or copy its files up.
    """
    below = _below(subject)
    if subject.weights_path is None and _foreign(subject) is None and below:
        more = f" and {len(below) - 1} more" if len(below) > 1 else ""
        yield Problem(f"there is no {WEIGHTS_NAME} here, but {below[0].shown}{more}", WEIGHTS_NAME)


@rule("FIL010", "error", "a link that leaves the folder", breaks=lambda draft: draft.links.update(notes="/etc/passwd"))
def leaving_link(subject: Subject) -> Iterator[Problem]:
    """A symbolic link out of the adapter hands over a file of whoever loads, packs or uploads it. The links of the
    hub's cache into its own blobs are not meant.

    Fix: replace the link by the file it should be, or delete it.
    """
    for entry in _links(subject, "outside"):
        yield Problem(f"{entry.shown} is a link to {printable(entry.target)}", entry.shown)


@rule("FIL011", "error", "a link that leads nowhere", breaks=lambda draft: draft.links.update({"README.md": "gone.md"}))
def broken_link(subject: Subject) -> Iterator[Problem]:
    """What it pointed at was not copied along, or it points at itself: opening it fails.

    Fix: copy the folder with its links resolved (cp -rL), or download it again.
    """
    for entry in _links(subject, "nowhere", "loop"):
        how = "a link to itself" if entry.goal == "loop" else "a link to what is not there"
        yield Problem(f"{entry.shown} is {how}: {printable(entry.target)}", entry.shown)


@rule("FIL012", "error", "a pipe, socket or device", breaks=lambda draft: draft.pipes.add("tokenizer.json"))
def special_file(subject: Subject) -> Iterator[Problem]:
    """Whoever opens a pipe waits for ever, and a device may do anything; neither belongs beside weights.

    Where a file cannot be opened, or there are too many to look through, this rule is not checked: that is no approval.

    Fix: delete it.
    """
    specials = [entry for entry in listing(subject).entries if entry.kind in ("pipe", "socket", "device")]
    for entry in specials:
        yield Problem(f"{entry.shown} is a {entry.kind}, not a file", entry.shown)
    gaps = (*listing(subject).gaps, *survey(subject).gaps)
    if gaps and not specials:
        more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        raise DiskError(f"not everything in the folder could be looked at: {gaps[0]}{more}")


def _folder(draft: Draft) -> None:
    draft.files["tokenizer.json/x"] = b"{}"


@rule("FIL013", "error", "a folder in place of a file", breaks=_folder)
def folder_for_file(subject: Subject) -> Iterator[Problem]:
    """A loader opens these names as files; on a folder it fails, some with a bare traceback.

    Fix: move the file out of the folder of its name.
    """
    for entry in listing(subject).entries:
        is_folder = entry.kind == "folder" or (entry.kind == "link" and entry.path.is_dir())
        if entry.is_top and is_folder and READ_AS_FILES.fullmatch(entry.name):
            yield Problem(f"{entry.shown} is a folder", entry.shown)


def _links(subject: Subject, *goals: str) -> list[Entry]:
    return [entry for entry in listing(subject).entries if entry.kind == "link" and entry.goal in goals]


def _below(subject: Subject) -> list[Entry]:
    """Weights under the right name in the wrong folder."""
    names = (WEIGHTS_NAME, PICKLE_NAME)
    return [entry for entry in listing(subject).files if not entry.is_top and entry.base in names]


def _foreign(subject: Subject) -> tuple[Entry, str] | None:
    """The file that most likely holds the weights PEFT does not find, and what its name says."""
    tops = [entry for entry in listing(subject).files if entry.is_top]
    matches = ((entry, what) for pattern, what in _FOREIGN for entry in tops if pattern.fullmatch(entry.name))
    return next(matches, None)


def _by_keys(entry: Entry) -> str:
    """What the names of its tensors say, where it is safetensors."""
    keys = list(attempt(lambda: open_safetensors(entry.path)).value or ())
    if any(key.startswith(("lora_unet_", "lora_te")) for key in keys):
        return "; its tensors are named as kohya's"
    if any(key.startswith(("unet.", "transformer.", "text_encoder.")) for key in keys):
        return "; its tensors are named as diffusers'"
    if any(key.endswith((".lora_a", ".lora_b")) for key in keys):
        return "; its tensors are named as MLX-LM's"
    return "; its tensors are named as PEFT's" if any(key.startswith("base_model.model.") for key in keys) else ""
