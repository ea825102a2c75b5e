"""Results in words, in JSON, and in the colours of a terminal."""
