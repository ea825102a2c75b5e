"""The bill of materials of an adapter or a model, as CycloneDX."""
