"""Locate: causal tracing finds the states that carry a fact (ROME paper, section 2)."""
