"""Values that were optimised before: what they depend on, and where they are kept."""
