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
    from factlab import errors as errors
    from factlab.data.fact_files import load_facts as load_facts
    from factlab.data.fact_files import save_facts as save_facts
    from factlab.data.known import KnownFact as KnownFact
    from factlab.data.known import load_known as load_known
    from factlab.data.known import save_known as save_known
    from factlab.data.load_records import load_records as load_records
    from factlab.data.load_records import save_records as save_records
    from factlab.data.load_references import load_references as load_references
    from factlab.data.records import Record as Record
    from factlab.editing.alphaedit import alphaedit as alphaedit
    from factlab.editing.background import Background as Background
    from factlab.editing.compare import ModelDiff as ModelDiff
    from factlab.editing.compare import compare as compare
    from factlab.editing.configs import AlphaEditConfig as AlphaEditConfig
    from factlab.editing.configs import ContextConfig as ContextConfig
    from factlab.editing.configs import EmmetConfig as EmmetConfig
    from factlab.editing.configs import FineTuneConfig as FineTuneConfig
    from factlab.editing.configs import KnConfig as KnConfig
    from factlab.editing.configs import MemitConfig as MemitConfig
    from factlab.editing.configs import NeuronConfig as NeuronConfig
    from factlab.editing.configs import RomeConfig as RomeConfig
    from factlab.editing.configs import ValueConfig as ValueConfig
    from factlab.editing.edit import Edit as Edit
    from factlab.editing.emmet import emmet as emmet
    from factlab.editing.fine_tune import fine_tune as fine_tune
    from factlab.editing.fine_tune import fine_tune_each as fine_tune_each
    from factlab.editing.kn import kn as kn
    from factlab.editing.kn import kn_each as kn_each
    from factlab.editing.many import EditRun as EditRun
    from factlab.editing.many import edit_each as edit_each
    from factlab.editing.many import edit_sequence as edit_sequence
    from factlab.editing.many import edit_together as edit_together
    from factlab.editing.memit import memit as memit
    from factlab.editing.memit import memit_each as memit_each
    from factlab.editing.methods import METHODS as METHODS
    from factlab.editing.methods import Method as Method
    from factlab.editing.neuron_choice import prob_with_scaled as prob_with_scaled
    from factlab.editing.neuron_choice import shared_neurons as shared_neurons
    from factlab.editing.neurons import Neuron as Neuron
    from factlab.editing.neurons import NeuronAttribution as NeuronAttribution
    from factlab.editing.neurons import attribute_neurons as attribute_neurons
    from factlab.editing.neurons import attribute_neurons_each as attribute_neurons_each
    from factlab.editing.rome import rome as rome
    from factlab.editing.rome import rome_each as rome_each
    from factlab.editing.stack import combine as combine
    from factlab.editing.targets import said_before as said_before
    from factlab.editing.trained.configs import KeConfig as KeConfig
    from factlab.editing.trained.configs import MendConfig as MendConfig
    from factlab.editing.trained.configs import TrainConfig as TrainConfig
    from factlab.editing.trained.configs import TrainedEditConfig as TrainedEditConfig
    from factlab.editing.trained.editor import TrainedEditor as TrainedEditor
    from factlab.editing.trained.examples import examples_of_records as examples_of_records
    from factlab.editing.trained.examples import examples_of_text as examples_of_text
    from factlab.editing.trained.store import load_editor as load_editor
    from factlab.editing.trained.training import train_editor as train_editor
    from factlab.errors import EditError as EditError
    from factlab.errors import FactlabError as FactlabError
    from factlab.errors import InvalidRequestError as InvalidRequestError
    from factlab.errors import MemoryLimitError as MemoryLimitError
    from factlab.errors import MissingPackageError as MissingPackageError
    from factlab.errors import ModelLoadError as ModelLoadError
    from factlab.errors import StatisticsError as StatisticsError
    from factlab.errors import StorageError as StorageError
    from factlab.errors import TokenizationError as TokenizationError
    from factlab.errors import UnsupportedModelError as UnsupportedModelError
    from factlab.errors import WrongModelError as WrongModelError
    from factlab.evaluation.configs import MeasureConfig as MeasureConfig
    from factlab.evaluation.report import build_report as build_report
    from factlab.evaluation.report_tables import EvalReport as EvalReport
    from factlab.evaluation.runner import evaluate as evaluate
    from factlab.evaluation.saved_run import Run as Run
    from factlab.evaluation.saved_run import load_run as load_run
    from factlab.evaluation.sweep import Sweep as Sweep
    from factlab.evaluation.sweep import sweep as sweep
    from factlab.facts import Fact as Fact
    from factlab.hooks import Site as Site
    from factlab.hooks import Stream as Stream
    from factlab.hooks import intervene as intervene
    from factlab.hooks import record as record
    from factlab.journal import Shard as Shard
    from factlab.models.allocator import keep_freed_memory as keep_freed_memory
    from factlab.models.language_model import LanguageModel as LanguageModel
    from factlab.models.load import load as load
    from factlab.models.tiny import tiny_model as tiny_model
    from factlab.progress import progress_bar as progress_bar
    from factlab.stats.configs import StatsConfig as StatsConfig
    from factlab.stats.moments import SecondMoment as SecondMoment
    from factlab.stats.store import second_moments as second_moments
    from factlab.tracing.average import AverageTrace as AverageTrace
    from factlab.tracing.average_run import average_trace as average_trace
    from factlab.tracing.configs import TraceConfig as TraceConfig
    from factlab.tracing.corruption_kinds import GaussianNoise as GaussianNoise
    from factlab.tracing.corruption_kinds import MultivariateNoise as MultivariateNoise
    from factlab.tracing.corruption_kinds import StudentNoise as StudentNoise
    from factlab.tracing.corruption_kinds import Substitution as Substitution
    from factlab.tracing.corruption_kinds import UniformNoise as UniformNoise
    from factlab.tracing.knowns import build_known as build_known
    from factlab.tracing.knowns import knows as knows
    from factlab.tracing.layers import LayerChoice as LayerChoice
    from factlab.tracing.layers import recommend_layer as recommend_layer
    from factlab.tracing.result import CausalTrace as CausalTrace
    from factlab.tracing.trace import causal_trace as causal_trace

