"""Edits by a formula: ROME, MEMIT, EMMET and AlphaEdit."""
