"""What results show of themselves: in words, in notebooks, as rows and as pictures."""

import dataclasses
import logging
import sys
from html import escape

import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

import factlab as fl
from factlab.cli.heatmap import heatmap
from factlab.editing.presets import PRESETS, beside_preset
from factlab.equality import same
from factlab.errors import InvalidRequestError, MissingPackageError
from factlab.tracing.groups import GROUPS, LAST_SUBJECT
from factlab.tracing.plot import plot_trace
from factlab.tracing.plot_average import average_figures
from factlab.tracing.scales import scales

PROMPT, SUBJECT = "See the Space Needle is in", "Space Needle"
FACTS = [
    fl.Fact("{} is in the city of", subject)
    for subject in ("Space Needle", "Big Ben", "The Colosseum")
]
FEW = fl.tracing.TraceConfig(samples=2, window=2)
ESTIMATED = fl.tracing.TraceConfig(samples=2, window=2, method="gradient")


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", seed=1)


@pytest.fixture
def trace(lm):
    return fl.causal_trace(lm, PROMPT, SUBJECT, config=FEW)


@pytest.fixture
def average(lm):
    return fl.average_trace(lm, FACTS, FEW)


@pytest.fixture
def results(lm, trace, average):
    return [trace, average, fl.attribute_neurons(lm, PROMPT), fl.recommend_layer(lm, FACTS)]


def texts_of(figure: Figure) -> str:
    """Everything that is written in a figure."""
    return "\n".join(
        text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))
    )


# -- equality ------------------------------------------------------------------------------------


