"""Many evaluations of one model as one: a plan of methods and settings, and ROME at every place."""
