"""The study of localisation: rows against direct passes, runs that are killed and shared, refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import killed_as_it_writes, started
from tiny_records import background, make_record, make_records

import factlab as fl
from factlab.data.record_files import save_records
from factlab.editing import SubjectNoise, edit_variant
from factlab.editing.closed_form import values
from factlab.editing.noised import NoisedSubjects
from factlab.errors import InvalidRequestError, StorageError
from factlab.evaluation import Localisation, LocalisationConfig, LocalisedMethod, study_localisation
from factlab.evaluation.localising.asked import AskedRows
from factlab.evaluation.localising.effects import fact_effects
from factlab.evaluation.localising.known_facts import known_facts
from factlab.evaluation.localising.plan import Grid
from factlab.evaluation.scoring.problem_scores import problem_scores
from factlab.journal import Shard, merge

VALUE = "value.steps=2,contexts.groups=[[1,3]]"
METHODS = (
    "ft+l:steps=2",
    "ft+l:width=2,steps=2,forcing.steps=3",
    f"rome:{VALUE}",
    f"memit:{VALUE}",
)
SMALL = LocalisationConfig(
    layers=(1,), methods=METHODS, window=1, windows=(1,), samples=2, answer_tokens=0,
    least_prob=0, essence_texts=1, essence_tokens=10,
)  # fmt: skip
TINY = SMALL.model_copy(
    update={"layers": (0, 1), "methods": SMALL.methods[:1], "variants": ("injection", "forcing")}
)


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", dtype=torch.float64)


def study(lm, folder, config=TINY, records=None, **more):
    records = make_records(4) if records is None else records
    return study_localisation(lm, records, folder, config, background=background(lm), **more)


# -- what is written --------------------------------------------------------------------------


def test_every_row_is_what_direct_passes_say(lm, tmp_path):
    records = make_records(3)
    found = study(lm, tmp_path / "study", SMALL, records)
    assert found.n_facts == 3
    assert len(found.edits) == 3 * 4 * 5
    assert not found.n_missing
    noise = SubjectNoise(level=found.found.noise_level, samples=2, seed=0)
    for edit in found.edits[::7]:
        record, fact = records[edit.place], found.facts[edit.place]
        method = next(one for one in SMALL.methods if one.label == edit.method)
        config = method.config(edit.variant, edit.layer, lm.n_layers)
        targets = {"injection": record.fact.target_new, "reversal": fact.said}
        assert edit.target == targets.get(edit.variant, record.fact.target_true)
        (made,) = edit_variant(
            lm, [record.fact], edit.variant, method.name, config, noise, background(lm)
        )
        if edit.variant == "reversal":
            assert made.facts[0].target_new == fact.said
        noised = NoisedSubjects(lm, noise if edit.variant == "forcing" else None)
        asked = AskedRows.of(lm, record, edit.target, fact.texts, noised, 10)
        for told, applied in ((edit.before, False), (edit.after, True)):
            if applied:
                with made.applied(lm):
                    direct = logprobs(lm, asked.rows, noised)
            else:
                direct = logprobs(lm, asked.rows, noised)
            values = [told.rewrite, *told.paraphrase, *told.neighborhood, *told.essence]
            assert values == pytest.approx(direct, abs=1e-6)
        assert edit.text_lengths == tuple(len(row.ids) for row in asked.rows[-1:])


def logprobs(lm, rows, noised):
    """One row after the other, by the model's own forward pass."""
    found = []
    with lm.frozen(), noised.present(), torch.no_grad():
        for row in rows:
            logits = lm.model(input_ids=torch.tensor([row.inputs])).logits[0].double()
            picked = logits.log_softmax(-1)[list(row.reads), list(row.target_ids)]
            found.append(float(picked.sum()))
    return found


