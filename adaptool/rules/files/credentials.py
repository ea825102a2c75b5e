"""Credentials in the formats their services give them.

A digest, a commit, a placeholder or a variable is none. Formats are as the services document them, and as the public
scanners (gitleaks, GitHub's secret scanning) know them. A text is searched for each format's first letters, and only
there for the format, so that a text made to be slow is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 600
"""Characters of a text that one credential and what names it may take."""

MOST = 10_000
"""Places of one text that are looked at for one format: a text with more was made to keep a scanner busy."""


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of credential is written; group 1 of ``pattern`` is the secret."""

    what: str
    anchors: tuple[str, ...]
    """What stands in every one of them, in a text or in a text in small letters."""
    pattern: re.Pattern[str]
    back: int = 0
    """Characters before the anchor at which one may begin."""
    any_case: bool = False
    """Whether the anchors are sought in small letters."""

    def found(self, text: str, at: int) -> re.Match[str] | None:
        """The credential whose anchor stands at ``at``."""
        starts = range(max(0, at - self.back), at + 1)
        return next((found for start in starts if (found := self.pattern.match(text, start, at + LONGEST))), None)


@dataclass(frozen=True, slots=True)
class Credential:
    """One credential in a text, at characters ``at`` to ``end``; it is never shown whole."""

    what: str
    at: int
    end: int
    shown: str
    """What a message shows of it."""
    example: bool = False
    """Whether it says of itself that it is one: of a service's documentation, or to be replaced."""


def tokens(text: str) -> Iterator[Credential]:
    """Every credential in a service's own format, each once."""
    small = text.encode("ascii", "replace").decode().lower()  # as many characters as the text
    taken: set[int] = set()
    for form in FORMATS:
        for anchor in form.anchors:
            for at in _occurrences(small if form.any_case else text, anchor):
                found = form.found(text, at)
                if found is None or found.start(1) in taken or is_blank(found[1]):
                    continue
                taken.add(found.start(1))
                yield Credential(form.what, found.start(1), found.end(1), hidden(found[1]), is_example(found[1]))


def _occurrences(text: str, anchor: str) -> Iterator[int]:
    at = -1
    for _ in range(MOST):
        at = text.find(anchor, at + 1)
        if at < 0:
            return
        yield at


def is_blank(text: str) -> bool:
    """Whether it is crossed out: hf_xxxxxxxx, sk-0000, ****."""
    body = re.sub(r"^[A-Za-z0-9]{1,8}[_\-](?:[a-z]{2,8}[_\-])?", "", text)
    return set(body.lower()) <= set("x0*.-_#")


def is_example(text: str) -> bool:
    """Whether it says that it stands for another."""
    return EXAMPLE.search(text) is not None


EXAMPLE = re.compile(r"your|example|placeholder|change_?me|insert|redacted|replace|<|>|\$\{|\.\.\.|…|\*\*\*|xxxx|_here|"
                     r"IkpvaG4gRG9lI", re.IGNORECASE)  # fmt: skip
"""Words of documentation, and the name in jwt.io's token: a random token holds them about never."""


def hidden(secret: str) -> str:
    """The first four characters: enough to find it, not to use it."""
    return f"{secret[:4]}…"


BEFORE, AFTER = r"(?<![A-Za-z0-9_\-])", r"(?![A-Za-z0-9_\-])"
"""No letter, digit, _ or -, or it is a piece of something longer."""


