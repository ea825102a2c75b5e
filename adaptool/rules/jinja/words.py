"""The names by which a template reaches out of its conversation, whole and in pieces."""

from __future__ import annotations

import re

HIDDEN_NAMES = {
    "ag_await", "ag_code", "ag_frame", "co_code", "co_consts", "cr_await", "cr_code", "cr_frame", "f_back",
    "f_builtins", "f_code", "f_globals", "f_locals", "func_closure", "func_code", "func_defaults", "func_dict",
    "func_globals", "gi_code", "gi_frame", "gi_yieldfrom", "im_class", "im_func", "im_self", "mro", "tb_frame",
    "tb_next",
}  # fmt: skip
"""Attributes of Python's functions, generators and frames: jinja2.sandbox refuses them too."""

CALLED_NAMES = {"builtins", "eval", "exec", "getattr", "globals", "import_module", "load_module", "popen", "subclasses",
                "system"}  # fmt: skip
"""Harmless as keys of a message, and not as what is called."""

DUNDERS = re.compile(
    r"__(?:class|bases?|mro|subclasses|globals|builtins|import|init|new|call|getattr(?:ibute)?|getitem|setattr|delattr|"
    r"dict|dir|code|closure|func|self|module|reduce(?:_ex)?|loader|spec|subclasshook|init_subclass|class_getitem|"
    r"wrapped|traceback|context|kwdefaults|defaults|mro_entries|objclass|build_class|weakref|slots|name|qualname)__"
)
"""Python's own names, where a longer text holds them."""

HALVES = ("__class__", "__bases__", "__base__", "__mro__", "__subclasses__", "__globals__", "__builtins__",
          "__import__", "__init__", "__getattribute__", "__dict__", "__getitem__", "__code__",
          "__reduce__")  # fmt: skip

PIECES = {
    "class",
    "globals",
    "builtins",
    "subclasses",
    "mro",
    "bases",
    "base",
    "init",
    "import",
    "getattribute",
    "reduce",
}
"""What is left of those names when the underscores come from elsewhere."""

STRANGERS = {
    "__import__", "application", "builtins", "compile", "config", "current_app", "cycler", "environ", "eval", "exec",
    "getattr", "get_flashed_messages", "globals", "import_module", "lipsum", "locals", "open", "os", "popen", "request",
    "self", "session", "setattr", "subprocess", "sys", "url_for", "vars",
}  # fmt: skip
"""What a web application's templates have, or an attack hopes for: no conversation does."""


def is_half(text: str) -> bool:
    """Whether it is the beginning or the end of one of Python's names, and not the whole of it."""
    return len(text) >= 4 and any(name.startswith(text) or name.endswith(text) for name in HALVES) and "__" in text
