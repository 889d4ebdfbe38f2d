"""Edit: change what a model says about a fact by a small, closed-form change of its weights."""
