"""Families of models that tests run through. Not in `conftest`: that name is taken several times."""

from collections.abc import Callable

import transformers
from packaging.version import Version

import factlab as fl
from factlab.families import ARCHITECTURES
from factlab.models.family_names import family_names

_installed = Version(transformers.__version__)
# Before 5.2 transformers itself runs StableLM wrongly behind a cache, and MPT not in float64.
_OWN_FAULTS = ("stablelm", "mpt") if _installed < Version("5.2") else ()
FAMILIES = tuple(family for family in ARCHITECTURES if family not in _OWN_FAULTS)
# Before 5.24 their configs were written in another way, or their layers shared keys wrongly.
_NEWER = ("dbrx", "qwen2_vl", "zamba2", "gemma3n_text") if _installed < Version("5.24") else ()
# One of each habit: Conv1D, parallel blocks, alibi, flat MLP, gated MLP, norms behind the MLP.
HABITS = ("gpt2", "gptj", "bloom", "opt", "llama", "gemma2")

# These compute attention, or its softmax, in float32 whatever the weights are. How that rounds
# depends on how wide the row is and on how many numbers the machine adds up at once.
SINGLE_INSIDE = ("gptj", "codegen", "gpt_neo", "mpt", "gemma2", "bloom")


def is_present(family: str) -> bool:
    """Whether the transformers that is installed has this family, and as the newest has it."""
    return family in family_names() and family not in _NEWER


MakeModel = Callable[..., fl.LanguageModel]
