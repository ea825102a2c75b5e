"""Proving a merge: every tensor against what it must be, the defect named, and the outputs on prompts."""
