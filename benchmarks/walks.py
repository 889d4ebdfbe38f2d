"""How long is the way through the house? Modules entered and texts tokenised on five walks.

    python benchmarks/walks.py

Each walk is done once on a tiny model; a module counts when one of its functions runs, a
tokenisation when the tokenizer is called. Distinct texts are the least that could be tokenised.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

import factlab as fl
from factlab.data.records import Record
from factlab.editing import configs
from factlab.editing.background import Background
from factlab.editing.trained.configs import MendConfig, TrainConfig
from factlab.editing.trained.examples import examples_of_records
from factlab.editing.trained.training import train_editor
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.reporting.report import report
from factlab.models.tiny import tiny_model
from factlab.stats.moments import SecondMoment

FACT = fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
N_RECORDS, N_EXAMPLES = 2, 20


def main() -> None:
    lm = tiny_model("gpt2")
    background = background_of(lm)
    config = configs.RomeConfig(layer=1)
    edit = fl.rome(lm, FACT, config, background)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        walks: dict[str, Callable[[], object]] = {
            "causal_trace": lambda: fl.causal_trace(lm, FACT.prompt, FACT.subject),
            "causal_trace of an answer": lambda: fl.causal_trace(lm, FACT),
            "rome": lambda: fl.rome(lm, FACT, config, background),
            f"{N_RECORDS} records to report rows": lambda: evaluated(lm, folder),
            f"train on {N_EXAMPLES} records": lambda: trained(lm, folder / "editor"),
            "to_peft": lambda: edit.to_peft(folder / "adapter"),
        }
        print("| walk | modules entered | tokenisations | distinct texts |\n|---|---:|---:|---:|")
        for title, walk in walks.items():
            modules, texts = walked(lm, walk)
            print(f"| {title} | {len(modules)} | {len(texts)} | {len(set(texts))} |")


def walked(lm: fl.LanguageModel, walk: Callable[[], object]) -> tuple[set[str], list[str]]:
    """The modules of factlab that a walk enters, and the texts that it tokenises."""
    modules: set[str] = set()
    texts: list[str] = []
    kind = type(lm.tokenizer)
    original = kind.__call__

    def counted(self: object, text: str, *args: object, **options: object) -> object:
        texts.append(text)
        return original(self, text, *args, **options)

    def look(frame: FrameType, event: str, _argument: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("factlab.") and frame.f_code.co_name != "<module>":
            modules.add(name)

    kind.__call__ = counted
    sys.setprofile(look)
    try:
        walk()
    finally:
        sys.setprofile(None)
        kind.__call__ = original
    return modules, texts


def evaluated(lm: fl.LanguageModel, folder: Path) -> object:
    """Six prompts each, as in CounterFact; no texts."""
    config = configs.FineTuneConfig(layer=1, steps=2, learning_rate=0.01)
    measure = MeasureConfig(n_generated=0)
    records = [record(i) for i in range(N_RECORDS)]
    return report(
        [fl.evaluate(lm, records, "ft", folder / "run", config, measure=measure, cache=folder)]
    )


def trained(lm: fl.LanguageModel, folder: Path) -> object:
    data = examples_of_records(lm, [record(i) for i in range(N_EXAMPLES)])
    settings = TrainConfig(max_steps=1, validate_every=1)
    return train_editor(lm, data, folder, MendConfig(), settings)


def record(number: int) -> Record:
    subject = ("Rome", "Paris", "Seattle", "Miles Davis")[number % 4] + f" {number}"
    return Record(
        case_id=number, benchmark="counterfact", relation_id="P36",
        fact=fl.Fact("{} is in the", subject, "Antarctica", "city of people"),
        paraphrase_prompts=(f"Where is it? {subject} is in", f"See {subject} in"),
        neighborhood_prompts=("The tower is in the", "A museum is in", "The river is in the"),
        generation_prompts=(f"{subject} plays", f"In {subject}, people speak many"),
    )  # fmt: skip


def background_of(lm: fl.LanguageModel) -> Background:
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, dtype=torch.float64)
    background = Background.of(
        [SecondMoment(keys.T @ keys / len(keys), 1, len(keys), "noise", lm.fingerprint)]
    )
    background.values = None  # optimised each time
    return background


if __name__ == "__main__":
    main()
