"""What a model is: the bits of its weights, what is computed with them, and how it reads text."""
