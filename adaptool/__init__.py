"""adaptool: inspect, merge, verify, compare and version LoRA adapters."""

__version__ = "0.1.0"
