"""An adapter's history: each commit with what it did to version and content, and how far ΔW went."""
