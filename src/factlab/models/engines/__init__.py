"""How parts of a model are run: layer by layer from any token on, or whole passes."""
