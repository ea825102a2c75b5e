"""What a config says and means: its schema, its expressions, its scales; facts that the rules ask."""