_HOMES = {
    "AlphaEditConfig": "editing.configs",
    "AverageTrace": "tracing.average",
    "Background": "editing.background",
    "CausalTrace": "tracing.result",
    "ContextConfig": "editing.configs",
    "Edit": "editing.edit",
    "EditError": "errors",
    "EditRun": "editing.many",
    "EmmetConfig": "editing.configs",
    "EvalReport": "evaluation.report_tables",
    "Fact": "facts",
    "FactlabError": "errors",
    "FineTuneConfig": "editing.configs",
    "GaussianNoise": "tracing.corruption_kinds",
    "InvalidRequestError": "errors",
    "KeConfig": "editing.trained.configs",
    "KnConfig": "editing.configs",
    "KnownFact": "data.known",
    "LanguageModel": "models.language_model",
    "LayerChoice": "tracing.layers",
    "METHODS": "editing.methods",
    "MeasureConfig": "evaluation.configs",
    "MemitConfig": "editing.configs",
    "MemoryLimitError": "errors",
    "MendConfig": "editing.trained.configs",
    "Method": "editing.methods",
    "MissingPackageError": "errors",
    "ModelDiff": "editing.compare",
    "ModelLoadError": "errors",
    "MultivariateNoise": "tracing.corruption_kinds",
    "Neuron": "editing.neurons",
    "NeuronAttribution": "editing.neurons",
    "NeuronConfig": "editing.configs",
    "Record": "data.records",
    "RomeConfig": "editing.configs",
    "Run": "evaluation.saved_run",
    "SecondMoment": "stats.moments",
    "Shard": "journal",
    "Site": "hooks",
    "StatisticsError": "errors",
    "StatsConfig": "stats.configs",
    "StorageError": "errors",
    "Stream": "hooks",
    "StudentNoise": "tracing.corruption_kinds",
    "Substitution": "tracing.corruption_kinds",
    "Sweep": "evaluation.sweep",
    "TokenizationError": "errors",
    "TraceConfig": "tracing.configs",
    "TrainConfig": "editing.trained.configs",
    "TrainedEditConfig": "editing.trained.configs",
    "TrainedEditor": "editing.trained.editor",
    "UniformNoise": "tracing.corruption_kinds",
    "UnsupportedModelError": "errors",
    "ValueConfig": "editing.configs",
    "WrongModelError": "errors",
    "alphaedit": "editing.alphaedit",
    "attribute_neurons": "editing.neurons",
    "attribute_neurons_each": "editing.neurons",
    "average_trace": "tracing.average_run",
    "build_known": "tracing.knowns",
    "build_report": "evaluation.report",
    "causal_trace": "tracing.trace",
    "combine": "editing.stack",
    "compare": "editing.compare",
    "edit_each": "editing.many",
    "edit_sequence": "editing.many",
    "edit_together": "editing.many",
    "emmet": "editing.emmet",
    "evaluate": "evaluation.runner",
    "examples_of_records": "editing.trained.examples",
    "examples_of_text": "editing.trained.examples",
    "fine_tune": "editing.fine_tune",
    "fine_tune_each": "editing.fine_tune",
    "intervene": "hooks",
    "keep_freed_memory": "models.allocator",
    "kn": "editing.kn",
    "kn_each": "editing.kn",
    "knows": "tracing.knowns",
    "load": "models.load",
    "load_editor": "editing.trained.store",
    "load_facts": "data.fact_files",
    "load_known": "data.known",
    "load_records": "data.load_records",
    "load_references": "data.load_references",
    "load_run": "evaluation.saved_run",
    "memit": "editing.memit",
    "memit_each": "editing.memit",
    "prob_with_scaled": "editing.neuron_choice",
    "progress_bar": "progress",
    "recommend_layer": "tracing.layers",
    "record": "hooks",
    "rome": "editing.rome",
    "rome_each": "editing.rome",
    "said_before": "editing.targets",
    "save_facts": "data.fact_files",
    "save_known": "data.known",
    "save_records": "data.load_records",
    "second_moments": "stats.store",
    "shared_neurons": "editing.neuron_choice",
    "sweep": "evaluation.sweep",
    "tiny_model": "models.tiny",
    "train_editor": "editing.trained.training",
}

