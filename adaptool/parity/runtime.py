"""A GGUF's behaviour in llama.cpp: its tokens, its next-token distributions, its answers (extra ``[runtime]``).

The runtime lives in a process of its own: a file it cannot bear may abort that process, which here becomes an error
with the runtime's own words. Its noise goes to a file nobody sees unless it dies. The model is mapped, not read.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from adaptool.errors import AdaptoolError, FormatError, NotFoundError, UnsupportedError
from adaptool.jobs import default_workers
from adaptool.parity.llama_cpp import HINT, Pooling
from adaptool.tensors.dtypes import Floats

CONTEXT = 512
"""Tokens: more than any prompt of a check, little enough that its buffers weigh a few MiB."""

PATIENCE = 5.0
"""Seconds a closed runtime gets to end by itself."""

Message = Mapping[str, str]
"""``{"role": "user", "content": "…"}``."""


class Runtime:
    """A GGUF loaded in llama.cpp; made by ``open_runtime``."""

    def __init__(
        self, gguf: Path, process: subprocess.Popen[bytes], connection: Connection, log: Path, arguments: Sequence[Any]
    ) -> None:
        self.gguf = gguf
        self.context: int = arguments[2]
        """How many tokens can be run together."""
        self._process, self._connection, self._log = process, connection, log
        description = self._ask("open", *arguments)
        self.architecture: str = description["architecture"]
        self.vocabulary: int = description["vocabulary"]
        """How many tokens it knows: the width of every distribution."""
        self.encoder: bool = description["encoder"]
        """Whether it is one like BERT: it has embeddings and predicts nothing."""
        self.has_chat_template: bool = description["has_chat_template"]
        self.file_type: int = description["file_type"]
        """``general.file_type``; -1 where the file does not say."""
        self.pooling: Pooling = description["pooling"]
        """What ``embedding`` makes of a text's positions."""

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """The token ids of a text, with the BOS, EOS, CLS or SEP that the file asks for unless ``add_special`` is off.

        Special tokens spelled out in the text count as themselves, as in Hugging Face's tokenizers.
        """
        return list(self._ask("tokenize", text, add_special))

    def log_probabilities(self, tokens: Sequence[int]) -> Floats:
        """float32 (positions, vocabulary): after each token the whole log-softmax of the next, in nats.

        No token is added: ``tokens`` begins with a BOS where the model expects one. Raises UnsupportedError for an
        encoder, and for more tokens than the context takes.
        """
        found: Floats = self._ask("log_probabilities", [int(token) for token in tokens])
        return found

    def embedding(self, text: str | Sequence[int]) -> Floats:
        """float32, not normalised: (width,) pooled as the file says, (positions, width) where it does not pool."""
        tokens = self.tokenize(text) if isinstance(text, str) else [int(token) for token in text]
        found: Floats = self._ask("embedding", tokens)
        return found

    def generate(
        self, prompt: str | Sequence[Message], max_tokens: int = 64, *, temperature: float = 0.0, template: bool = True
    ) -> str:
        """The model's answer: to a user's ``prompt`` or a conversation, through the file's chat template.

        Without a template in the file, or with ``template`` off, a prompt is continued as it stands.
        """
        if isinstance(prompt, str):
            if not (template and self.has_chat_template):
                return str(self._ask("complete", prompt, max_tokens, temperature))
            prompt = [{"role": "user", "content": prompt}]
        return str(self._ask("chat", [dict(message) for message in prompt], max_tokens, temperature))

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            self._connection.send((name, arguments))
            good, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if not good:
            raise answer
        return answer

    def _died(self) -> AdaptoolError:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        lines = [line.strip() for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return FormatError(
            f"{self.gguf}: llama.cpp died of it ({how}): {lines[-1] if lines else 'without a word'}",
            hint="the file may be truncated or damaged",
        )


@contextmanager
def open_runtime(
    gguf: Path, *, lora: Sequence[tuple[Path, float]] = (), context: int = CONTEXT, threads: int | None = None
) -> Iterator[Runtime]:
    """Load a GGUF, with GGUF adapters at their scales on top, in a process that ends with the context manager.

    Raises UnsupportedError without the extra, NotFoundError for a missing file, and FormatError with llama.cpp's
    reason where it rejects the model or an adapter.
    """
    if find_spec("xllamacpp") is None:
        raise UnsupportedError("running a GGUF needs xllamacpp, which is not installed", hint=HINT)
    for path in (gguf, *(path for path, _ in lora)):
        if not path.is_file():
            raise NotFoundError(f"{path}: there is no such file")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        ours, theirs = Pipe()
        with ours:
            process = _start(theirs, log)
            try:
                absolute = [(path.resolve(), float(scale)) for path, scale in lora]
                arguments = (gguf.resolve(), absolute, context, threads or default_workers())
                yield Runtime(gguf, process, ours, log, arguments)
            finally:
                ours.close()
                _end(process)


def _start(connection: Connection, log: Path) -> subprocess.Popen[bytes]:
    """This interpreter again, with this one's import path; the user's main module is not run a second time."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from adaptool.parity.runtime_process import serve; serve({{}})"
    with connection, log.open("wb") as noise:
        return subprocess.Popen(
            [sys.executable, "-c", code.format(connection.fileno())],
            stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, pass_fds=[connection.fileno()],
        )  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
