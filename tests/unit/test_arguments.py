"""Wrong kinds of arguments are refused in one sentence, by every public function."""

import inspect

import pytest
from public_names import public_names

import factlab as fl
from factlab.errors import InvalidRequestError

LOOKED_AT = {"lm", "fact", "facts", "config", "progress"}
# Facts of another kind; a corpus is made of a model that the caller's function has looked at.
ELSEWHERE = {
    "save_known",
    "corpus_from_dataset",
    "corpus_from_files",
    "corpus_from_model",
    "corpus_from_texts",
}
PUBLIC = public_names()
FUNCTIONS = sorted(
    name
    for name, function in PUBLIC.items()
    if inspect.isfunction(function)
    and LOOKED_AT & {*inspect.signature(function).parameters}
    and name not in ELSEWHERE
)
WITH_MODEL = [n for n in FUNCTIONS if "lm" in inspect.signature(PUBLIC[n]).parameters]


def test_there_are_such_functions():
    assert len(WITH_MODEL) > 20
    assert {"rome", "evaluate", "causal_trace"} <= {*FUNCTIONS}


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_model_without_its_wrapper(name):
    function = PUBLIC[name]
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    with pytest.raises(InvalidRequestError, match=r"lm is a object, not a LanguageModel"):
        function(*([object()] * len(needed)))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in {"intervene", "record"}])
def test_every_function_that_tells_its_progress_takes_true(name):
    parameters = inspect.signature(PUBLIC[name]).parameters
    if "progress" in parameters:
        assert hasattr(PUBLIC[name], "__wrapped__")


CASES = [
    (lambda lm, fact: fl.rome(lm, [fact, fact]), "takes one Fact, and a list of 2 .* fl.editing.rome_each"),
    (lambda lm, fact: fl.rome(lm, fact.prompt), "fact is a str, not a Fact"),
    (lambda lm, fact: fl.causal_trace(lm, [fact]), "a list of 1 .* fl.average_trace"),
    (lambda lm, fact: fl.causal_trace(lm, 3), "is a int, not a Fact"),
    (fl.average_trace, r"one Fact was given. Put it into a list: \[fact\]"),
    (lambda lm, fact: fl.memit(lm, [fact, "Rome"]), r"facts\[1\] is a str, not a Fact"),
    (lambda lm, fact: fl.memit(lm, (f for f in [fact])), "facts is a generator"),
    (lambda lm, fact: fl.rome(lm, fact, {"layer": 1}), r"config is a dict.*fl.editing.RomeConfig\(\*\*config\)"),
    (lambda lm, fact: fl.rome(lm, fact, fl.editing.MemitConfig()), "config is a MemitConfig, and rome takes a RomeConfig"),
    (lambda lm, fact: fl.edit_each(lm, [fact], config={"layer": 1}), "config is a dict"),
    (lambda lm, fact: fl.neurons.attribute_neurons_each(lm, fact.prompt), "one str was given"),
    (lambda lm, fact: fl.neurons.shared_neurons(fl.attribute_neurons(lm, fact)), "one NeuronAttribution was given"),
    (lambda lm, fact: fl.editing.fine_tune(lm, fact, fl.editing.FineTuneConfig()), "method is a FineTuneConfig, and fine_tune takes one of these names: ft, "),
    (lambda lm, fact: fl.edit_each(lm, [fact], fl.editing.RomeConfig()), "method is a RomeConfig, and edit_each takes a str or Method"),
    (lambda lm, fact: fl.rome(lm, fact, progress=3), "progress cannot be 3"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), CASES)
def test_other_kinds_are_refused(make_model, fact, call, sentence):
    with pytest.raises(InvalidRequestError, match=sentence):
        call(make_model("gpt2"), fact)


@pytest.mark.parametrize(
    "method", ["memit", "emmet", "alphaedit", "kn", "fine_tune", "ultraedit"],
)  # fmt: skip
def test_one_fact_is_a_list_of_it(make_model, fact, method, monkeypatch):
    seen = []
    function = PUBLIC[method]
    module = inspect.getmodule(inspect.unwrap(function))
    monkeypatch.setattr(module, "listed", lambda facts: seen.append(facts) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        function(make_model("gpt2"), fact)
    assert seen == [fact]


def test_one_fact_gives_the_edit_of_a_list_of_it(make_model, fact):
    lm = make_model("gpt2")
    config = fl.editing.KnConfig(threshold=0.1)
    assert (
        fl.editing.kn(lm, fact, config).facts == fl.editing.kn(lm, [fact], config).facts == (fact,)
    )
