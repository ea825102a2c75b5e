"""What llama_cpp makes of an adapter."""

from __future__ import annotations