__version__ = "0.2.0"

__all__ = [
    "METHODS",
    "AlphaEditConfig",
    "AverageTrace",
    "Background",
    "CausalTrace",
    "ContextConfig",
    "Edit",
    "EditError",
    "EditRun",
    "EmmetConfig",
    "EvalReport",
    "Fact",
    "FactlabError",
    "FineTuneConfig",
    "GaussianNoise",
    "InvalidRequestError",
    "KeConfig",
    "KnConfig",
    "KnownFact",
    "LanguageModel",
    "LayerChoice",
    "MeasureConfig",
    "MemitConfig",
    "MemoryLimitError",
    "MendConfig",
    "Method",
    "MissingPackageError",
    "ModelDiff",
    "ModelLoadError",
    "MultivariateNoise",
    "Neuron",
    "NeuronAttribution",
    "NeuronConfig",
    "Record",
    "RomeConfig",
    "Run",
    "SecondMoment",
    "Shard",
    "Site",
    "StatisticsError",
    "StatsConfig",
    "StorageError",
    "Stream",
    "StudentNoise",
    "Substitution",
    "Sweep",
    "TokenizationError",
    "TraceConfig",
    "TrainConfig",
    "TrainedEditConfig",
    "TrainedEditor",
    "UniformNoise",
    "UnsupportedModelError",
    "ValueConfig",
    "WrongModelError",
    "alphaedit",
    "attribute_neurons",
    "attribute_neurons_each",
    "average_trace",
    "build_known",
    "build_report",
    "causal_trace",
    "combine",
    "compare",
    "edit_each",
    "edit_sequence",
    "edit_together",
    "emmet",
    "errors",
    "evaluate",
    "examples_of_records",
    "examples_of_text",
    "fine_tune",
    "fine_tune_each",
    "intervene",
    "keep_freed_memory",
    "kn",
    "kn_each",
    "knows",
    "load",
    "load_editor",
    "load_facts",
    "load_known",
    "load_records",
    "load_references",
    "load_run",
    "memit",
    "memit_each",
    "prob_with_scaled",
    "progress_bar",
    "recommend_layer",
    "record",
    "rome",
    "rome_each",
    "said_before",
    "save_facts",
    "save_known",
    "save_records",
    "second_moments",
    "shared_neurons",
    "sweep",
    "tiny_model",
    "train_editor",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("factlab.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'factlab' has no attribute '{name}'")
    return getattr(importlib.import_module(f"factlab.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
