"""Writes a room of the museum: one folder of each kind that factlab saves, by this version.

    python tests/museum/make.py 0.1.0

Rooms are made once, when a version is released or a format changes, and never made again: later
versions must read what is there. What was computed on the day is in `expected.json` beside it.
Models are small random ones, so that a room takes a few hundred kilobytes.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import factlab as fl

PROMPT = "The Eiffel Tower is located in the city of"
FACTS = [
    fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris"),
    fl.Fact("{} is in downtown", "The Space Needle", "Paris", "Seattle"),
]
CONTEXTS = fl.ContextConfig(groups=((1, 3),))
VALUE = fl.ValueConfig(steps=3)
ROME = fl.RomeConfig(layer=0, value=VALUE, contexts=CONTEXTS)
MEMIT = fl.MemitConfig(layers=(0, 1), value=VALUE, contexts=CONTEXTS)
FINE_TUNING = fl.FineTuneConfig(layer=1, steps=3, learning_rate=0.01)
TRAINING = fl.TrainConfig(
    max_steps=4, validate_every=2, learning_rate=1e-3, examples_per_step=3, n_validation=3
)  # fmt: skip


def background(lm: fl.LanguageModel) -> fl.Background:
    """Second moments of noise for every layer."""
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(
        4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64, device="cpu"
    )
    moment = keys.T @ keys / len(keys)
    return fl.Background.of(
        [fl.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(3)]
    )


def records(count: int) -> list[fl.Record]:
    """Benchmark records with paraphrases, neighbours and prompts for texts."""
    return [
        fl.Record(
            case_id=i,
            benchmark="counterfact",
            relation_id="P36",
            fact=fl.Fact("{} is in", f"Place {i}", "Rome" if i % 2 else "Paris", "Seattle"),
            paraphrase_prompts=(f"Where is Place {i}? In", f"Place {i} is a city in"),
            neighborhood_prompts=("The Space Needle is in", "Miles Davis plays"),
            generation_prompts=(f"Place {i} plays",),
        )
        for i in range(count)
    ]


def save_weights(lm: fl.LanguageModel, path: Path) -> None:
    """The model itself: what random models are like may change."""
    path.parent.mkdir(exist_ok=True)
    save_file({name: p.detach().contiguous() for name, p in lm.model.named_parameters()}, path)


def logprobs(lm: fl.LanguageModel) -> list[float]:
    """Of the first tokens after PROMPT."""
    probs = lm.next_token_probs([PROMPT])[0]
    return [round(float(p), 7) for p in probs.log()[:40]]


def edits(room: Path) -> dict[str, list[float]]:
    """Edits of every kind, and what the model says under each."""
    expected: dict[str, list[float]] = {}
    for family in ("gpt2", "llama"):
        lm = fl.tiny_model(family)
        save_weights(lm, room / "models" / f"{family}.safetensors")
        made = {
            "rome": fl.rome(lm, FACTS[0], ROME, background(lm)),
            "memit": fl.memit(lm, FACTS, MEMIT, background(lm)),
            "fine-tuned": fl.fine_tune(lm, FACTS[:1], "ft+l", FINE_TUNING),
            "kn": fl.kn(lm, FACTS[:1]),
        }
        expected[f"{family}/unedited"] = logprobs(lm)
        for name, edit in made.items():
            edit.save(room / "edits" / family / name)
            with edit.applied(lm):
                expected[f"{family}/{name}"] = logprobs(lm)
        made["rome"].to_peft(room / "adapters" / family)
    return expected


def main(version: str) -> None:
    """Write the room of a version."""
    room = Path(__file__).parent / version
    room.mkdir()
    lm = fl.tiny_model("gpt2")
    expected: dict[str, object] = {"logprobs": edits(room)}

    trace = fl.causal_trace(lm, FACTS[0], fl.TraceConfig(samples=2))
    trace.save(room / "trace.json")
    expected["trace_peak"] = list(trace.peak("mlp"))
    attribution = fl.attribute_neurons(lm, PROMPT, "Paris")
    attribution.save(room / "neurons.json")
    expected["strongest_neuron"] = attribution.strongest

    known = [
        fl.Fact("{} is in the", subject)
        for subject in ("Rome", "Paris", "Seattle", "The Eiffel Tower")
    ]
    average = fl.average_trace(lm, known, fl.TraceConfig(samples=2), room / "average")
    expected["average_total_effect"] = average.total_effect.mean

    run = fl.evaluate(
        lm, records(4), "rome", room / "run", ROME, measure=fl.MeasureConfig(n_generated=1, text_tokens=10),
        background=background(lm),
    )  # fmt: skip
    expected["rows"] = [row.model_dump(mode="json") for row in run.rows]
    asked = iter([False] * 5)
    fl.evaluate(
        lm, records(4), "ft", room / "unfinished-run", FINE_TUNING, batch_size=1,
        measure=fl.MeasureConfig(n_generated=0),
        should_stop=lambda: next(asked, True),
    )  # fmt: skip

    llama = fl.tiny_model("llama")
    for kind, network in {
        "mend": fl.MendConfig(n_blocks=2, rank=4),
        "ke": fl.KeConfig(n_blocks=2, hidden=4, condition=4),
    }.items():
        data = fl.examples_of_records(llama, records(24))
        fl.train_editor(llama, data, room / kind, network, TRAINING)

    background(lm).moments[0].save(room / "second-moment.safetensors")
    fl.save_facts(FACTS, room / "facts.csv")
    fl.save_records(records(4), room / "records.json")
    (room / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FACTLAB_CACHE"] = cache
        main(sys.argv[1])
