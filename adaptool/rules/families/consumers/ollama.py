"""What ollama makes of an adapter."""

from __future__ import annotations
