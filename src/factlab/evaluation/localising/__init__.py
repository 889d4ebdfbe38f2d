"""Does the layer that a trace points to tell where editing works (Hase et al. 2023)?

Facts that the model knows are traced (`effects`), edited at every layer by every method for every
problem, and asked again (`asked`, `edited`); `study` does it fact by fact in a folder, and `result`
reads that.
"""