def test_a_loaded_trace_equals_the_saved_one(trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    again = fl.CausalTrace.load(tmp_path / "t.safetensors")
    assert (trace == again) is True
    assert hash(trace) == hash(again)
    assert {trace: 1}[again] == 1


def test_loaded_neurons_equal_the_saved_ones(lm, tmp_path):
    found = fl.attribute_neurons(lm, PROMPT)
    found.save(tmp_path / "n.safetensors")
    assert fl.neurons.NeuronAttribution.load(tmp_path / "n.safetensors") == found


def test_a_loaded_average_equals_the_one_that_was_made(lm, tmp_path):
    average = fl.average_trace(lm, FACTS[:1], FEW, tmp_path / "run")  # one fact: NaN half-widths
    assert fl.AverageTrace.load(tmp_path / "run") == average
    assert hash(fl.AverageTrace.load(tmp_path / "run")) == hash(average)


def test_one_number_makes_a_difference(results):
    for result in results:
        assert result == dataclasses.replace(result)
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            if isinstance(value, dict) and value and all(map(torch.is_tensor, value.values())):
                first = next(iter(value))
                other = value | {first: value[first].nan_to_num() + 1}
            elif torch.is_tensor(value):
                other = value + 1
            else:
                continue
            assert result != dataclasses.replace(result, **{field.name: other}), field.name
        assert result != "another thing"


def test_nan_is_the_same_as_nan_and_a_dtype_counts():
    nan = float("nan")
    assert same({"a": (1.0, nan)}, {"a": (1.0, nan)})
    assert same(torch.tensor([nan, 1]), torch.tensor([nan, 1]))
    assert not same(torch.ones(2), torch.ones(2).double())
    assert not same([1], (1,))
    assert not same(1, True)


# -- words ---------------------------------------------------------------------------------------


def test_words_are_few(results):
    for result in results:
        lines = repr(result).splitlines()
        assert 1 < len(lines) < 12, type(result)
        assert "tensor" not in repr(result)
        assert str(result) == repr(result)
        assert type(result).__name__ in lines[0]


def test_a_notebook_sees_words_and_a_picture(results):
    for result in results:
        html = result._repr_html_()
        assert f"<pre>{escape(repr(result))}</pre>" in html
        assert "data:image/png;base64," in html


def test_signs_are_no_markup_in_a_notebook(lm):
    trace = fl.causal_trace(lm, "A <b>Space Needle</b> costs $5 in $6", "Space Needle", config=FEW)
    assert "&lt;b&gt;Space" in trace._repr_html_()


def test_one_case_has_no_interval(lm):
    average = fl.average_trace(lm, FACTS[:1], FEW)
    assert "nan" not in repr(average)
    assert "±" not in repr(average)
    assert "1 fact " in repr(average)


# -- rows ----------------------------------------------------------------------------------------


def test_rows_of_a_trace(trace):
    rows = trace.rows()
    assert len(rows) == 3 * len(trace.tokens) * 3
    for row in (rows[0], rows[-1]):
        assert row["effect"] == float(trace.effects[row["kind"]][row["position"], row["layer"]])
        assert row["token"] == trace.tokens[row["position"]]
    assert {row["position"] for row in rows if row["in_subject"]} == {*range(*trace.subject_span)}


def test_rows_of_what_was_traced_only(lm):
    config = FEW.model_copy(update={"positions": "last_subject", "layers": (1,)})
    trace = fl.causal_trace(lm, PROMPT, SUBJECT, config=config)
    assert {(row["position"], row["layer"]) for row in trace.rows()} == {
        (trace.subject_span.last, 1)
    }


def test_rows_of_an_average(average):
    row = next(r for r in average.rows() if (r["group"], r["layer"]) == ("last subject token", 2))
    assert row["effect"] == float(average.effects["block"][LAST_SUBJECT, 2])
    assert row["half_width"] == float(average.half_widths["block"][LAST_SUBJECT, 2])
    assert (row["kind"], row["n_facts"]) == ("block", 3)


def test_rows_of_neurons(lm):
    found = fl.attribute_neurons(lm, PROMPT)
    rows = found.rows(5)
    assert [(r["layer"], r["neuron"]) for r in rows] == [(n.layer, n.index) for n in found.top(5)]
    assert len(found.rows(None)) == found.attributions.numel()


def test_pandas_is_asked_for_in_one_sentence(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for result in results:
        with pytest.raises(MissingPackageError, match="pip install pandas"):
            result.to_pandas()


def test_data_frames_are_made_of_rows(results, monkeypatch):
    class Pandas:
        DataFrame = staticmethod(lambda rows: ("frame", rows))

    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    for result in results:
        assert result.to_pandas() == ("frame", result.rows())


# -- pictures ------------------------------------------------------------------------------------


def test_a_figure_comes_back_and_pyplot_knows_nothing_of_it(results, tmp_path):
    for number, result in enumerate(results):
        figure = result.plot()
        assert isinstance(figure, Figure)
        assert figure._repr_png_().startswith(b"\x89PNG")
        path = tmp_path / f"{number}.png"
        assert isinstance(result.plot(path), Figure)
        with Image.open(path) as image:
            assert image.width > 300
        with pytest.raises(InvalidRequestError, match="must end in one of"):
            result.plot(tmp_path / "picture.pgn")
    assert pyplot.get_fignums() == []


def test_an_estimate_is_called_one_everywhere(lm):
    trace = fl.causal_trace(lm, PROMPT, SUBJECT, config=ESTIMATED)
    average = fl.average_trace(lm, FACTS, ESTIMATED)
    for text in (
        texts_of(trace.plot()),
        repr(trace),
        heatmap(trace, "mlp").plain,
        repr(average),
        *(texts_of(figure) for figure in average_figures(average).values()),
    ):
        assert "estimate" in text
        assert "indirect effect" not in text
        assert "of the drop" not in text


def test_an_exact_effect_is_not_called_an_estimate(trace, average):
    for text in (texts_of(trace.plot()), repr(trace), heatmap(trace, "mlp").plain, repr(average)):
        assert "estimate" not in text


def test_kinds_that_are_compared_share_a_scale(lm):
    config = FEW.model_copy(update={"kinds": ("block", "mlp_severed", "attn_severed")})
    trace = fl.causal_trace(lm, PROMPT, SUBJECT, config=config)
    strongest = max(float(effects.max()) for effects in trace.effects.values())
    assert {scale.high for scale in scales(trace.effects).values()} == {strongest}
    images = [axes.images[0] for axes in plot_trace(trace).axes if axes.images]
    assert len({image.get_clim() for image in images}) == 1


def test_other_kinds_have_their_own_scale(trace):
    for kind, scale in scales(trace.effects).items():
        assert scale.high == float(trace.effects[kind].max())


def test_panels_say_their_maximum_and_bars_what_they_show(trace):
    written = texts_of(trace.plot())
    for kind in trace.effects:
        assert f"maximum {trace.peak(kind)[2]:.3f}" in written
    assert written.count("\nindirect effect\n") >= 3
    assert trace.prompt in written


def negative(trace, value=-0.5):
    effects = {kind: effect.clone() for kind, effect in trace.effects.items()}
    effects["mlp"][0, 0] = value
    return dataclasses.replace(trace, effects=effects)


def test_negative_effects_are_shown(trace):
    changed = negative(trace)
    assert scales(changed.effects)["mlp"].low == -0.5
    assert "negative effect" in texts_of(changed.plot())
    assert "- negative effect" in heatmap(changed, "mlp").plain
    assert "negative" not in texts_of(negative(trace, 0.0).plot()) or any(
        scale.low < 0 for scale in scales(negative(trace, 0.0).effects).values()
    )
    image = changed.plot().axes[1].images[0]
    red, green, blue, _ = image.cmap(image.norm(-0.5))
    assert red > green  # not white, and not the green of positive effects
    assert (red, green, blue) != image.cmap(image.norm(0.0))[:3]


def test_a_substitute_is_named(lm):
    config = fl.tracing.TraceConfig(
        corruption=fl.tracing.Substitution(subjects=("The Big Ben",)), window=2
    )
    prompt = "The Space Needle is in downtown"
    trace = fl.causal_trace(lm, prompt, "The Space Needle", config=config)
    assert "“The Big Ben” instead of “The Space Needle”" in texts_of(trace.plot())
    assert "'The Big Ben' instead of 'The Space Needle'" in repr(trace)


def test_control_characters_are_drawn_as_dots(trace, tmp_path):
    tokens = ("\x16", *trace.tokens[1:])
    odd = dataclasses.replace(trace, answer="\x17", prompt="a\x18b", tokens=tokens)
    written = texts_of(odd.plot(tmp_path / "t.png"))  # a glyph that is missing would be a warning
    assert "a·b" in written
    assert "“·”" in written


def test_the_bar_of_a_tall_trace_is_no_wider(lm):
    widths = []
    for prompt in (PROMPT, PROMPT + " and" * 60):
        figure = fl.causal_trace(lm, prompt, SUBJECT, config=FEW).plot()
        figure.draw_without_rendering()
        bar = next(axes for axes in figure.axes if axes.get_label() == "<colorbar>")
        widths.append(bar.get_window_extent().width)
    assert widths[1] < 1.5 * widths[0]


def test_a_one_token_subject_has_one_row(lm):
    facts = [fl.Fact("{} is in the city of", subject) for subject in ("H", "I")]
    average = fl.average_trace(lm, facts, FEW)
    assert average.n_one_token == 2
    labels = [label.get_text() for label in average.plot().axes[0].get_yticklabels()]
    assert not any(label.startswith(GROUPS[0]) for label in labels)
    mixed = fl.average_trace(lm, [*facts, FACTS[0]], FEW)
    assert mixed.n_one_token == 2
    assert "2 one-token subjects in both first and last" in texts_of(mixed.plot())
    assert "first subject token (3)" in texts_of(mixed.plot())


def test_there_is_no_figure_of_what_was_not_traced(average):
    with pytest.raises(InvalidRequestError, match="allows no figure 'severed'"):
        average.plot(name="severed")
    assert average.plot(name="lines") is not None


# -- what to beware of ---------------------------------------------------------------------------


def test_another_answer_than_expected_is_said(lm, caplog):
    fact = fl.Fact("{} is in the city of", "Space Needle", target_true="Seattle")
    with caplog.at_level(logging.WARNING):
        trace = fl.causal_trace(lm, fact, config=FEW)
    assert trace.says_expected is False
    assert trace.expected == "Seattle"
    (note,) = trace.notes
    assert f"The model says {trace.said!r} here, not 'Seattle'" in note
    assert "answer='Seattle'" in note
    assert note in caplog.text
    assert note in repr(trace)


def test_an_answer_that_the_model_does_not_give_is_said(lm):
    fact = fl.Fact("{} is in the city of", "Space Needle")
    trace = fl.causal_trace(lm, fact, answer="Seattle", config=FEW)
    assert "an answer that it does not give" in trace.notes[0]


def test_a_low_probability_is_said(trace):
    assert trace.clean_prob < 0.2
    assert f"a probability of {trace.clean_prob:.3f} only" in trace.notes[0]


def test_a_known_fact_has_no_notes(trace):
    known = dataclasses.replace(trace, clean_prob=0.5, expected="x", says_expected=True)
    assert known.notes == ()


def test_averages_do_not_warn_of_each_fact(lm, caplog):
    with caplog.at_level(logging.WARNING):
        fl.average_trace(lm, FACTS, FEW)
    assert caplog.text == ""


# -- layers --------------------------------------------------------------------------------------


def choice_of(effects, half_widths, n_facts=20):
    best = max(range(len(effects)), key=effects.__getitem__)
    return fl.tracing.LayerChoice(
        best, (best,), torch.tensor(effects), torch.tensor(half_widths), n_facts, window=1
    )


def test_layers_that_cannot_be_told_apart_are_said():
    choice = choice_of([0.1, 0.4, 0.35, 0.1, 0.0], [0.05] * 5)
    assert choice.candidates == (1, 2)
    assert choice.notes == ("Layers 1 to 2 cannot be told apart: their intervals overlap.",)
    clear = choice_of([0.1, 0.4, 0.2, 0.1, 0.0], [0.05] * 5)
    assert (clear.candidates, clear.notes) == ((1,), ())


def test_few_facts_are_said():
    nan = float("nan")
    choice = choice_of([0.1, 0.4, 0.2], [nan] * 3, n_facts=1)
    assert choice.candidates == (0, 1)  # the last is never edited
    assert "one fact has no interval" in choice.notes[0]
    assert "1 fact is few" in choice.notes[1]
    assert "2 facts are few" in choice_of([0.1, 0.4], [0.0] * 2, n_facts=2).notes[-1]


@pytest.mark.parametrize(
    ("best", "sentence"), [(3, "which is one of these"), (7, "which this contradicts")]
)
def test_the_command_says_whether_the_preset_agrees(best, sentence):
    effects = [0.0] * 10
    effects[best] = 0.5
    preset = next(one for one in PRESETS if one.rome_layer == 3)
    said = beside_preset(choice_of(effects, [0.05] * 10), preset)
    assert f"uses layer 3, the preset of {preset.model}" in said
    assert sentence in said
    assert "There is no preset" in beside_preset(choice_of(effects, [0.05] * 10), None)