def test_effects_are_the_published_ones(lm):
    """Against the definition, from a trace of all tokens."""
    noise = SubjectNoise(level=0.4, samples=2, seed=3)
    fact = make_record(4).fact
    found = fact_effects(lm, fact, noise, (1, 2), 2)
    for window in (1, 2):
        config = fl.tracing.TraceConfig(
            samples=2, seed=3, corruption="0.4", kinds=("mlp",), window=window, answer="product"
        )
        trace = fl.causal_trace(lm, fact, answer=fact.target_true, config=config)
        span = trace.subject_span
        restored = trace.effects["mlp"].double()[span.start :] + trace.corrupted_prob
        clean = max(trace.clean_prob, float(restored.max()))
        shares = (restored - trace.corrupted_prob).clamp(min=0) / abs(trace.corrupted_prob - clean)
        assert found.by_window[window].by_layer == pytest.approx(
            shares.max(0).values.tolist(), rel=1e-4, abs=1e-6
        )
        last = shares[span.last - span.start].tolist()
        assert found.by_window[window].last_subject == pytest.approx(last, rel=1e-4, abs=1e-6)
        if window == 2:
            assert found.peak_token == int(shares.max(1).values.argmax())
    assert found.n_subject_tokens == len(lm.fact_continuation(fact).subject_ids)


def test_rows_have_scores_and_effects(lm, tmp_path):
    found = study(lm, tmp_path / "study")
    rows = found.rows()
    assert len(rows) == 4 * 2 * 1 * 2
    for row, edit in zip(rows, found.edits, strict=True):
        fact = found.facts[row["fact"]]
        assert row["effect"] == fact.effects[1].by_layer[row["layer"]]
        for ending, prompts in (("", "all"), ("_first", "first")):
            scores = problem_scores(
                edit.before, edit.after, edit.variant, edit.text_lengths, prompts
            )
            assert row[f"overall{ending}"] == scores["overall"]
        assert row["rewrite"] == scores["rewrite"]
    with pytest.raises(InvalidRequestError, match="'kn' is not in this study"):
        found.values("kn", "injection")
    assert len(found.values("ft+l", "forcing", "essence")) == 8


def test_values_of_the_same_object_are_optimised_once(lm, tmp_path, monkeypatch):
    asked = []
    optimise = values.optimise_values

    def counting(lm, requests, contexts, site, *more):
        asked.extend((one.fact.subject, one.target, one.erase, site, more[-1]) for one in requests)
        return optimise(lm, requests, contexts, site, *more)

    monkeypatch.setattr(values, "optimise_values", counting)
    cached = replace(background(lm), values=fl.editing.ValueCache(tmp_path / "values"))
    config = SMALL.model_copy(update={"methods": SMALL.methods[2:], "essence_texts": 0})
    study_localisation(lm, make_records(3), tmp_path / "study", config, background=cached)
    assert len(asked) == len(set(asked))
    assert len(asked) <= 3 * 2 * 5
    before = len(asked)
    study_localisation(lm, make_records(3), tmp_path / "again", config, background=cached)
    assert len(asked) == before


# -- runs -------------------------------------------------------------------------------------

# Blocks of many edits, so that a kill falls into one.
RESUMED = TINY.model_copy(update={"methods": (SMALL.methods[0], SMALL.methods[2])})


def studied(folder: Path, options: dict) -> None:
    lm = fl.models.tiny_model("gpt2")
    records = make_records(4)
    study_localisation(
        lm, records, folder, RESUMED, background=background(lm), batch_size=2, **options
    )


def test_a_study_killed_three_times_is_the_whole_study(make_model, tmp_path):
    """Number for number; and so is one that processes share, of which one is killed."""
    lm = make_model("gpt2")
    whole = study(lm, tmp_path / "whole", RESUMED, batch_size=2)
    folder = tmp_path / "killed"
    records = folder / "records-1-of-1.jsonl"
    for _ in range(3):
        killed_as_it_writes(started(studied, folder, {"resume": True}), folder, 0.1)
    assert Localisation.load(folder).n_missing, "killed too late to test"
    killed = study(lm, folder, RESUMED, batch_size=2, resume=True)
    assert killed.rows() == whole.rows()
    assert dict(killed.facts) == dict(whole.facts)

    shared, options = tmp_path / "shared", {"shard": Shard.any()}
    three = [started(studied, shared, options) for _ in range(3)]
    killed_as_it_writes(three[0], shared)
    for process in three[1:]:
        process.join()
        assert process.exitcode == 0
    assert Localisation.load(shared).rows() == whole.rows()
    assert [path.name for path in shared.glob("records-*")] == [records.name]
    assert (shared / records.name).read_bytes() == (tmp_path / "whole" / records.name).read_bytes()


