"""The command line: what goes to which stream, how failures are worded, and which exit code says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from making import entry, llama, lora, lora_config, pack, tree, write_json

from adaptool import __version__
from adaptool.cli.console import Console, printable
from adaptool.cli.lazy import every_command
from adaptool.cli.main import cli, main
from adaptool.cli.options import parse_size, weighted
from adaptool.errors import UsageError

RUN = [sys.executable, "-c", "from adaptool.cli.main import run; run()"]
STARTS = 2.5
HELP_SECONDS = 0.4
"""CPU time of --help and of inspect on a 40 MB adapter: what feels instant."""

HEAVY = ("torch", "transformers", "peft", "safetensors", "huggingface_hub", "pandas", "scipy")


@pytest.fixture
def base(tmp_path):
    return str(llama(tmp_path / "base"))


@pytest.fixture
def adapter(tmp_path):
    return str(lora(tmp_path / "adapter"))


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def run(capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def command(*args: str) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def in_a_shell(*args: str, **more: object) -> subprocess.CompletedProcess:
    return subprocess.run([*RUN, *map(str, args)], capture_output=True, text=True, timeout=60, **more)


def is_worded(stderr: str, hint: bool = True) -> bool:
    """One line that begins with error:, then at most one that begins with hint:."""
    lines = [line for line in stderr.splitlines() if not line.startswith("note: ")]
    return (
        bool(lines)
        and lines[0].startswith("error: ")
        and len(lines) <= 2
        and all(line.startswith("hint: ") for line in lines[1:])
        and (not hint or len(lines) == 2)
    )


def test_version(run):
    assert run("--version") == (0, f"adaptool, version {__version__}\n", "")
    assert run("-V")[0] == 0


ALL = [words for words, _ in every_command(cli)]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("words", [(), *ALL], ids=" ".join)
def test_every_command_has_help_with_an_example(run, words, flag):
    code, stdout, stderr = run(*words, flag)
    assert (code, stderr) == (0, "")
    assert "Usage: adaptool" in stdout
    example = stdout.partition("Example:")[2].split()
    assert tuple(example[: 1 + len(words)]) == (
        "adaptool",
        *words,
    )
    assert all(len(line) <= 100 for line in stdout.splitlines())


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_an_example_in_help_parses(words):
    """Every option the examples use exists, in a group those of the command it shows."""
    commands = dict(every_command(cli))
    example = commands[words].epilog.partition("Example:")[2].split()[1:]
    shown = commands.get(tuple(example[:2])) or commands[(example[0],)]
    known = {option for parameter in shown.params for option in parameter.opts}
    assert {word for word in example if word.startswith("--")} <= known


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_option_is_explained(words):
    for parameter in dict(every_command(cli))[words].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
            assert parameter.help.endswith((".", "…", ")")) or "?" in parameter.help, parameter.opts


def test_no_command_prints_the_help(run):
    code, stdout, _ = run()
    assert code == 2
    assert "Commands:" in stdout


@pytest.mark.parametrize(
    ("typed", "meant"), [("inspct", "inspect"), ("mrge", "merge"), ("verfy", "verify"), ("shema", "schema")]
)
def test_did_you_mean(run, typed, meant):
    code, stdout, stderr = run(typed, "x")
    assert (code, stdout) == (2, "")
    assert is_worded(stderr)
    assert f"hint: did you mean: adaptool {meant}" in stderr


def test_a_command_far_from_any(run):
    code, _, stderr = run("frobnicate")
    assert code == 2
    assert "hint: see: adaptool --help" in stderr


@pytest.mark.parametrize(
    "args",
    [
        ["--frob"],
        ["merge"],
        ["merge", "x"],
        ["merge", "x", "--base", "y"],
        ["merge", "x", "--base", "y", "--out", "z", "--frob"],
        ["merge", "x", "--base", "y", "--out", "z", "--workers", "0"],
        ["merge", "x", "--base", "y", "--out", "z", "--workers", "many"],
        ["merge", "x", "--base", "y", "--out", "z", "--rounding", "up"],
        ["merge", "x", "--base", "y", "--out", "z", "--device", "tpu"],
        ["merge", "x", "--base", "y", "--out", "z", "--dtype", "int8"],
        ["merge", "x", "--base", "y", "--out", "z", "--dtype", "float17"],
        ["merge", "x", "--base", "y", "--out", "z", "--shard-size", "big"],
        ["merge", "x", "--base", "y", "--out", "z", "--shard-size", "0"],
        ["merge", "x:nan", "--base", "y", "--out", "z"],
        ["merge", ":0.5", "--base", "y", "--out", "z"],
        ["merge", "", "--base", "y", "--out", "z"],
        ["inspect"],
        ["verify", "x"],
        ["schema", "nothing"],
    ],
    ids=" ".join,
)
def test_a_wrong_request_exits_2(run, args):
    code, stdout, stderr = run(*args)
    assert (code, stdout) == (2, "")
    assert is_worded(stderr)


@pytest.mark.parametrize("dtype", ["int8", "bool", "F8_E4M3"])
def test_a_type_that_cannot_be_written_is_refused_before_any_work(run, base, adapter, out, dtype, tmp_path):
    code, _, stderr = run("merge", adapter, "--base", base, "--out", out, "--dtype", dtype)
    assert code == 2
    assert is_worded(stderr)
    assert not (tmp_path / "out.partial").exists()


MISSING = {
    "no adapter": ["merge", "nowhere", "--base", "BASE", "--out", "OUT"],
    "no base": ["merge", "ADAPTER", "--base", "nowhere", "--out", "OUT"],
    "a hub id": ["merge", "org/name", "--base", "BASE", "--out", "OUT"],
    "a url": ["merge", "s3://bucket/x", "--base", "BASE", "--out", "OUT"],
    "nobody's home": ["merge", "~nobody-at-all/x", "--base", "BASE", "--out", "OUT"],
    "a path too long": ["merge", "x" * 5000, "--base", "BASE", "--out", "OUT"],
    "a model for an adapter": ["merge", "BASE", "--base", "BASE", "--out", "OUT"],
    "an adapter for a base": ["merge", "ADAPTER", "--base", "ADAPTER", "--out", "OUT"],
    "inspect": ["inspect", "nowhere"],
    "verify": ["verify", "nowhere", "--base", "BASE", "--adapter", "ADAPTER"],
}


@pytest.mark.parametrize("name", MISSING)
def test_what_cannot_be_done_exits_3(run, base, adapter, out, name):
    words = {"BASE": base, "ADAPTER": adapter, "OUT": out}
    code, stdout, stderr = run(*[words.get(word, word) for word in MISSING[name]])
    assert (code, stdout) == (3, "")
    assert is_worded(stderr, hint=False)
    assert "internal error" not in stderr


def test_merge_prints_where_it_wrote(run, base, adapter, out):
    code, stdout, stderr = run("merge", adapter, "--base", base, "--out", out)
    assert (code, stdout) == (0, f"{out}\n")
    assert stderr
    assert (Path(out) / "model.safetensors").is_file()


def test_quiet_says_nothing_else(run, base, adapter, out):
    assert run("-q", "merge", adapter, "--base", base, "--out", out) == (0, f"{out}\n", "")
    code, stdout, stderr = run("-q", "merge", adapter, "--base", base, "--out", out)
    assert (code, stdout) == (2, "")
    assert is_worded(stderr)


def test_notes_go_to_stderr(run, base, tmp_path, out):
    named = lora(tmp_path / "named", base_model_name_or_path="org/other")
    code, stdout, stderr = run("merge", named, "--base", base, "--out", out)
    assert (code, stdout) == (0, f"{out}\n")
    assert "note: " in stderr
    assert "org/other" in stderr


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["merge", "dry run"])
def test_json_is_json_alone_and_fits_its_schema(run, base, adapter, out, more):
    jsonschema = pytest.importorskip("jsonschema")
    code, stdout, _ = run("merge", adapter, "--base", base, "--out", out, "--json", *more)
    assert code == 0
    result = json.loads(stdout)
    kind = result["schema"].split("/")[1]
    assert kind == ("merge-plan" if more else "merge")
    code, schema, stderr = run("schema", kind)
    assert (code, stderr) == (0, "")
    jsonschema.Draft202012Validator(json.loads(schema)).validate(result)


def test_schema_lists_what_there_is(run):
    code, stdout, stderr = run("schema")
    assert (code, stderr) == (0, "")
    assert {"inspect", "manifest", "merge", "merge-plan"} <= {line.split()[0] for line in stdout.splitlines()}


def test_a_dry_run_writes_nothing(run, base, adapter, out, tmp_path):
    before = tree(tmp_path), sorted(path.name for path in tmp_path.iterdir())
    code, stdout, _ = run("merge", adapter, "--base", base, "--out", out, "--dry-run")
    assert code == 0
    assert stdout
    assert before == (tree(tmp_path), sorted(path.name for path in tmp_path.iterdir()))


def test_a_dry_run_repairs_nothing(run, base, adapter, out, tmp_path):
    run("merge", adapter, "--base", base, "--out", out)
    Path(out).rename(out + ".displaced")
    run("merge", adapter, "--base", base, "--out", out, "--dry-run", "--overwrite")
    assert not Path(out).exists()
    assert Path(out + ".displaced").exists()


def test_a_dry_run_refuses_what_a_run_would(run, base, adapter, out):
    Path(out).mkdir()
    (Path(out) / "mine").write_text("mine")
    code, stdout, stderr = run("merge", adapter, "--base", base, "--out", out, "--dry-run", "--overwrite")
    assert (code, stdout) == (2, "")
    assert is_worded(stderr)


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a", "a", 1.0), ("a:0.5", "a", 0.5), ("a:-1", "a", -1.0), ("a:2e-3", "a", 0.002), ("a:b", "a:b", 1.0),
        ("a:b:0.5", "a:b", 0.5), ("/x/y:3", "/x/y", 3.0), ("./a:", "./a:", 1.0), ("a:0x10", "a:0x10", 1.0),
        ("org/name:0.5", "org/name", 0.5), ("s3://b/x", "s3://b/x", 1.0),
    ],
)  # fmt: skip
def test_weights(text, path, weight):
    assert weighted(text) == (Path(path), weight)


@pytest.mark.parametrize("text", ["a:nan", "a:inf", "a:-inf", "a:Infinity", ":0.5", ""])
def test_weights_that_are_none(text):
    with pytest.raises(UsageError):
        weighted(text)


def test_a_folder_with_a_colon_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:2").mkdir()
    assert weighted("a:2") == (Path("a:2"), 1.0)
    assert weighted("a:2:0.5") == (Path("a:2"), 0.5)


def test_a_weight_reaches_the_merge(run, base, adapter, tmp_path):
    for weight in ("1", "0.5"):
        assert run("merge", f"{adapter}:{weight}", "--base", base, "--out", tmp_path / weight)[0] == 0
    assert tree(tmp_path / "1")["model.safetensors"] != tree(tmp_path / "0.5")["model.safetensors"]
    assert json.loads((tmp_path / "0.5" / "adaptool.json").read_text())["adapters"][0]["weight"] == 0.5


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1GiB", 2**30), ("1.5KB", 1500), ("1048576", 1048576),
     (" 2 g ", 2 * 10**9), ("10B", 10), ("1tb", 10**12)],
)  # fmt: skip
def test_sizes(text, size):
    assert size == parse_size(text)


@pytest.mark.parametrize("text", ["", "GB", "0", "-1", "0.5B", "1PB", "1e9", "five", "1 2", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError):
        parse_size(text)


EVIL = "\x1b[2J\x1b]0;owned\x07\nerror: all your base\r\x9b31m\u202egnp.exe"


def evil_adapter(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(pack({EVIL: entry("F32", [1], 0, 4)}, bytes(4)))
    write_json(folder / "adapter_config.json", lora_config())
    return str(folder)


def is_tame(text: str) -> bool:
    """Nothing in it moves the cursor, changes a colour, rings a bell or turns the line around."""
    return not any(
        (ord(c) < 32 and c not in "\n")
        or 127 <= ord(c) < 160
        or c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        for c in text
    )


def test_control_characters_in_names_are_escaped(run, base, out, tmp_path):
    code, stdout, stderr = run("merge", evil_adapter(tmp_path / "evil"), "--base", base, "--out", out)
    assert (code, stdout) == (3, "")
    assert is_tame(stderr)
    assert is_worded(stderr)


@pytest.mark.parametrize("flag", [[], ["--json"], ["--base", "BASE"]], ids=str)
def test_control_characters_are_escaped_by_inspect(run, base, tmp_path, flag):
    _, stdout, stderr = run(
        "-v", "inspect", evil_adapter(tmp_path / "evil"), *[base if word == "BASE" else word for word in flag]
    )
    assert is_tame(stdout)
    assert is_tame(stderr)
    assert not [line for line in (stdout + stderr).splitlines() if line.startswith("error: all your base")]


def test_control_characters_in_a_path_are_escaped(run, base, out):
    code, _, stderr = run("merge", EVIL, "--base", base, "--out", out)
    assert code == 3
    assert is_tame(stderr)
    assert is_worded(stderr, hint=False)


def test_printable_keeps_what_can_be_read():
    assert printable("ünï ✓ 日本 a b") == "ünï ✓ 日本 a b"
    assert is_tame(printable("".join(map(chr, range(0x2100)))))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_that_is_no_unicode(base, adapter, tmp_path):
    """A path of arbitrary bytes: merged, and printed somehow."""
    odd = os.fsencode(tmp_path) + b"/out-\xff"
    shutil.copytree(adapter, os.fsdecode(os.fsencode(tmp_path) + b"/adapter-\xfe"))
    command = [*RUN, "merge", os.fsencode(tmp_path) + b"/adapter-\xfe", "--base", base, "--out", odd]
    found = subprocess.run(command, capture_output=True, timeout=60)
    assert b"internal error" not in found.stderr
    assert found.returncode == 0
    assert os.path.exists(odd + b"/adaptool.json")  # noqa: PTH110


def test_verbose_tells_the_causes(run, base, adapter, out):
    Path(adapter, "adapter_config.json").unlink()
    Path(adapter, "adapter_config.json").mkdir()
    code, _, stderr = run("-v", "merge", adapter, "--base", base, "--out", out)
    assert code == 3
    assert stderr.startswith("error: ")


def test_a_traceback_only_when_asked(base, out, tmp_path):
    plain = in_a_shell("merge", tmp_path / "nowhere", "--base", base, "--out", out)
    assert plain.returncode == 3
    assert "Traceback" not in plain.stderr
    asked = in_a_shell(
        "merge", tmp_path / "nowhere", "--base", base, "--out", out, env=os.environ | {"ADAPTOOL_DEBUG": "1"}
    )
    assert asked.returncode == 3
    assert "Traceback" in asked.stderr


def test_a_bug_is_called_one(run, base, adapter, out, monkeypatch):
    def broken(*_: object, **__: object):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("adaptool.api.merge", broken)
    code, stdout, stderr = run("merge", adapter, "--base", base, "--out", out)
    assert (code, stdout) == (3, "")
    assert is_worded(stderr)
    assert "internal error: ZeroDivisionError" in stderr
    assert "ADAPTOOL_DEBUG=1" in stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (MemoryError(), 3), (PermissionError(13, "Permission denied", "/x"), 3)],
)
def test_other_ends(run, base, adapter, out, monkeypatch, error, code):
    def ends(*_: object, **__: object):
        raise error

    monkeypatch.setattr("adaptool.api.merge", ends)
    found, stdout, stderr = run("merge", adapter, "--base", base, "--out", out)
    assert (found, stdout) == (code, "")
    assert is_worded(stderr, hint=False)


def test_a_reader_that_goes_away(base, adapter):
    command = " ".join([f"'{word}'" for word in RUN]) + " merge --help | true"
    found = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


def test_colour_only_on_a_terminal(base, out, tmp_path):
    found = in_a_shell("merge", tmp_path / "nowhere", "--base", base, "--out", out)
    assert "\x1b" not in found.stderr + found.stdout


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_can_be_refused(monkeypatch, plain):
    for name, value in plain.items():
        monkeypatch.setenv(name, value)
    assert not Console().color


IMPORTS = """
import sys, time
from adaptool.cli.main import main
code = main(sys.argv[1:])
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "args",
    [["--help"], ["merge", "--help"], ["inspect", "ADAPTER"], ["merge", "ADAPTER", "--base", "BASE", "--out", "OUT"]],
    ids=lambda a: " ".join(a)[:14],
)
def test_torch_is_never_imported(base, adapter, out, args):
    words = {"BASE": base, "ADAPTER": adapter, "OUT": out}
    script = IMPORTS.format(heavy=HEAVY)
    command = [sys.executable, "-c", script, *[words.get(arg, arg) for arg in args]]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines()[-1] == "[]"


TIMED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def cpu_seconds(*command: object) -> float:
    """User and system time of a process, the least of a few: other work on the machine is not its fault."""
    timed = [sys.executable, "-c", TIMED, *map(str, command)]
    return min(float(subprocess.check_output(timed, text=True, timeout=60)) for _ in range(5))


@pytest.fixture
def instant(tmp_path, monkeypatch) -> float:
    """Seconds of CPU that feel instant; on a slower machine, so many times what importing NumPy costs there."""
    # byte code is kept, as for every user after the first call
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "cache"))
    return max(HELP_SECONDS, STARTS * cpu_seconds(sys.executable, "-c", "import numpy"))


def test_help_is_instant(instant):
    assert cpu_seconds(*RUN, "--help") < instant


def test_inspect_of_40_mb_is_instant(tmp_path, instant):
    large = lora(tmp_path / "large", layers=65, rank=256, targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj"))
    assert (large / "adapter_model.safetensors").stat().st_size > 40e6
    assert cpu_seconds(*RUN, "inspect", large) < instant
