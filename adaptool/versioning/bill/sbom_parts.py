"""The parts of a CycloneDX bill of materials: models, files, data sets, licences, and their package URLs.

Sources: the CycloneDX 1.6 specification, https://cyclonedx.org/docs/1.6/json/; the package URL type "huggingface",
https://github.com/package-url/purl-spec; the SPDX licence list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from adaptool.comparing.base_names import COMMIT
from adaptool.merging.provenance import hub_id
from adaptool.versions import FileRecord

Part = dict[str, Any]

HUB = "https://huggingface.co"

SPDX = {
    name.lower(): name
    for name in (
        "0BSD", "AFL-3.0", "AGPL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "Apache-2.0", "Artistic-2.0",
        "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0", "C-UDA-1.0", "CC-BY-2.0", "CC-BY-2.5",
        "CC-BY-3.0", "CC-BY-4.0", "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-3.0",
        "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0",
        "CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "ECL-2.0",
        "EPL-1.0", "EPL-2.0", "EUPL-1.1", "EUPL-1.2", "GPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0",
        "GPL-3.0-only", "GPL-3.0-or-later", "ISC", "LGPL-2.1", "LGPL-3.0", "LGPL-3.0-only", "LPPL-1.3c", "MIT",
        "MPL-2.0", "MS-PL", "NCSA", "ODC-By-1.0", "ODbL-1.0", "OFL-1.1", "OSL-3.0", "PDDL-1.0", "PostgreSQL",
        "Unlicense", "WTFPL", "Zlib", "etalab-2.0",
    )
} | {"odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "c-uda": "C-UDA-1.0"}  # fmt: skip
"""Licences as the Hub writes them → their SPDX identifiers; others are named as they are."""

TASKS = {
    "CAUSAL_LM": "text-generation", "SEQ_2_SEQ_LM": "text2text-generation", "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification", "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}  # fmt: skip
"""PEFT's words → the Hub's."""


@dataclass
class Bill:
    """A bill in the making: components by their reference, and what depends on what."""

    components: dict[str, Part] = field(default_factory=dict)
    edges: dict[str, set[str]] = field(default_factory=dict)

    def add(self, owner: str, part: Part | None) -> None:
        """A component ``owner`` depends on."""
        if part is not None and part["bom-ref"] != owner:
            self.components.setdefault(part["bom-ref"], part)
            self.edges.setdefault(owner, set()).add(part["bom-ref"])

    def depends(self) -> list[Part]:
        """The graph: every component, with what it was made of."""
        refs = sorted({*self.components, *self.edges})
        return [{"ref": ref, **({"dependsOn": sorted(self.edges[ref])} if self.edges.get(ref) else {})} for ref in refs]


def model(ref: str, name: str, version: str | None = None, *, digest: str | None = None, **known: Any) -> Part:
    """A model or an adapter; what is not known of it is left out."""
    part = {"type": "machine-learning-model", "bom-ref": ref, "name": name, "version": version, **known}
    properties = [*known.get("properties", ()), *([prop("content-digest", digest)] if digest else [])]
    return {key: value for key, value in {**part, "properties": properties}.items() if value not in (None, [], {})}


def base_model(name: str | None, revision: str | None, digest: str | None = None, **known: Any) -> Part | None:
    """The model an adapter is for; of a path only the last part is told, as the others are somebody's machine."""
    if name is None:
        return None
    hub = hub_id(name)
    plain = hub or re.split(r"[/\\]", name.rstrip("/\\"))[-1] or "base"
    pinned = revision if revision is not None and COMMIT.fullmatch(revision) else None
    properties = [] if revision is None or pinned else [prop("revision", revision)]
    page = f"{HUB}/{plain}" if pinned is None else f"{HUB}/{plain}/tree/{pinned}"
    links = [{"type": "distribution", "url": page}] if hub else None
    return model(
        f"model:{plain}@{pinned or digest or revision or ''}".rstrip("@"), plain, pinned, digest=digest,
        purl=purl(hub, pinned) if hub else None, externalReferences=links, properties=properties, **known,
    )  # fmt: skip


def purl(hub: str, revision: str | None) -> str:
    """pkg:huggingface/org/name@commit"""
    name = "/".join(quote(part, safe="") for part in hub.split("/"))
    return f"pkg:huggingface/{name}" + (f"@{revision.lower()}" if revision else "")


def dataset(name: str) -> Part:
    """A data set that a card names."""
    hub = hub_id(name)
    part: Part = {"type": "data", "bom-ref": f"data:{name}", "name": name, "data": [{"type": "dataset", "name": name}]}
    return {**part, "externalReferences": [{"type": "website", "url": f"{HUB}/datasets/{hub}"}]} if hub else part


def files(owner: str, records: Iterable[FileRecord]) -> list[Part]:
    """The files a model consists of."""
    return [
        {
            "type": "file", "bom-ref": f"{owner}/{record.name}", "name": record.name,
            **({"hashes": [sha256(record.sha256)]} if record.sha256 else {}),
            "properties": [prop("size", str(record.size))],
        }
        for record in sorted(records, key=lambda record: record.name)
    ]  # fmt: skip


def sha256(digest: str) -> Part:
    """One hash."""
    return {"alg": "SHA-256", "content": digest}


def prop(name: str, value: Any) -> Part:
    """What CycloneDX has no field for."""
    return {"name": f"adaptool:{name}", "value": value if isinstance(value, str) else _text(value)}


def licences(text: str | None, link: str | None = None) -> list[Part]:
    """A licence as an SPDX identifier, an expression of them, or by its name."""
    if not text or text.lower() in ("unknown", "other"):
        return []
    if text.lower() in SPDX:
        return [{"license": {"id": SPDX[text.lower()]}}]
    words = text.replace("(", " ").replace(")", " ").split()
    if len(words) > 2 and all(word in ("AND", "OR") or word.lower() in SPDX for word in words):
        return [{"expression": re.sub(r"[^\s()]+", lambda found: SPDX.get(found[0].lower(), found[0]), text)}]
    address = {"url": link} if link and re.fullmatch(r"https?://[^\s<>\"{}|\\^`]+", link) else {}
    return [{"license": {"name": text, **address}}]


def model_card(
    *, task: str | None = None, family: str | None = None, architecture: str | None = None,
    datasets: Iterable[str] = (), metrics: Mapping[str, float | str] | None = None,
) -> Part:  # fmt: skip
    """A model card of what is known; empty where nothing is."""
    parameters = {
        "task": task, "architectureFamily": family, "modelArchitecture": architecture,
        "datasets": [{"ref": f"data:{name}"} for name in datasets],
    }  # fmt: skip
    told = {name: value for name, value in parameters.items() if value}
    measured = [{"type": name, "value": _text(value)} for name, value in sorted((metrics or {}).items())]
    card: Part = {"modelParameters": told} if told else {}
    return card | ({"quantitativeAnalysis": {"performanceMetrics": measured}} if measured else {})


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(map(str, value)))
    return value if isinstance(value, str) else str(value)


def without_ref(part: Part) -> Part:
    """The same inside of another component: a reference stands for one component only."""
    return {name: value for name, value in part.items() if name != "bom-ref"}


def text_of(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value else None


def is_bill(name: str) -> bool:
    """Whether a file is called as a CycloneDX document is to be."""
    return name.endswith(".cdx.json") or name.rpartition("/")[2] == "bom.json"
