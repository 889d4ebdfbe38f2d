"""Changes of a model's weights: what they are, and three ways to let a model carry them."""
