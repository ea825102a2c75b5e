"""Two adapters, or two models, compared: what changed, by how much, and in one word what happened."""