def test_a_study_that_is_stopped_goes_on(lm, tmp_path):
    whole = study(lm, tmp_path / "whole", batch_size=2)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    part = study(lm, tmp_path / "part", batch_size=2, should_stop=stop)
    assert part.n_missing > 0
    assert "Unfinished" in repr(part)
    again = study(lm, tmp_path / "part", batch_size=2, resume=True)
    assert again.rows() == whole.rows()
    assert again.n_missing == 0


def test_shards_are_the_whole_study(lm, tmp_path):
    whole = study(lm, tmp_path / "whole", batch_size=1)
    for number in (1, 2):
        study(lm, tmp_path / f"part-{number}", shard=Shard(number, 2), batch_size=1)
    merge([tmp_path / "part-1", tmp_path / "part-2"], tmp_path / "merged")
    assert Localisation.load(tmp_path / "merged").rows() == whole.rows()
    for number in (1, 2):
        study(lm, tmp_path / "shared", shard=Shard(number, 2), batch_size=1)
    assert Localisation.load(tmp_path / "shared").rows() == whole.rows()


def test_rows_do_not_depend_on_which_facts_are_edited_together(lm, tmp_path):
    alone = study(lm, tmp_path / "alone", SMALL, make_records(3), batch_size=1)
    together = study(lm, tmp_path / "together", SMALL, make_records(3), batch_size=3)
    for one, other in zip(alone.rows(), together.rows(), strict=True):
        for name in ("rewrite", "paraphrase", "neighborhood", "essence"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), one


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_other_families(family, make_model, tmp_path):
    lm = make_model(family)
    found = study(lm, tmp_path, SMALL, make_records(3))
    assert found.n_failed == 0
    assert len(found.edits) == 3 * 4 * 5


def test_a_folder_of_another_study_is_refused(lm, make_model, tmp_path):
    study(lm, tmp_path)
    with pytest.raises(StorageError, match="Resume it"):
        study(lm, tmp_path)
    for change, words in (
        ({"config": TINY.model_copy(update={"seed": 1})}, "seed"),
        ({"records": make_records(5)}, "n_records|sha256"),
        ({"limit": 3}, "limit"),
    ):
        with pytest.raises(StorageError, match=f"belongs to another run: its .*({words})"):
            study(lm, tmp_path, resume=True, **change)
    with pytest.raises(StorageError, match="its model"):
        study(make_model("gpt2", seed=5), tmp_path, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="Empty it"):
        study(lm, tmp_path / "other")
    with pytest.raises(StorageError, match="holds no run"):
        Localisation.load(tmp_path / "other")


def test_a_damaged_row_is_named(lm, tmp_path):
    study(lm, tmp_path)
    path = tmp_path / "records-1-of-1.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    number = next(i for i, line in enumerate(lines) if line["case"] == 1)
    lines[number]["variant"] = "other"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(StorageError, match=r"Row 1 of '.*' is damaged: variant"):
        Localisation.load(tmp_path)


# -- which facts ------------------------------------------------------------------------------


def test_known_facts_are_those_that_the_model_says_and_finds_probable(lm):
    records = [
        replace(record, fact=replace(record.fact, target_true=said))
        for record in make_records(6)
        for said in (lm.generate(record.fact.prompt, 4, return_full_text=False).strip(),)
    ]
    wrong = [replace(r, fact=replace(r.fact, target_true="zebra")) for r in records[:2]]
    config = SMALL.model_copy(update={"answer_tokens": 36})
    found = known_facts(lm, [*wrong, *records], config, 4, lambda *_: None)
    assert found.places == [2, 3, 4, 5]
    assert found.n_unknown == 2
    strict = config.model_copy(update={"least_prob": 0.9})
    with pytest.raises(InvalidRequestError, match=r"Of 6 records the model knows none, .*need 3"):
        known_facts(lm, records, strict, None, lambda *_: None)


