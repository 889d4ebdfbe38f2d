"""Benchmark records for tiny models, and edits of theirs that take milliseconds."""

import torch

import factlab as fl
from factlab.data.records import Record, Reference, References
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.reporting.formats import to_json, to_markdown
from factlab.evaluation.reporting.report import report as build_report

SUBJECTS = ("Rome", "Paris", "Seattle", "Miles Davis", "The Eiffel Tower", "Vinson Massif")
TARGETS = ("Antarctica", "a tower", "Seattle", "the Space Needle", "Paris", "trumpet")

ROME = fl.editing.RomeConfig(
    layer=0,
    value=fl.editing.ValueConfig(steps=2),
    contexts=fl.editing.ContextConfig(groups=((1, 3),)),
)
MEMIT = fl.editing.MemitConfig(layers=(0, 1), value=ROME.value, contexts=ROME.contexts)
FT = fl.editing.FineTuneConfig(layer=1, steps=2, learning_rate=0.01)
# A method for each mode of an evaluation.
METHOD = {"each": ("rome", ROME), "together": ("memit", MEMIT), "sequence": ("rome", ROME)}
LIKELIHOODS = MeasureConfig(n_generated=0)
TEXTS = MeasureConfig(n_generated=3, text_tokens=14)
PASSAGES = ("The Colosseum is in Rome. " * 9,)

REFERENCES: References = {
    ("P36", "Antarctica"): (
        Reference("Rome", "A museum in Antarctica."),
        Reference("Paris", "A river, a tower and people."),
    ),
    ("P36", "Seattle"): (Reference("Seattle", "Downtown Seattle is in the city."),),
}


def make_record(case_id: int, **changes) -> Record:
    """Neighbours repeat, and prompts differ in length."""
    subject, new = SUBJECTS[case_id % 6], TARGETS[case_id % 6]
    values = {
        "case_id": case_id, "benchmark": "counterfact", "relation_id": "P36",
        "fact": fl.Fact("{} is in the", subject, new, "city of people"),
        "paraphrase_prompts": (f"Where is it? {subject} is in", f"See {subject} in"),
        "neighborhood_prompts": ("The tower is in the", "A museum is in", "The tower is in the"),
        "generation_prompts": (f"{subject} plays", f"In {subject}, people speak many", subject),
    } | changes  # fmt: skip
    return Record(**values)


def make_records(count: int = 5) -> list[Record]:
    return [make_record(i) for i in range(count)]


def make_zsre(case_id: int) -> Record:
    subject = SUBJECTS[case_id % 6]
    fact = fl.Fact("Where is {}? It is in", subject, TARGETS[case_id % 6])
    return Record(
        case_id=case_id, benchmark="zsre", fact=fact, paraphrase_prompts=(f"What place has {subject}?",),
        neighborhood_prompts=("Who plays the trumpet?",), neighborhood_answers=("Miles Davis",),
    )  # fmt: skip


def background(lm) -> fl.editing.Background:
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    moment = keys.T @ keys / len(keys)
    return fl.editing.Background.of(
        [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(3)]
    )


def reports(run) -> tuple[str, dict]:
    """What a reader sees, and all the numbers; nothing that a stopwatch had a hand in."""
    report = build_report([run], exact=True)
    return to_markdown(report), to_json(report)
