"""What a GGUF of each architecture holds: one table an architecture, read forwards to convert and backwards to go back."""