def test_records_that_cannot_be_used_are_counted_with_their_reason(lm, tmp_path):
    records = make_records(4)
    records[1] = replace(records[1], fact=replace(records[1].fact, target_true=None))
    found = study(lm, tmp_path, records=records)
    assert found.n_facts == 3
    assert "1 record that cannot be used, the first: " in " ".join(found.notes)
    assert [fact.record for fact in found.facts.values()] == [0, 2, 3]


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"layers": (0, 9)}, "Layer 9 is out of range: the model has layers 0 to 2"),
        ({"methods": ["kn"]}, "'kn' is not put at a layer"),
        ({"methods": ["rome:width=5"]}, "edits one layer, so width=5"),
        ({"methods": ["rome", "rome:value.steps=3"]}, "'rome' is named twice"),
        ({"methods": ["rome:stepps=3"]}, "no setting 'stepps'"),
        ({"methods": []}, "no method to study"),
        ({"variants": "forcin"}, "Did you mean 'forcing'"),
        ({"windows": (9,)}, "window of 9 layers is wider than the model"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(config, words, lm, tmp_path):
    with pytest.raises(InvalidRequestError, match=words):
        study(lm, tmp_path / "out", LocalisationConfig(**{**dict(SMALL), **config}))
    assert not (tmp_path / "out").exists()


def test_a_variant_that_a_method_cannot_do_is_refused_before_a_model_is_loaded(run, tmp_path):
    save_records(make_records(4), tmp_path / "records.json")
    code, _, error = run(
        "study", "localisation", "--data", tmp_path / "records.json", "--method", "ultraedit",
        "--out", tmp_path / "out", "--model", "nowhere/nothing",
    )  # fmt: skip
    assert code == 2
    assert "'ultraedit'" in error
    assert not (tmp_path / "out").exists()


def test_records_that_lack_what_is_needed_are_refused(lm, tmp_path):
    for records, words in (
        (make_records(2), "There are 2 records, and the regressions need 3"),
        ([replace(r, paraphrase_prompts=()) for r in make_records(4)], "No record has paraphrases"),
        (
            [replace(r, neighborhood_prompts=()) for r in make_records(4)],
            "No record has neighbours",
        ),
        (
            [replace(r, fact=replace(r.fact, target_true=None)) for r in make_records(4)],
            "No record says what is true",
        ),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            study(lm, tmp_path, records=records)


def test_the_grid_numbers_every_row_once():
    grid = Grid.of(SMALL, 3)
    cases = [case for place in range(3) for cell in grid.cells for case in grid.cases(place, cell)]
    facts = [grid.fact_case(place) for place in range(3)]
    in_turn = grid.cases_in_turn(range(3))
    assert sorted([*cases, *facts]) == list(range(3 * grid.n_rows)) == sorted(in_turn)
    memit = LocalisedMethod.parse("memit")
    assert [memit.layers(layer, 8) for layer in (0, 4, 7)] == [
        (0, 1, 2),
        (2, 3, 4, 5, 6),
        (5, 6, 7),
    ]
    assert LocalisedMethod.parse("ft:width=2").layers(3, 8) == (2, 3)
    assert LocalisationConfig().layers_of(30) == (0, 4, 8, 12, 16, 20, 24, 28)
    assert LocalisationConfig().windows_of(3) == (1, 3)


def test_settings_of_a_variant_win_over_those_of_the_method():
    method = LocalisedMethod.parse("ft+l:width=3,steps=7,epsilon=1e-3,forcing.steps=9")
    assert method.label == "ft+l ×3"
    plain, forced = (method.config(variant, 1, 9) for variant in ("erasure", "forcing"))
    assert (plain.steps, forced.steps) == (7, 9)
    assert plain.layers == forced.layers == (0, 1, 2)
    assert forced.epsilon == 1e-3


# -- the command ------------------------------------------------------------------------------


def test_the_command_makes_the_study_and_goes_on(run, tmp_path):
    save_records(make_records(4), tmp_path / "records.json")
    options = (
        "study", "localisation", "--model", "tiny:gpt2", "--data", tmp_path / "records.json",
        "--layers", "0,1", "--methods", "ft:steps=1", "--variants", "injection", "--samples", 2,
        "--window", 1, "--windows", 1, "--answer-tokens", 0, "--least-prob", 0, "--essence", 0,
        "--out", tmp_path / "out", "--limit", 3,
    )  # fmt: skip
    code, said, error = run(*options)
    assert code == 0, error
    assert "3 facts, 6 edits" in said
    assert run(*options)[0] == 2
    assert run(*options, "--resume")[0] == 0
    assert math.isfinite(Localisation.load(tmp_path / "out").rows()[0]["rewrite"])
