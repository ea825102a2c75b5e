"""What the tensors are: their statistics, what is left over, how they lie on a base; facts that the rules ask."""
