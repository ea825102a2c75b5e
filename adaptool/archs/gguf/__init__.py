"""What a GGUF of each architecture holds: one table each, read forwards to convert and backwards to go back."""
