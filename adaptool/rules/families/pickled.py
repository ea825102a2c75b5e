"""FIL200–FIL299: pickles, told by their bytes and not by their names; and models of other frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.errors import AdaptoolError, FormatError
from adaptool.rules.draft import Draft, file, together
from adaptool.rules.draft_pickle import ARGUMENTS, SYSTEM, torch_zip, zipped
from adaptool.rules.files.damage import TORCH, plain, weights_kind
from adaptool.rules.files.imports import OPCODES_LIMIT, Trust
from adaptool.rules.files.listing import listing, printable
from adaptool.rules.files.programs import Found, survey
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject, attempt
from adaptool.tensors.pickles import open_pickle
from adaptool.tensors.store import Store

_OTHERS = (".onnx", ".pb", ".tflite", ".mlmodel", ".h5", ".keras", ".msgpack", ".gguf", ".ggml", ".engine", ".plan")


def as_pickle(draft: Draft) -> None:
    """The mutation that saves the weights as PEFT did before safetensors."""
    draft.files[PICKLE_NAME] = torch_zip(draft.tensors)
    draft.removed.add(WEIGHTS_NAME)


def _renamed(draft: Draft) -> None:
    draft.files[PICKLE_NAME] = draft.weights()
    draft.removed.add(WEIGHTS_NAME)


@rule("FIL201", "warning", "weights in a PyTorch pickle", push="error", breaks=as_pickle)
def pickled_weights(subject: Subject) -> Iterator[Problem]:
    """A pickle is a program: others must trust you to load it, and hubs warn of it. This one holds tensors only, read
    here by a reader that executes nothing.

    Fix: convert it to safetensors: `adaptool validate --fix` does, with the same tensors.
    """
    if weights_kind(subject) in TORCH and _is_binary(subject) and subject.store_opened.error is None:
        count = len(subject.store)
        yield Problem(f"{subject.weights_name} is a pickle; it holds {count} tensors and nothing else", _file(subject))


@rule("FIL202", "error", "weights in a pickle that imports code",
      breaks=together(file(PICKLE_NAME, SYSTEM), lambda draft: draft.removed.add(WEIGHTS_NAME)))  # fmt: skip
def hostile_weights(subject: Subject) -> Iterator[Problem]:
    """Loading such a file runs what it names before a single tensor is read; weights need none of it.

    Fix: do not load it; ask its maker for safetensors.
    """
    error = _pickle_error(subject)
    if error is None:
        return
    names = _imports(subject, "danger") or _imports(subject, "code")
    if names:
        yield Problem(f"loading {subject.weights_name} imports {_listed(names)}", _file(subject))
    elif _is_binary(subject) and not isinstance(error, FormatError) and subject.weights_path is not None:
        yield Problem(f"{_file(subject)} {plain(error, subject.weights_path)}", _file(subject))
    elif _is_binary(subject) and weights_kind(subject) == "pickle":
        asked = _imports(subject, "state")
        what = f"a pickle that imports {_listed(asked)}" if asked else "a pickle that torch.save did not write"
        yield Problem(f"{subject.weights_name} is {what}", _file(subject))


@rule("FIL203", "error", "a PyTorch file that cannot be read", breaks=together(
      as_pickle, lambda draft: draft.files.update({PICKLE_NAME: draft.files[PICKLE_NAME][:-99]})))  # fmt: skip
def broken_pickle(subject: Subject) -> Iterator[Problem]:
    """The weights are a pickle of torch.save that is cut off, damaged, or says of itself what is not so.

    Fix: fetch the file again, or save the adapter again with safetensors.
    """
    error = _pickle_error(subject)
    is_torch = _is_binary(subject) and weights_kind(subject) != "pickle"
    imports = _imports(subject, "danger") or _imports(subject, "code")
    if isinstance(error, FormatError) and is_torch and not imports and subject.weights_path is not None:
        yield Problem(f"in {subject.weights_name}, {plain(error, subject.weights_path)}", _file(subject))


@rule("FIL204", "error", "a pickle named .safetensors", breaks=lambda draft: draft.files.update(
      {WEIGHTS_NAME: torch_zip(draft.tensors)}))  # fmt: skip
def disguised_weights(subject: Subject) -> Iterator[Problem]:
    """The name promises a file that cannot run code and the bytes are a pickle; safetensors' loaders refuse it, and a
    loader that guesses by the bytes runs it.

    Fix: convert it to safetensors where it was made; if you trust it, rename it to adapter_model.bin.
    """
    hostile = _imports(subject, "danger") or _imports(subject, "code")
    if weights_kind(subject) in TORCH and not _is_binary(subject) and not hostile:
        yield Problem(f"{subject.weights_name} is a PyTorch pickle by its first bytes", _file(subject))


@rule("FIL205", "error", "safetensors under a pickle's name", breaks=_renamed)
def renamed_safetensors(subject: Subject) -> Iterator[Problem]:
    """PEFT unpickles adapter_model.bin whatever it holds, and fails on safetensors.

    Fix: rename it to adapter_model.safetensors.
    """
    is_sound = weights_kind(subject) == "safetensors" and subject.store_opened.error is None
    if is_sound and subject.weights_name == PICKLE_NAME:
        yield Problem(f"{PICKLE_NAME} is safetensors by its first bytes", PICKLE_NAME)


@rule("FIL206", "warning", "weights twice, as safetensors and as a pickle",
      breaks=lambda draft: draft.files.update({PICKLE_NAME: torch_zip(draft.tensors)}))  # fmt: skip
def weights_twice(subject: Subject) -> Iterator[Problem]:
    """PEFT loads adapter_model.safetensors and never looks at adapter_model.bin; older tools do the opposite. Where the
    two differ, so do the models.

    Fix: delete adapter_model.bin, once you know it is the older of the two.
    """
    names = {entry.name for entry in listing(subject).entries if entry.kind != "folder"}
    if {WEIGHTS_NAME, PICKLE_NAME} <= names:
        other = attempt(lambda: open_pickle(subject.folder / PICKLE_NAME)).value
        own = subject.store_opened.value
        how = _compared(own, other) if own is not None and other is not None else "and one of them cannot be read"
        yield Problem(f"PEFT loads {WEIGHTS_NAME}; {PICKLE_NAME} lies beside it {how}", PICKLE_NAME)


@rule("FIL210", "error", "a pickle that can do harm", breaks=file("optimizer.pt", SYSTEM))
def harmful_pickle(subject: Subject) -> Iterator[Problem]:
    """A pickle runs what it imports as soon as it is opened. No honest one has shells, processes, sockets, loaders or
    names that hide.

    Fix: delete the file, and do not open anything else from where it came.
    """
    for found in _beside(subject):
        if names := found.program.of("danger"):
            yield Problem(f"opening {found.shown} imports {_listed(names)}", found.entry.shown)
        elif found.program.endless:
            yield Problem(
                f"{found.shown} is a pickle of more than {OPCODES_LIMIT} opcodes, read no further: what it imports "
                "behind them is not known", found.entry.shown,
            )  # fmt: skip


@rule("FIL211", "warning", "a pickle that imports functions",
      breaks=file("state.pt", zipped({"state/data.pkl": b"\x80\x02cmytrainer.hooks\nrestore\n)R."})))  # fmt: skip
def pickled_functions(subject: Subject) -> Iterator[Problem]:
    """Training states are tensors and objects of classes; a function called while a file is opened can do anything.

    Fix: delete it if nothing needs it; else look at what it holds with `python -m pickletools`.
    """
    for found in _beside(subject):
        if found.program.worst == "code" and not found.program.endless:
            yield Problem(f"opening {found.shown} calls {_listed(found.program.of('code'))}", found.entry.shown)


@rule("FIL212", "info", "pickles beside the adapter", breaks=file("training_args.bin", ARGUMENTS))
def usual_pickles(subject: Subject) -> Iterator[Problem]:
    """Trainer leaves training_args.bin, optimizer.pt and others beside an adapter. Nobody needs them to use it, and
    whoever opens training_args.bin must trust it: its objects are rebuilt by importing their classes.

    Fix: leave them out of what you publish (ignore_patterns), unless training is to go on from there.
    """
    known = (found for found in _beside(subject) if not found.program.endless)
    names = {found.entry.shown: found for found in known if found.program.worst in ("tensors", "state")}
    objects = [name for name, found in names.items() if found.program.worst == "state"]
    if names:
        which = f"; {_listed(objects)} would import classes" if objects else "; all hold plain data only"
        yield Problem(f"beside the adapter: {_listed(list(names))}{which}", next(iter(names)))


@rule("FIL213", "warning", "a pickle under another kind's name", breaks=file("tokenizer.json", ARGUMENTS))
def disguised_pickle(subject: Subject) -> Iterator[Problem]:
    """The name promises text or data; a loader that goes by the bytes would run it.

    Fix: find out where it comes from, and delete it.
    """
    for found in _beside(subject):
        if found.is_disguised and found.program.worst in ("tensors", "state") and not found.program.endless:
            yield Problem(f"{found.shown} is a pickle by its first bytes", found.entry.shown)


@rule("FIL214", "error", "a Keras model with code in it",
      breaks=file("model.keras", zipped({"config.json": b'{"layers": [{"class_name": "Lambda"}]}'})))  # fmt: skip
def keras_lambda(subject: Subject) -> Iterator[Problem]:
    """A Lambda layer is Python bytecode, run when the model is loaded.

    Fix: delete the file; an adapter needs no Keras model.
    """
    for entry in dict.fromkeys(survey(subject).lambdas):
        yield Problem(f"{entry.shown} has a Lambda layer, which is bytecode", entry.shown)


@rule("FIL220", "info", "models of other frameworks", breaks=file("model.onnx", b"\x08\x07\x12\x07pytorch"))
def other_models(subject: Subject) -> Iterator[Problem]:
    """An ONNX, Keras, TensorFlow Lite or GGUF file beside the adapter is not looked into here, and PEFT ignores it.

    Fix: publish it on its own if it is meant to be used.
    """
    names = [entry.shown for entry in listing(subject).files if entry.name != subject.weights_name
             and (entry.suffix in _OTHERS or (entry.format is not None and entry.format.group == "model"))]  # fmt: skip
    if names:
        yield Problem(f"beside the adapter, and not looked into: {_listed(names)}", names[0])


def _file(subject: Subject) -> str:
    return printable(subject.weights_name)


def _is_binary(subject: Subject) -> bool:
    return not subject.weights_name.endswith(".safetensors")


def _pickle_error(subject: Subject) -> AdaptoolError | None:
    """Why the weights, which are a pickle, were not read."""
    return subject.store_opened.error if weights_kind(subject) in TORCH else None


def _imports(subject: Subject, grade: Trust) -> tuple[str, ...]:
    """What the weights import, of one grade."""
    own = (found for found in survey(subject).pickles if found.entry.name == subject.weights_name)
    return tuple(name for found in own for name in found.program.of(grade))


def _beside(subject: Subject) -> list[Found]:
    """The pickles that are not the weights."""
    return [found for found in survey(subject).pickles if found.entry.name != subject.weights_name]


def _compared(own: Store, other: Store) -> str:
    shapes, others = ({key: store[key].shape for key in store} for store in (own, other))
    if shapes == others:
        return "with tensors of the same names and shapes"
    odd = [key for key in {**shapes, **others} if shapes.get(key) != others.get(key)]
    return f"with other tensors: {len(odd)} differ, first {printable(odd[0])}"


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(printable(name) for name in names[:most]) + more
