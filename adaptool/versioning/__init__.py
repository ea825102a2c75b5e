"""Adapters with a version: the record beside them, the bump that a change deserves, the gate, the history."""