def _formats() -> Iterator[Format]:
    for what, anchors, pattern in (
        ("Hugging Face token", "hf_", r"hf_[A-Za-z0-9]{30,48}"),
        ("Hugging Face organisation token", "api_org_", r"api_org_[A-Za-z0-9]{30,48}"),
        ("Anthropic key", "sk-ant-", r"sk-ant-[A-Za-z0-9_\-]{20,200}"),
        ("OpenRouter key", "sk-or-", r"sk-or-v1-[0-9a-f]{40,64}"),
        ("Langfuse key", "sk-lf-", r"sk-lf-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        ("OpenAI key", "sk-", r"sk-(?:proj|svcacct|admin|None)-(?=[A-Za-z_\-]*[0-9])[A-Za-z0-9_\-]{20,200}"),
        ("OpenAI-style key", "sk-", r"sk-(?=[A-Za-z]*[0-9])[A-Za-z0-9]{20,64}"),
        ("GitHub token", "ghp_ gho_ ghs_ ghu_ ghr_", r"gh[opsur]_[A-Za-z0-9]{30,255}"),
        ("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}"),
        (
            "GitLab token",
            "glpat- gldt- glrt- glptt- glft- glsoat- glimt- glagent- glcbt- gloas-",
            r"gl(?:pat|dt|rt|ptt|ft|soat|imt|agent|cbt|oas)-[A-Za-z0-9_\-]{20,128}",
        ),
        ("AWS access key", "AKIA ASIA ABIA ACCA", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![+/=])"),
        ("Google API key", "AIza", r"AIza[A-Za-z0-9_\-]{35}"),
        ("Google OAuth token", "ya29.", r"ya29\.[A-Za-z0-9_\-]{20,400}"),
        ("Google OAuth secret", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_\-]{24,32}"),
        ("Slack token", "xox", r"xox[abceoprs]-[A-Za-z0-9\-]{10,250}"),
        ("Slack token", "xapp-", r"xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{20,}"),
        ("Slack webhook", "hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{40,90}"),
        ("Discord webhook", "discord", r"discord(?:app)?\.com/api/webhooks/\d{15,22}/[\w\-]{50,80}"),
        ("Weights & Biases key", "wandb_v1_", r"wandb_v1_[A-Za-z0-9_]{40,100}"),
        ("Stripe key", "sk_live_ rk_live_ sk_test_ rk_test_", r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,128}"),
        ("Stripe webhook secret", "whsec_", r"whsec_[A-Za-z0-9+/]{32,64}"),
        ("PyPI token", "pypi-Ag", r"pypi-Ag[A-Za-z0-9_\-]{20,400}"),
        ("npm token", "npm_", r"npm_[A-Za-z0-9]{36}"),
        ("SendGrid key", "SG.", r"SG\.[A-Za-z0-9_\-]{20,24}\.[A-Za-z0-9_\-]{39,50}"),
        ("Replicate token", "r8_", r"r8_[A-Za-z0-9]{37}"),
        ("Groq key", "gsk_", r"gsk_[A-Za-z0-9]{40,60}"),
        ("xAI key", "xai-", r"xai-[A-Za-z0-9]{60,90}"),
        ("Perplexity key", "pplx-", r"pplx-[A-Za-z0-9]{40,60}"),
        ("NVIDIA key", "nvapi-", r"nvapi-[A-Za-z0-9_\-]{50,80}"),
        ("LangSmith key", "lsv2_", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}"),
        ("Pinecone key", "pcsk_", r"pcsk_[A-Za-z0-9_]{40,80}"),
        ("Together key", "tgp_v1_", r"tgp_v1_[A-Za-z0-9_\-]{40,50}"),
        ("RunPod key", "rpa_", r"rpa_[A-Z0-9]{30,50}[a-z0-9]{0,8}"),
        ("Databricks token", "dapi", r"dapi[0-9a-f]{32}(?:-\d)?"),
        ("DigitalOcean token", "dop_v1_ doo_v1_ dor_v1_", r"do[opr]_v1_[0-9a-f]{64}"),
        ("HashiCorp Vault token", "hvs.", r"hvs\.[A-Za-z0-9_\-]{24,120}"),
        ("Shopify token", "shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
        ("Atlassian token", "ATATT3", r"ATATT3[A-Za-z0-9_\-=]{60,250}"),
        ("Notion token", "ntn_", r"ntn_[A-Za-z0-9]{40,50}"),
        ("Linear key", "lin_api_", r"lin_api_[A-Za-z0-9]{40}"),
        ("Doppler token", "dp.pt. dp.st. dp.ct. dp.sa.", r"dp\.(?:pt|st|ct|sa)\.[A-Za-z0-9]{40,44}"),
        ("Supabase token", "sbp_", r"sbp_[0-9a-f]{40}"),
        ("Grafana token", "glsa_ glc_", r"gl(?:sa_[A-Za-z0-9]{32}_[0-9a-f]{8}|c_[A-Za-z0-9+/]{32,400}={0,2})"),
        ("Sentry token", "sntrys_ sntryu_", r"sntry[su]_[A-Za-z0-9_\-+/=]{40,300}"),
        ("Postman key", "PMAK-", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
        ("Mailgun key", "key-", r"key-[0-9a-f]{32}"),
        ("age key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
        ("JSON web token", "eyJ", r"eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{16,}"),
    ):
        yield Format(what, tuple(anchors.split()), re.compile(f"{BEFORE}({pattern}){AFTER}"))
    telegram, azure = r"\d{8,10}:AA[A-Za-z0-9_\-]{32,33}", r"[A-Za-z0-9_~.\-]{3}\dQ~[A-Za-z0-9_~.\-]{31,34}"
    yield Format("Telegram bot token", (":AA",), re.compile(f"{BEFORE}({telegram}){AFTER}"), 10)
    yield Format("Azure secret", ("Q~",), re.compile(f"{BEFORE}({azure}){AFTER}"), 4)
    for what, anchors, pattern in (
        ("AWS secret key", "aws", r"aws_?secret(?:_?access)?_?key[\"']?\s{0,4}[:=]\s{0,4}[\"']?"
                                  r"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"),
        ("Weights & Biases key", "wandb", r"wandb[\w.\-: ]{0,40}(?:key|login)\W{1,12}(?:key\W{1,6})?([0-9a-f]{40})\b"),
        ("Weights & Biases key", "api.wandb.ai", r"api\.wandb\.ai\s{1,20}(?:login\s{1,20}\S{1,100}\s{1,20})?"
                                                 r"password\s{1,20}([0-9a-f]{40})\b"),
        ("Azure storage key", "accountkey", r"AccountKey=([A-Za-z0-9+/]{80,90}={1,2})"),
        ("Azure shared access key", "sharedaccesskey", r"SharedAccessKey=([A-Za-z0-9+/]{40,48}=)"),
        ("Azure shared access signature", "sig=", r"(?<=[?&])sig=([A-Za-z0-9%+/]{40,100}(?:%3D|=)?)(?=[&\s\"'<)]|$)"),
        ("Kaggle key", '"username"', r"\"username\"\s{0,20}:\s{0,20}\"[^\"\n]{1,80}\"\s{0,20},\s{0,20}"
                                   r"\"key\"\s{0,20}:\s{0,20}\"([0-9a-f]{32})\""),
        ("Neptune token", "eyjhcglf", r"(?<![A-Za-z0-9_\-])(eyJhcGlf[A-Za-z0-9_\-+/]{40,400}={0,2})"),
        ("Comet key", "comet", r"comet[\w.\-]{0,20}key\W{1,8}([A-Za-z0-9]{25})\b"),
    ):  # fmt: skip
        yield Format(what, (anchors,), re.compile(pattern, re.IGNORECASE), any_case=True)


FORMATS = tuple(_formats())
