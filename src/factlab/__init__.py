"""factlab: locate, edit and measure facts in language models.

    import factlab as fl

    lm = fl.load()
    fact = fl.Fact("{} is located in the city of", subject="The Eiffel Tower",
                   target_new="Rome", target_true="Paris")
    trace = fl.causal_trace(lm, fact)
    edit = fl.rome(lm, fact)
    with edit.applied(lm):
        print(lm.generate("The best place to eat near the Eiffel Tower is"))

Names are imported when they are first used, so `import factlab` itself is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factlab.editing.edit import Edit as Edit
    from factlab.editing.rome import RomeConfig as RomeConfig
    from factlab.editing.rome import rome as rome
    from factlab.errors import FactlabError as FactlabError
    from factlab.facts import Fact as Fact
    from factlab.hooks import Site as Site
    from factlab.hooks import Stream as Stream
    from factlab.hooks import intervene as intervene
    from factlab.hooks import record as record
    from factlab.models.language_model import LanguageModel as LanguageModel
    from factlab.models.load import load as load
    from factlab.models.tiny import tiny_model as tiny_model
    from factlab.stats.moments import SecondMoment as SecondMoment
    from factlab.stats.store import StatsConfig as StatsConfig
    from factlab.stats.store import second_moments as second_moments
    from factlab.tracing.corruption import GaussianNoise as GaussianNoise
    from factlab.tracing.result import CausalTrace as CausalTrace
    from factlab.tracing.result import TraceConfig as TraceConfig
    from factlab.tracing.trace import causal_trace as causal_trace

_HOMES = {
    "CausalTrace": "tracing.result",
    "Edit": "editing.edit",
    "Fact": "facts",
    "FactlabError": "errors",
    "GaussianNoise": "tracing.corruption",
    "LanguageModel": "models.language_model",
    "RomeConfig": "editing.rome",
    "SecondMoment": "stats.moments",
    "Site": "hooks",
    "StatsConfig": "stats.store",
    "Stream": "hooks",
    "TraceConfig": "tracing.result",
    "causal_trace": "tracing.trace",
    "intervene": "hooks",
    "load": "models.load",
    "record": "hooks",
    "rome": "editing.rome",
    "second_moments": "stats.store",
    "tiny_model": "models.tiny",
}

__version__ = "0.1.0"

__all__ = [
    "CausalTrace",
    "Edit",
    "Fact",
    "FactlabError",
    "GaussianNoise",
    "LanguageModel",
    "RomeConfig",
    "SecondMoment",
    "Site",
    "StatsConfig",
    "Stream",
    "TraceConfig",
    "causal_trace",
    "intervene",
    "load",
    "record",
    "rome",
    "second_moments",
    "tiny_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'factlab' has no attribute '{name}'")
    return getattr(importlib.import_module(f"factlab.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
