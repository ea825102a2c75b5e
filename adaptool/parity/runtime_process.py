"""The process in which llama.cpp runs: it serves one ``Runtime``, and may die of a bad file without taking it along."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adaptool.errors import AdaptoolError, FormatError, UnsupportedError
from adaptool.parity.llama_cpp import Model

SILENT = -1
"""The server's verbosity: nothing, not even errors."""


def serve(descriptor: int) -> None:
    """Answer requests ``(name, arguments)`` from the connection until it is closed; errors are answers too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the connection
    os.environ["GGML_NO_BACKTRACE"] = "1"  # a failed assertion would look for a debugger first
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # else threads spin at barriers: 7 times slower on a busy machine
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(descriptor)
    session: Session | None = None
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # the libraries' destructors have nothing to save, and some of them hang
        try:
            if session is None:
                session = Session(*arguments)
                connection.send((True, session.description))
            else:
                connection.send((True, getattr(session, name)(*arguments)))
        except AdaptoolError as error:
            connection.send((False, error))


class Session:
    """One file, loaded; its methods are what a ``Runtime`` can ask."""

    def __init__(self, gguf: Path, lora: Sequence[tuple[Path, float]], context: int, threads: int) -> None:
        self.model = Model(gguf, lora, context, threads)
        self.gguf, self.lora, self.context, self.threads = gguf, lora, context, threads
        self.tokenize = self.model.tokenize
        self.log_probabilities = self.model.log_probabilities
        self.embedding = self.model.embedding
        self._server: Any = None

    @property
    def description(self) -> Mapping[str, Any]:
        """What a ``Runtime`` knows of its file."""
        return {
            "architecture": self.model.architecture,
            "vocabulary": self.model.vocabulary,
            "encoder": self.model.encoder,
            "has_chat_template": self.model.chat_template is not None,
            "file_type": int(self.model.metadata("general.file_type") or -1),
            "pooling": self.model.pooling,
        }

    def chat(self, messages: Sequence[Mapping[str, str]], max_tokens: int, temperature: float) -> str:
        """The answer to a conversation, through the file's own chat template."""
        if self.model.chat_template is None:
            raise UnsupportedError(f"{self.gguf}: it has no chat template", hint="ask with a plain prompt")
        request = {"messages": [dict(message) for message in messages], "max_tokens": max_tokens}
        answer = _checked(self.server.handle_chat_completions({**request, **_sampling(temperature)}), self.gguf)
        return str(answer["choices"][0]["message"]["content"] or "")

    def complete(self, prompt: str | Sequence[int], max_tokens: int, temperature: float) -> str:
        """What follows a prompt."""
        request = {"prompt": prompt if isinstance(prompt, str) else list(prompt), "max_tokens": max_tokens}
        answer = _checked(self.server.handle_completions({**request, **_sampling(temperature)}), self.gguf)
        return str(answer["choices"][0]["text"])

    @property
    def server(self) -> Any:
        """The wheel's own server, which knows Jinja templates; it listens on a socket in a folder of its own."""
        if self._server is None:
            self._server = self._start_server()
        return self._server

    def _start_server(self) -> Any:
        package = importlib.import_module("xllamacpp")
        self._folder = tempfile.TemporaryDirectory()
        parameters = package.CommonParams()
        parameters.model.path = str(self.gguf)
        parameters.hostnames = [f"{self._folder.name}/server.sock"]  # not a port that others can reach
        parameters.n_ctx, parameters.n_parallel, parameters.cache_ram_mib = self.context, 1, 0
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = self.threads
        parameters.verbosity, parameters.warmup, parameters.fit_params, parameters.ui = SILENT, False, False, False
        parameters.reasoning_format = package.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
        parameters.lora_adapters = [package.CommonAdapterLoraInfo(str(path), scale) for path, scale in self.lora]
        try:
            return package.Server(parameters)
        except RuntimeError as error:
            raise FormatError(f"{self.gguf}: llama.cpp's server does not start with it: {error}") from error


def _sampling(temperature: float) -> Mapping[str, float]:
    """Temperature 0 takes the best token; any other draws with a fixed seed, so that runs can be repeated."""
    return {"temperature": temperature, "seed": 0}


def _checked(answer: Mapping[str, Any], gguf: Path) -> Mapping[str, Any]:
    if "error" in answer:
        raise AdaptoolError(f"{gguf}: llama.cpp refused the request: {answer['error'].get('message', answer['error'])}")
    return answer
