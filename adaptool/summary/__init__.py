"""What ``inspect`` knows of an adapter or a model."""
