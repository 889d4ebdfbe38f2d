"""Families of models that tests run through. Not in `conftest`: that name is taken several times."""

from collections.abc import Callable

import transformers

import factlab as fl
from factlab.families import ARCHITECTURES

# Before 5.2 transformers itself runs StableLM wrongly behind a cache, and MPT not in float64.
_OWN_FAULTS = (
    ("stablelm", "mpt") if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 2) else ()
)
FAMILIES = tuple(family for family in ARCHITECTURES if family not in _OWN_FAULTS)
# One of each habit: Conv1D, parallel blocks, alibi, flat MLP, gated MLP, norms behind the MLP.
HABITS = ("gpt2", "gptj", "bloom", "opt", "llama", "gemma2")

# These compute attention, or its softmax, in float32 whatever the weights are. How that rounds
# depends on how wide the row is and on how many numbers the machine adds up at once.
SINGLE_INSIDE = ("gptj", "codegen", "gpt_neo", "mpt", "gemma2", "bloom")

MakeModel = Callable[..., fl.LanguageModel]
