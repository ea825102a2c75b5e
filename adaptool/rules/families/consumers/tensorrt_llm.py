"""What tensorrt_llm makes of an adapter."""

from __future__ import annotations
