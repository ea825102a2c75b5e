"""What mlx makes of an adapter."""

from __future__ import annotations
