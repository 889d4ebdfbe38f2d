"""Probes of what an edit does beside its benchmark: the limitations that the ROME paper names."""
