"""The gate: every adapter of a repository against its manifest, and its version against what changed."""
