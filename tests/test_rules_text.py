"""Hostile text beside the weights: configs that are no JSON, names that lead astray, secrets, chat templates."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest

from adaptool.rules.configs.whereabouts import kind_of, suggestion
from adaptool.rules.draft import CONFIG, Draft
from adaptool.rules.engine import Options, validate
from adaptool.rules.files.credentials import tokens
from adaptool.rules.files.logins import assignments, logins, private_keys
from adaptool.rules.selection import EVERYTHING, Selection

OURS = ("FIL3", "FIL4", "CFG0", "CFG4")
CONFIG_NAME = "adapter_config.json"
RANDOM = "QmXb7RkTz2LpWv9sYc4NdJf8GhUeAoViKwPt5DqS1aZ6nBy3MxHgEjFuLrCk0IwO"
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def found(draft: Draft, folder, purpose="validate") -> dict[str, str]:
    """The codes of these families and their severities; every rule selected, none with an internal error."""
    adapter, _ = draft.write(folder)
    report = validate([adapter], options=Options(Selection((EVERYTHING,)), purpose=purpose)).results[0]
    assert [unchecked for unchecked in report.unchecked if "internal error" in unchecked.reason] == []
    assert all(len(finding.message) < 400 for finding in report.findings)
    return {finding.code: finding.severity for finding in reversed(report.findings) if finding.code.startswith(OURS)}


def messages(draft: Draft, folder, code: str) -> list[str]:
    """What is said under one code."""
    adapter, _ = draft.write(folder)
    report = validate([adapter], options=Options(Selection((EVERYTHING,)))).results[0]
    return [finding.message for finding in report.findings if finding.code == code]


def with_config(content: bytes) -> Draft:
    """The good draft with another config's bytes."""
    return Draft(files={CONFIG_NAME: content})


def with_fields(**values: object) -> Draft:
    """The good draft with fields of its config set."""
    return Draft(config={**CONFIG, **values})


def preceded(by: str) -> bytes:
    """The good config with text before its first field."""
    return ("{" + by + json.dumps(CONFIG)[1:]).encode()


