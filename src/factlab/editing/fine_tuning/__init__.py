"""Edits by gradient steps on a weight: FT, FT+L and AttnEdit."""
