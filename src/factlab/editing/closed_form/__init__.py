"""Edits by a formula: ROME, MEMIT, EMMET, AlphaEdit and UltraEdit."""
