"""The entry point: finds the command, words every failure, and turns it into an exit code.

0 yes or done · 1 findings, differences, failed parity · 2 usage · 3 could not be checked or done · 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import traceback

import click

import adaptool.git  # noqa: F401 (makes Git revisions something that every command can be given)
from adaptool import __version__
from adaptool.cli.console import Console
from adaptool.cli.lazy import LazyGroup
from adaptool.errors import AdaptoolError
from adaptool.tensors.locate import LAID_OUT

COMMANDS = {
    "inspect": "Show what an adapter is: type, rank, targets, size, and with --weights its spectrum.",
    "merge": "Merge adapters into a base model: streaming, in constant memory, checked.",
    "convert": "Convert a model to GGUF, an adapter to a GGUF LoRA, or a GGUF back to a model folder.",
    "verify": "Check a merged model against its base and adapter, tensor by tensor.",
    "validate": "Check adapters: broken, hostile or silently wrong ones, and whether a runtime takes them.",
    "diff": "Compare two adapters exactly, or two models: what changed, by how much, in one word.",
    "version": "Keep adapters under version: init, show, bump, tag, log, check, sign, verify, sbom.",
    "git": "Let git diff, git log -p and git difftool tell what changed in an adapter.",
    "rules": "Explain what validate checks: every rule, why it is there, and the way out.",
    "schema": "Print the JSON Schema of a file or of a command's --json.",
}
"""Name → one line."""


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    module="adaptool.cli.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example:  adaptool merge ./adapter --base ./model --out merged/",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the result and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Say more: what was taken for what, and the causes of an error.")
@click.option("--no-color", is_flag=True, help="No colour, whatever the terminal (NO_COLOR does the same).")
@click.version_option(__version__, "-V", "--version", prog_name="adaptool")
@click.pass_context
def cli(ctx: click.Context, quiet: bool, verbose: bool, no_color: bool) -> None:
    """Inspect, merge and verify LoRA adapters: streaming, in constant memory, bit-identical to PEFT."""
    ctx.obj = Console(quiet=quiet, verbose=verbose, color=False if no_color else None)


def run(args: list[str] | None = None) -> None:
    """The ``adaptool`` command."""
    # NumPy's BLAS starts a spinning thread per processor on import; adaptool runs blocks on threads of its own
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an old code page has no sign for is escaped
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(args))


def main(args: list[str] | None = None) -> int:
    """Run one command line; its exit code."""
    console, known = Console(), len(LAID_OUT)
    try:
        with cli.make_context("adaptool", list(sys.argv[1:] if args is None else args)) as context:
            console = context.obj or console
            # make_context parses the group's own options; the console is made when the group is invoked
            code = int(cli.invoke(context) or 0)
            for given in list(LAID_OUT.values())[known:]:
                (context.obj or console).detail(f"{given}: a Git revision")
            return code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "adaptool"
        return console.fail(error.format_message(), getattr(error, "hint", None) or f"see: {command} --help", code=2)
    except click.ClickException as error:
        return console.fail(error.format_message(), None, code=2)
    except (KeyboardInterrupt, click.Abort):
        return console.fail("interrupted", None, code=130)
    except AdaptoolError as error:
        _debug()
        return console.fail(error.message, error.hint, code=error.exit_code, cause=error.__cause__)
    except BrokenPipeError:
        # the reader of our stdout went away (| head): nothing is left to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 3
    except OSError as error:
        _debug()
        is_nowhere = isinstance(error, FileNotFoundError) and not error.filename  # os.getcwd() says no more
        where = f"{error.filename}: " if error.filename else "the current folder: " if is_nowhere else ""
        return console.fail(f"{where}{error.strerror or error}", None, code=3)
    except MemoryError:
        return console.fail("out of memory", "close other programs, or use fewer --workers", code=3)
    except Exception as error:
        _debug()
        message = f"internal error: {type(error).__name__}: {error}"
        return console.fail(message, "please report it; ADAPTOOL_DEBUG=1 shows where it happened", code=3)


def _debug() -> None:
    if os.environ.get("ADAPTOOL_DEBUG"):
        traceback.print_exc()