BROKEN = {
    "empty": (b"", "CFG001"),
    "blank": (b" \n\t\n", "CFG001"),
    "zeros": (bytes(900), "CFG001"),
    "a trailing comma": (b'{"peft_type": "LORA",}', "CFG002"),
    "single quotes": (b"{'peft_type': 'LORA'}", "CFG002"),
    "a comment": (b'{"peft_type": "LORA"} // mine', "CFG002"),
    "cut off": (json.dumps(CONFIG).encode()[:300], "CFG002"),
    "an error page": (b"<!DOCTYPE html><html>404</html>", "CFG002"),
    "two documents": (b'{"peft_type": "LORA"}{"peft_type": "IA3"}', "CFG002"),
    "UTF-16 with a mark": ('{"peft_type": "LORA"}'.encode("utf-16"), "CFG003"),
    "UTF-16 without one": ('{"peft_type": "LORA"}'.encode("utf-16-le"), "CFG003"),
    "UTF-32": ('{"peft_type": "LORA"}'.encode("utf-32-be"), "CFG003"),
    "Latin-1": ('{"peft_type": "LORA", "note": "Größe"}'.encode("latin-1"), "CFG003"),
    "a byte order mark": (json.dumps(CONFIG).encode("utf-8-sig"), "CFG004"),
    "a key twice": (preceded('"r": 64,'), "CFG005"),
    "a nested key twice": (
        preceded('"rank_pattern": {"a": 1, "a": 2},').replace(b', "rank_pattern": {}', b""),
        "CFG005",
    ),
    "NaN": (preceded('"x": NaN,'), "CFG006"),
    "minus infinity": (preceded('"x": -Infinity,'), "CFG006"),
    "a list": (b'[{"peft_type": "LORA"}]', "CFG007"),
    "a text": (b'"LORA"', "CFG007"),
    "null": (b"null", "CFG007"),
    "brackets": (b"[" * 200_000, "CFG008"),
    "braces": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "CFG008"),
    "forty levels": (preceded('"note": ' + "[" * 40 + "]" * 40 + ","), "CFG008"),
    "megabytes": (b"{" + b" " * (5 << 20) + b"}", "CFG009"),
    "a hundred thousand values": (preceded('"note": [' + '"",' * 100_000 + '""],'), "CFG009"),
    "an integer of 5000 digits": (preceded(f'"lora_alpha": {"9" * 5000},'), "CFG010"),
    "a lone surrogate": (preceded(r'"note": "\ud83d",'), "CFG011"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_config_is_one_error(name, tmp_path):
    content, code = BROKEN[name]
    assert {code: "error"} == {c: s for c, s in found(with_config(content), tmp_path).items() if s == "error"}


def test_a_git_lfs_pointer_is_not_this_familys(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + HEX.encode() + b"\nsize 900\n"
    assert found(with_config(pointer), tmp_path) == {}


def test_both_values_of_a_key_are_said(tmp_path):
    text = messages(with_config(preceded('"r": 64,')), tmp_path, "CFG005")[0]
    assert text == f'"r" stands 2 times: PEFT takes the last, {CONFIG["r"]}, other parsers the first, 64'


FIELDS = {
    "an overflowing float": ({"lora_alpha": float("1e308")}, {}),
    "a 70-bit integer": ({"lora_alpha": 2**70}, {"CFG010": "error"}),
    "an escape code": ({"base_model_name_or_path": "gpt2\x1b[2J"}, {"CFG012": "error", "CFG406": "warning"}),
    "a reversed name": ({"base_model_name_or_path": "gpt2\u202egpj"}, {"CFG012": "error", "CFG406": "warning"}),
    "a zero width in a target": ({"target_modules": ["q_\u200bproj"]}, {"CFG012": "error"}),
    "a NUL in a key": ({"rank_pattern": {"q\0": 4}}, {"CFG012": "error"}),
    "prose of many lines": ({"prompt_tuning_init_text": "Une ligne\nune autre\t– naïve, 你好, שלום"}, {}),
    "an override in prose": ({"prompt_tuning_init_text": "a\u202eb"}, {"CFG012": "error"}),
    "no type": ({"peft_type": None}, {"CFG023": "error"}),
    "a type in a list": ({"peft_type": ["LORA"]}, {"CFG024": "error"}),
    "a number as type": ({"peft_type": 7}, {"CFG024": "error"}),
    "a type in small letters": ({"peft_type": "lora"}, {"CFG025": "error"}),
    "a misspelt type": ({"peft_type": "LORRA"}, {"CFG025": "error"}),
    "BONE": ({"peft_type": "BONE"}, {"CFG026": "warning"}),
    "a newer type": ({"peft_type": "HYPERLORA", "peft_version": "0.30.0"}, {"CFG025": "error", "CFG430": "info"}),
    "no base": ({"base_model_name_or_path": None}, {"CFG401": "info"}),
    "an empty base": ({"base_model_name_or_path": ""}, {"CFG401": "warning"}),
    "an absolute base": ({"base_model_name_or_path": "/data/models/llama"}, {"CFG402": "warning"}),
    "a home": ({"base_model_name_or_path": "~/models/llama"}, {"CFG402": "warning"}),
    "a drive": ({"base_model_name_or_path": "C:\\Users\\ana\\llama"}, {"CFG402": "warning", "FIL310": "info"}),
    "a share": ({"base_model_name_or_path": "\\\\server\\share\\llama"}, {"CFG402": "error"}),
    "a variable": ({"base_model_name_or_path": "$HOME/llama"}, {"CFG402": "warning"}),
    "climbing out": ({"base_model_name_or_path": "../../etc/passwd"}, {"CFG403": "error"}),
    "climbing out of an id": ({"base_model_name_or_path": "meta-llama/../../evil"}, {"CFG403": "error"}),
    "climbing out of Windows": ({"base_model_name_or_path": "..\\..\\evil"}, {"CFG403": "error"}),
    "a page": ({"base_model_name_or_path": "https://huggingface.co/gpt2"}, {"CFG404": "error"}),
    "a file address": ({"base_model_name_or_path": "file:///etc/passwd"}, {"CFG404": "error"}),
    "a repository": ({"base_model_name_or_path": "git@github.com:a/b.git"}, {"CFG404": "error"}),
    "an address with a login": (
        {"base_model_name_or_path": "https://ana:s3cr3t-w0rd@models.example.org/llama"},
        {"CFG404": "error", "FIL303": "error"},
    ),
    "a bucket": ({"base_model_name_or_path": "s3://models/llama"}, {"CFG404": "warning"}),
    "a relative base": ({"base_model_name_or_path": "./llama"}, {"CFG405": "warning"}),
    "a deep relative base": ({"base_model_name_or_path": "out/run/checkpoint-500"}, {"CFG405": "warning"}),
    "words": ({"base_model_name_or_path": "my good llama"}, {"CFG406": "warning"}),
    "Cyrillic": ({"base_model_name_or_path": "metа-llama/Llama-3.2-1B"}, {"CFG406": "error"}),
    "itself": ({"base_model_name_or_path": "./"}, {"CFG407": "error"}),
    "an unpinned base": ({"revision": None}, {"CFG410": "info"}),
    "a branch": ({"revision": "main"}, {"CFG410": "info"}),
    "a tag": ({"revision": "v1.0"}, {}),
    "a pull request": ({"revision": "refs/pr/12"}, {}),
    "a revision with blanks": ({"revision": "last one"}, {"CFG411": "warning"}),
    "an option": ({"revision": "--upload-pack=touch x"}, {"CFG411": "error"}),
    "a climbing revision": ({"revision": "../../main"}, {"CFG411": "error"}),
    "a commit cut short": ({"revision": HEX[:38]}, {"CFG411": "warning"}),
    "auto_mapping of os": (
        {"auto_mapping": {"parent_library": "os", "base_model_class": "System"}},
        {"CFG420": "error"},
    ),
    "auto_mapping of a look-alike": (
        {"auto_mapping": {"parent_library": "transformersx.models", "base_model_class": "A"}},
        {"CFG420": "error"},
    ),
    "auto_mapping of a path": (
        {"auto_mapping": {"parent_library": "../evil", "base_model_class": "A"}},
        {"CFG420": "error"},
    ),
    "auto_mapping of a function": (
        {"auto_mapping": {"parent_library": "evil.payload", "base_model_class": "run"}},
        {"CFG420": "error"},
    ),
    "auto_mapping of the author's module": (
        {"auto_mapping": {"parent_library": "my_nets.conv", "base_model_class": "ConvNet"}},
        {"CFG420": "warning"},
    ),
    "auto_mapping of remote code": (
        {"auto_mapping": {"parent_library": "transformers_modules.a.b", "base_model_class": "A"}},
        {"CFG420": "warning"},
    ),
    "auto_mapping of a script": (
        {"auto_mapping": {"parent_library": "__main__", "base_model_class": "Net"}},
        {"CFG420": "info"},
    ),
    "auto_mapping as PEFT writes it": (
        {"auto_mapping": {"parent_library": "transformers.models.bert.modeling_bert", "base_model_class": "BertModel"}},
        {},
    ),
    "auto_mapping of torch": (
        {"auto_mapping": {"parent_library": "torch.nn.modules.container", "base_model_class": "Sequential"}},
        {},
    ),
    "auto_mapping as text": ({"auto_mapping": "os.system"}, {"CFG421": "error"}),
    "auto_mapping of a call": (
        {"auto_mapping": {"parent_library": "transformers", "base_model_class": "a.b()"}},
        {"CFG421": "error"},
    ),
    "auto_map": ({"auto_map": {"AutoModel": "evil.Model"}}, {"CFG422": "error"}),
    "nested auto_map": ({"megatron_config": {"a": [{"auto_map": {"B": "c.D"}}]}}, {"CFG422": "error"}),
    "trust_remote_code": ({"trust_remote_code": True}, {"CFG422": "error"}),
    "dunders in a name": ({"base_model_name_or_path": "org/dpo__v1__x"}, {}),
    "a pattern with brackets": ({"target_modules": r".*eval(uator)?\.(q|v)_proj"}, {}),
    "no trust": ({"trust_remote_code": False, "auto_map": None}, {}),
    "hydra": ({"eva_config": {"_target_": "os.system"}}, {"CFG422": "error"}),
    "jsonpickle": ({"loftq_config": {"py/object": "subprocess.Popen"}}, {"CFG422": "error"}),
    "code in a value": ({"target_modules": "__import__('os').system('id')"}, {"CFG422": "error"}),
    "code in a key": ({"rank_pattern": {"__import__('os').system('id')": 4}}, {"CFG422": "error"}),
    "megatron_core": ({"megatron_core": "subprocess"}, {"CFG423": "error"}),
    "another megatron": ({"megatron_core": "megatron.legacy"}, {"CFG423": "warning"}),
    "no megatron": ({"megatron_core": None}, {}),
    "a runtime setting": ({"runtime_config": {"ephemeral_gpu_offload": True}}, {"CFG424": "info"}),
    "a newer PEFT": ({"peft_version": "1.2.0"}, {"CFG430": "info"}),
    "a development PEFT": ({"peft_version": "0.18.2.dev0@1a2b3c4"}, {}),
    "a PEFT of unknown commit": ({"peft_version": "0.17.2.dev0@UNKNOWN"}, {}),
    "no version": ({"peft_version": "latest"}, {"CFG431": "warning"}),
    "a version that is long": ({"peft_version": "0." * 5000}, {"CFG431": "warning"}),
    "a version as number": ({"peft_version": 0.18}, {"CFG431": "warning"}),
    "an unknown task": ({"task_type": "TEXT_GENERATION"}, {"CFG432": "error"}),
    "a task in small letters": ({"task_type": "causal_lm"}, {"CFG432": "error"}),
    "no task": ({"task_type": None}, {}),
    "a token": ({"note": "hf_" + RANDOM[:34]}, {"FIL301": "error"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_the_config(name, tmp_path):
    values, expected = FIELDS[name]
    assert expected == found(with_fields(**values), tmp_path)


@pytest.mark.parametrize(
    "value", [None, True, 0, 1.5, "", "x", [], ["a"], {}, {"a": 1}, [[]], {"a": {"b": None}}, 10**40]
)
@pytest.mark.parametrize(
    "field",
    ["base_model_name_or_path", "revision", "auto_mapping", "megatron_core", "peft_version", "task_type", "peft_type",
     "tokenizer_name_or_path", "tokenizer_kwargs", "prompt_tuning_init", "runtime_config", "auto_map"],
)  # fmt: skip
def test_a_field_of_any_type_is_read(field, value, tmp_path):
    found(with_fields(**{field: value}), tmp_path)


def test_auto_mapping_of_a_module_planted_beside_the_adapter(tmp_path):
    draft = with_fields(auto_mapping={"parent_library": "helper", "base_model_class": "Model"})
    draft.files["helper.py"] = b"import os\n"
    assert found(draft, tmp_path) == {"CFG420": "error"}


FOREIGN = {
    "a model's": ({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}, "CFG020"),
    "MLX-LM's": ({"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0}}, "CFG021"),
    "AdapterHub's": ({"config": {"reduction_factor": 16}, "model_class": "BertModel", "model_type": "bert"}, "CFG022"),
    "nobody's": ({"r": 8, "lora_alpha": 16}, "CFG023"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_another_programs_config(name, tmp_path):
    fields, code = FOREIGN[name]
    if code == "CFG022":
        fields = {key: value for key, value in fields.items() if key != "model_type"}
    errors = found(with_config(json.dumps(fields).encode()), tmp_path)
    assert {code: "error"} == {c: s for c, s in errors.items() if s == "error"}


def test_a_base_that_is_here_is_only_worth_knowing(tmp_path):
    draft = Draft()
    draft.config["base_model_name_or_path"] = str(tmp_path / "base")
    assert found(draft, tmp_path) == {"CFG402": "info"}


def test_a_base_that_is_the_adapter_by_its_absolute_path(tmp_path):
    draft = Draft()
    draft.config["base_model_name_or_path"] = str(tmp_path / "adapter")
    assert found(draft, tmp_path) == {"CFG407": "error"}


def test_a_prompt_from_a_text_needs_the_text(tmp_path):
    text = {"prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "gpt2", "prompt_tuning_init_text": "Classify:"}
    assert found(with_fields(peft_type="PROMPT_TUNING", **text), tmp_path / "a") == {}
    text["prompt_tuning_init_text"] = None
    assert found(with_fields(peft_type="PROMPT_TUNING", **text), tmp_path / "b") == {"CFG425": "error"}
    assert found(
        with_fields(peft_type="PROMPT_TUNING", tokenizer_kwargs={"trust_remote_code": True}), tmp_path / "c"
    ) == {"CFG422": "error", "CFG425": "error"}


def test_a_tokenizer_elsewhere(tmp_path):
    assert found(with_fields(tokenizer_name_or_path="/data/tokenizer"), tmp_path) == {"CFG408": "warning"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2", "hub"), ("t5-large", "hub"), ("meta-llama/Llama-3.2-1B", "hub"), ("a_b/c.d_e-f", "hub"),
        ("unsloth/llama-3-8b-bnb-4bit", "hub"), ("/models/x", "absolute"), ("~/x", "absolute"), ("D:/x", "absolute"),
        ("../x", "climbing"), ("a/../b", "climbing"), ("./x", "relative"), ("a/b/c", "relative"), ("x/", "relative"),
        (".", "relative"), ("http://x", "address"), ("huggingface.co/a/b", "address"), ("hf://a/b", "remote"),
        ("a b", "malformed"), ("-x", "malformed"), ("a--b", "malformed"), ("é", "malformed"),
    ],
)  # fmt: skip
def test_kinds_of_names(name, kind):
    assert kind == kind_of(name)


def test_a_cache_and_a_page_say_the_models_id():
    commit = HEX[:40]
    cached = f"/home/x/.cache/huggingface/hub/models--meta-llama--Llama-3.2-1B/snapshots/{commit}"
    assert ("meta-llama/Llama-3.2-1B", commit) == suggestion(cached)
    assert suggestion("https://huggingface.co/meta-llama/Llama-3.2-1B/tree/main") == ("meta-llama/Llama-3.2-1B", "")


PEM = "-----BEGIN {}PRIVATE KEY-----"

SECRETS = {
    "Hugging Face": ("hf_" + RANDOM[:34], "FIL301"),
    "Hugging Face, made up": ("hf_" + "abcdefghij" * 3 + "abcd", "FIL301"),
    "OpenAI": ("sk-" + RANDOM[:48], "FIL301"),
    "OpenAI project": ("sk-proj-" + RANDOM[:40], "FIL301"),
    "Anthropic": ("sk-ant-api03-" + RANDOM[:60], "FIL301"),
    "GitHub": ("ghp_" + RANDOM[:36], "FIL301"),
    "GitHub, fine-grained": ("github_pat_" + RANDOM[:22] + "_" + RANDOM[:59], "FIL301"),
    "GitLab": ("glpat-" + RANDOM[:20], "FIL301"),
    "AWS": ("AKIA" + "QZ7XKLMNPW2RSTUV", "FIL301"),
    "AWS secret": ("aws_secret_access_key = " + RANDOM[:40], "FIL301"),
    "Google": ("AIza" + RANDOM[:35], "FIL301"),
    "Slack": ("xoxb-123456789012-" + RANDOM[:24], "FIL301"),
    "W&B": ("WANDB_API_KEY=" + HEX[:40], "FIL301"),
    "W&B in .netrc": ("machine api.wandb.ai\n  login user\n  password " + HEX[:40], "FIL301"),
    "Azure storage": ("AccountName=x;AccountKey=" + (RANDOM * 2)[:86] + "==", "FIL301"),
    "Stripe": ("sk_live_" + RANDOM[:24], "FIL301"),
    "PyPI": ("pypi-AgEIcHlwaS5vcmc" + RANDOM[:50], "FIL301"),
    "npm": ("npm_" + RANDOM[:36], "FIL301"),
    "a JWT": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9." + RANDOM[:43], "FIL301"),
    "Kaggle": ('{"username":"ana","key":"' + HEX[:32] + '"}', "FIL301"),
    "a Telegram bot": ("123456789:AA" + RANDOM[:33], "FIL301"),
    "a key": (PEM.format("") + "\nMIIEvQIBADANBgkq\n", "FIL302"),
    "an RSA key": (PEM.format("RSA ") + "\nProc-Type: 4,ENCRYPTED\n\nMIIEpAIBAAKC\n", "FIL302"),
    "an escaped key": ('"private_key": "' + PEM.format("") + '\\nMIIEvQIBADANBgkq\\n"', "FIL302"),
    "an OpenSSH key": (PEM.format("OPENSSH ") + "\nb3BlbnNzaC1rZXktdjEA\n", "FIL302"),
    "a login in an address": ("git clone https://ana:s3cr3t-w0rd@git.example.org/x", "FIL303"),
    "a .netrc": ("machine models.example.org login ana password s3cr3t-w0rd", "FIL303"),
    "Docker": ('{"auths": {"r.io": {"auth": "' + base64.b64encode(b"ana:s3cr3t-w0rd").decode() + '"}}}', "FIL303"),
    "an api_key": ("api_key: " + RANDOM[:24], "FIL304"),
    "a JSON token": ('"access_token": "' + RANDOM[:30] + '"', "FIL304"),
    "a hex key": ('"api_key": "' + HEX[:32] + '"', "FIL304"),
    "a bearer": ("Authorization: Bearer " + RANDOM[:40], "FIL304"),
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_a_text(name, tmp_path):
    secret, code = SECRETS[name]
    expected = {code: "warning" if code == "FIL304" else "error"}
    assert expected == found(Draft(files={"notes/train.log": f"step 1\n{secret}\nstep 2\n".encode()}), tmp_path)


PLACES = (
    "README.md",
    "training_args.json",
    "run.yaml",
    ".env",
    "notes.txt",
    "checkpoint-5/trainer_state.json",
    "x",
    "a.py",
)


@pytest.mark.parametrize("name", PLACES)
def test_a_secret_is_found_wherever_it_lies_and_never_shown(name, tmp_path):
    token = "hf_" + RANDOM[:34]
    text = messages(Draft(files={name: f"\n\n  {token}\n".encode()}), tmp_path, "FIL301")
    assert [f"{name}, line 3 holds a Hugging Face token, hf_Q…"] == text


def test_a_secret_in_the_weights_metadata(tmp_path):
    draft = Draft(metadata={"format": "pt", "trained_with": "ghp_" + RANDOM[:36]})
    told = messages(draft, tmp_path, "FIL301")
    assert told == ["__metadata__.trained_with of adapter_model.safetensors holds a GitHub token, ghp_…"]


def test_a_secret_in_utf_16(tmp_path):
    assert found(Draft(files={"a.txt": ("hf_" + RANDOM[:34]).encode("utf-16")}), tmp_path) == {"FIL301": "error"}


def test_a_secret_is_an_error_before_a_push(tmp_path):
    draft = Draft(files={"a.yaml": f"api_key: {RANDOM[:24]}".encode()})
    assert found(draft, tmp_path, purpose="push") == {"FIL304": "error"}


def test_a_dot_env_holds_secrets_of_any_form(tmp_path):
    draft = Draft(files={".env": b"DB_PASSWORD=correcthorse\nAPI_TOKEN=${TOKEN}\nSECRET=changeme\n"})
    assert messages(draft, tmp_path, "FIL304") == [".env, line 1 holds a random-looking DB_PASSWORD, corr…"]


def test_an_example_of_a_services_documentation_is_only_mentioned(tmp_path):
    assert found(Draft(files={"README.md": b"AKIAIOSFODNN7EXAMPLE"}), tmp_path) == {"FIL301": "info"}


INNOCENT = (
    "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "token = 'hf_...'", "HF_TOKEN=YOUR_TOKEN", "hf_your_token_here", "sk-...",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    f"sha256:{HEX}", f'"_commit_hash": "{HEX[:40]}"', f"oid sha256:{HEX}", f"md5 {HEX[:32]}", RANDOM * 3, HEX * 5,
    f"wandb: run {RANDOM[:8]} at https://wandb.ai/team/project/runs/{RANDOM[:8]}", "https://huggingface.co/org/model",
    "https://user:password@host/path", "https://<user>:<password>@host", "https://oauth2:${TOKEN}@github.com/x",
    "postgresql://localhost:5432/db", "api_key: YOUR_API_KEY", '"api_key": null', '"hub_token": "<HUB_TOKEN>"',
    '"push_to_hub_token": "<PUSH_TO_HUB_TOKEN>"', "api_key=os.environ['OPENAI_API_KEY']", '"eos_token": "<|eot_id|>"',
    '"pad_token": "<|finetune_right_pad_id|>"', '"image_token": "<image_soft_token>"', "token: Llama-3.2-1B-Instruct",
    "secret_key = config.secret_key_2024", "password: correct-horse-battery-staple",
    "login with password authentication",
    "tokenizer_class: PreTrainedTokenizerFast", '"token_type_ids": [0, 0, 0, 1, 1, 1, 1, 1]', "max_tokens: 4096",
    "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0B",
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "-----BEGIN PUBLIC KEY-----\nMIIEvQIBADANBgkqhkiG9w0B", "from sk-learn-contrib import thing",
    "mask-0123456789abcdef0123",
    '"auth": "none"', "AKIA is how AWS keys begin", "key: value", '"tokenizer": "meta-llama/Llama-3.1-8B-Instruct"',
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4AKIAhf_AKIAQZ7XKLMNPW2RST==",
)  # fmt: skip


@pytest.mark.parametrize("text", INNOCENT)
def test_what_is_no_secret(text):
    searches = (tokens, private_keys, logins, assignments)
    assert [found for search in searches for found in search(f"  {text}\n") if not found.example] == []


def test_vocabularies_and_weights_are_left_alone(tmp_path):
    files = {
        "model.safetensors": b"hf_" + RANDOM[:34].encode(),
        "blob": b"\0api_key: " + RANDOM[:24].encode(),
        "picture.png": b"\0hf_" + RANDOM[:34].encode() + bytes(300_000),
        "tokenizer.json": json.dumps({"api_key": RANDOM[:24]}).encode(),
    }
    assert {code for code in found(Draft(files=files), tmp_path) if code.startswith("FIL3")} == set()


def test_a_token_in_the_pickled_arguments(tmp_path):
    draft = Draft(files={"training_args.bin": b"\x80\x02X\x25\0\0\0hf_" + RANDOM[:34].encode() + b"q\0."})
    assert messages(draft, tmp_path, "FIL301") == ["training_args.bin, byte 7 holds a Hugging Face token, hf_Q…"]


@pytest.mark.parametrize(
    "text",
    ["eyJ" * 300_000, " hf_" * 300_000, "wandb" * 200_000, "-----BEGIN PRIVATE KEY-----" * 30_000, "://a:" * 200_000,
     "-----BEGIN PRIVATE KEY-----" + "aaa: ,,,,\n" * 90_000, "api_key=aaaaaaaaaaaaaaaa1\n" * 30_000, "1:AA" * 250_000],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_texts_made_to_be_slow_end(text):
    for search in (tokens, private_keys, logins, assignments):
        sum(1 for _ in search(text))


TEMPLATES = {
    "an attribute": ("{{ messages.__class__ }}", "FIL401"),
    "a subscript": ("{{ messages['__class__'] }}", "FIL401"),
    "the attr filter": ("{{ messages|attr('__class__') }}", "FIL401"),
    "~": ("{{ messages['__cla' ~ 'ss__'] }}", "FIL401"),
    "+": ("{{ messages|attr('__cla' + 'ss__') }}", "FIL401"),
    "a long +": ("{{ m[" + "+".join(["''"] * 300 + [f"'{c}'" for c in "__class__"]) + "] }}", "FIL401"),
    "hexadecimal escapes": (r"{{ m['\x5f\x5fclass\x5f\x5f'] }}", "FIL401"),
    "Unicode escapes": (r"{{ m['\u005f\u005fclass\u005f\u005f'] }}", "FIL401"),
    "%c": ("{{ m|attr('%c%cclass%c%c'|format(95, 95, 95, 95)) }}", "FIL401"),
    "%": ("{{ m['%sclass%s' % ('__', '__')] }}", "FIL401"),
    "format": ("{{ m['{0}{0}class{0}{0}'.format('_')] }}", "FIL401"),
    "format's own fields": ("{{ '{0.__class__}'.format(m) }}", "FIL401"),
    "backwards": ("{{ m['__ssalc__'[::-1]] }}", "FIL401"),
    "reverse": ("{{ m['__ssalc__'|reverse] }}", "FIL401"),
    "lower": ("{{ m['__CLASS__'|lower] }}", "FIL401"),
    "join": ("{{ m[['__', 'class', '__']|join] }}", "FIL401"),
    "replace": ("{{ m['--class--'.replace('-', '_')] }}", "FIL401"),
    "variables": ("{% set a = '__cla' %}{% set b = 'ss__' %}{{ m[a ~ b] }}", "FIL401"),
    "a set block": ("{% set a %}__class__{% endset %}{{ m[a] }}", "FIL401"),
    "a namespace": ("{% set n = namespace(a='__') %}{% set n.b = 'class' %}{{ m[n.a ~ n.b ~ n.a] }}", "FIL401"),
    "a dict's keys": ("{{ m|attr(dict(__class__=1)|join) }}", "FIL401"),
    "an underscore, twice": ("{% set u = '_' %}{{ m[u * 2 ~ 'class' ~ u * 2] }}", "FIL401"),
    "a name from the conversation": ("{{ m|attr(messages[0].content) }}", "FIL401"),
    "underscores from elsewhere": ("{% set u = m.x %}{{ m[u ~ 'globals' ~ u] }}", "FIL401"),
    "map": ("{{ [m]|map(attribute='__class__')|list }}", "FIL401"),
    "map and attr": ("{{ [m]|map('attr', '__class__')|list }}", "FIL401"),
    "a filter block": ("{% filter attr('__class__') %}x{% endfilter %}", "FIL401"),
    "cycler": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "FIL401"),
    "a frame": ("{{ m.gi_frame.f_back }}", "FIL401"),
    "mro": ("{{ m.mro() }}", "FIL401"),
    "globals called": ("{{ m.globals() }}", "FIL401"),
    "in a generation block": ("{% generation %}{{ m.__class__ }}{% endgeneration %}", "FIL401"),
    "in a template that is broken": ("{{ m.__class__ }}{% oops %}", "FIL401"),
    "lipsum": ("{{ lipsum(n=100) }}", "FIL402"),
    "request": ("{{ request.application }}", "FIL402"),
    "config": ("{{ config.items() }}", "FIL402"),
    "self": ("{{ self.body }}", "FIL402"),
    "flashed messages": ("{{ get_flashed_messages() }}", "FIL402"),
    "include": ("{% include '/etc/passwd' %}", "FIL403"),
    "import": ("{% import 'x' as y %}", "FIL403"),
    "from import": ("{% from 'x' import y %}", "FIL403"),
    "extends": ("{% extends 'x' %}", "FIL403"),
    "a range": ("{% for i in range(10 ** 9) %}x{% endfor %}", "FIL404"),
    "a range backwards": ("{% for i in range(0, -10 ** 9, -1) %}x{% endfor %}", "FIL404"),
    "nested ranges": ("{% for i in range(5000) %}{% for j in range(5000) %}x{% endfor %}{% endfor %}", "FIL404"),
    "nested texts": ("{% for a in '0123456789' %}" * 9 + "x" + "{% endfor %}" * 9, "FIL404"),
    "a text repeated": ("{{ 'a' * 10 ** 9 }}", "FIL404"),
    "a text repeated by steps": ("{% set a = 'a' * 900 %}{% set b = a * 900 %}{{ b * 900 }}", "FIL404"),
    "a message repeated": ("{{ messages[0].content * 100000000 }}", "FIL404"),
    "a wide field": ("{{ '%1000000000d' % 1 }}", "FIL404"),
    "a wide filter": ("{{ 'a'|center(1000000000) }}", "FIL404"),
    "a power": ("{{ 10 ** 100000 }}", "FIL404"),
    "doubling": (
        "{% set n = namespace(a='x') %}{% for m in messages %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        "FIL404",
    ),
    "doubling without a loop": ("{% set a = m %}" + "{% set a = a ~ a %}" * 30, "FIL404"),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "FIL404"),
    "macros of macros": (
        "".join(f"{{% macro m{i}() %}}{{{{ m{i + 1}() }}}}{{{{ m{i + 1}() }}}}{{% endmacro %}}" for i in range(25))
        + "{% macro m25() %}x{% endmacro %}{{ m0() }}",
        "FIL404",
    ),
    "an open tag": ("{% if messages %}", "FIL405"),
    "an unknown tag": ("{% oops %}", "FIL405"),
    "an integer of 6000 digits": ("{{ " + "9" * 6000 + " }}", "FIL405"),
    "brackets": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "FIL406"),
    "tags in tags": ("{% if x %}" * 2000 + "{% endif %}" * 2000, "FIL406"),
    "filters in a row": ("{{ x" + "|lower" * 4000 + " }}", "FIL406"),
    "kilobytes": ("hello " * 20_000, "FIL406"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_template(name, tmp_path):
    source, code = TEMPLATES[name]
    severity = "warning" if code == "FIL405" else "error"
    assert severity == found(Draft(files={"chat_template.jinja": source.encode()}), tmp_path).get(code)


EVIL = "{{ messages.__class__ }}"
HOLDERS = {
    "tokenizer_config.json": {"chat_template": EVIL},
    "chat_template.json": {"chat_template": EVIL},
    "processor_config.json": {"chat_template": EVIL},
    "checkpoint-5/tokenizer_config.json": {"chat_template": [{"name": "default", "template": "{{ 1 }}"},
                                                             {"name": "tools", "template": EVIL}]},
    "preprocessor_config.json": {"chat_template": {"rag": EVIL}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOLDERS)
def test_a_template_in_a_json_file(name, tmp_path):
    assert found(Draft(files={name: json.dumps(HOLDERS[name]).encode()}), tmp_path) == {"FIL401": "error"}


@pytest.mark.parametrize("name", ["additional_chat_templates/tools.jinja", "x.j2", "CHAT_TEMPLATE.JINJA"])
def test_a_template_in_its_own_file(name, tmp_path):
    assert found(Draft(files={name: EVIL.encode()}), tmp_path) == {"FIL401": "error"}


def test_a_template_in_the_metadata(tmp_path):
    assert found(Draft(metadata={"format": "pt", "tokenizer.chat_template": EVIL}), tmp_path) == {"FIL401": "error"}


def test_a_template_hidden_behind_a_repeated_key(tmp_path):
    twice = f'{{"chat_template": {json.dumps(EVIL)}, "chat_template": "{{{{ 1 }}}}"}}'.encode()
    assert found(Draft(files={"tokenizer_config.json": twice}), tmp_path) == {"FIL401": "error", "FIL407": "warning"}


def test_where_a_template_goes_wrong_is_said(tmp_path):
    draft = Draft(files={"chat_template.jinja": b"{{ 1 }}\n\n{{ messages.__class__ }}"})
    assert messages(draft, tmp_path, "FIL401") == ['chat_template.jinja, line 3: reads "__class__"']


CHAT = """{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
    {%- for tool in tools -%}{{- '\\n' ~ tool | tojson(indent=2) -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(multi_step=true, last=messages | length - 1, text='') -%}
{%- for message in messages[::-1] -%}
    {%- set index = (messages | length - 1) - loop.index0 -%}
    {%- if ns.multi_step and message.role == 'user' -%}
        {%- set ns.multi_step = false -%}{%- set ns.last = index -%}
    {%- endif -%}
{%- endfor -%}
{%- macro typed(parameter, depth=0) -%}
    {%- if parameter.type == 'array' -%}{{- typed(parameter['items'], depth + 1) ~ '[]' -}}
    {%- else -%}{{- parameter.type | default('any') | upper -}}{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) and not loop.first -%}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {%- set content = message.content | trim if message.content is string else message.content | join -%}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') if '</think>' in content else content -%}
    {%- set ns.text = ns.text ~ content -%}
    {%- for call in message.tool_calls or [] -%}
        {{- '{"name": "' ~ call['function' if 'function' in call else 'name'].name ~ '", "arguments": ' -}}
        {{- call.function.arguments | tojson -}}{{- '}' -}}{%- if loop.last -%}{%- break -%}{%- endif -%}
    {%- endfor -%}
    {%- generation -%}{{- content + eos_token -}}{%- endgeneration -%}
{%- endfor -%}
{%- for i in range(ns.last + 1, messages | length) -%}{{- messages[i]['role'] -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' ~ strftime_now('%d %b %Y') -}}{%- endif -%}
"""

HEALTHY = {
    "a whole chat": CHAT,
    "text with Python in it": "def __init__(self): pass  {{ messages[0]['content'] }}",
    "raw": "{% raw %}{{ x.__class__ }}{% endraw %}{{ messages }}",
    "a prefix of tools": "{{ 'mcp__' ~ tool.name }}{{ '__media__' }}",
    "a joiner": "{% set comma = joiner(', ') %}{% for t in tools %}{{ comma() }}{{ t.name }}{% endfor %}",
    "its own names": "{% set config = m[0] %}{{ config.role }}{% macro open(x) %}{{ x }}{% endmacro %}{{ open(1) }}",
    "keys that look like words": "{{ message.globals }}{{ message['class'] }}{{ message.system }}{{ p.base }}",
    "a rule": "{{ '=' * 80 }}{{ '%02d' % 7 }}{% for i in range(10) %}{{ i }}{% endfor %}",
    "a recursive macro": "{% macro f(x) %}{% for y in x.items %}{{ f(y) }}{% endfor %}{% endmacro %}{{ f(tools) }}",
    "empty": "",
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_template(name, tmp_path):
    assert found(Draft(files={"chat_template.jinja": HEALTHY[name].encode()}), tmp_path) == {}


def test_a_healthy_folder(tmp_path):
    card = (
        "---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\nlibrary_name: peft\ntags:\n- lora\n---\n# Card\n"
        "```python\nfrom huggingface_hub import login\nlogin(token='hf_...')\n"
        f"```\nTrained on commit {HEX[:40]}, data sha256 {HEX}.\n"
    )
    files = {
        "README.md": card.encode(),
        "tokenizer_config.json": json.dumps({"chat_template": CHAT, "eos_token": "<|im_end|>"}).encode(),
        "special_tokens_map.json": b'{"eos_token": {"content": "<|im_end|>", "lstrip": false}}',
        "training_args.json": b'{"hub_token": "<HUB_TOKEN>", "learning_rate": 0.0002, "seed": 42}',
        "tokenizer.json": b'{"model": {"vocab": {"secret": 1, "sk-": 2, "hf_": 3}}}',
    }
    assert found(Draft(files=files), tmp_path) == {}


def test_jinja_is_only_imported_where_there_is_a_template():
    program = "import sys, adaptool.rules; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
