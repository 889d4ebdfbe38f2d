"""What came out of the study, in sentences with their numbers."""

import math
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from factlab.editing.variants import VARIANT_NAMES
from factlab.errors import counted
from factlab.evaluation.localising.explained import Explained, choices, is_concentrated
from factlab.evaluation.localising.plot_effects import mean_effects, peak_layers
from factlab.words import listed_ranges

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation


def method_in_words(study: "Localisation") -> list[str]:
    """What was studied, and how."""
    asked, config = study.asked, study.config
    problems = ", ".join(VARIANT_NAMES[variant] for variant in study.variants)
    widths = "; ".join(
        f"{one.label}: {counted(one.width, 'layer')} around it" for one in config.methods
    )
    return [
        f"{counted(study.n_facts, 'fact')} of {asked.data.name} that {asked.model.name} "
        f"({asked.model.dtype.removeprefix('torch.')}) knows were traced and edited at layers "
        f"{listed_ranges(study.layers)} of {study.n_layers}: {counted(len(study.edits), 'edit')}. "
        f"Methods: {widths}. Problems: {problems}.",
        f"A fact counts as known if its object has a probability of {config.least_prob:g} or more"
        + (
            f" and is among what the model says greedily in {config.answer_tokens} tokens. "
            if config.answer_tokens
            else ". "
        )
        + f"Of {counted(study.found.n_asked, 'record')} looked at, "
        f"{study.found.n_unknown:,} were not known. Noise of {study.found.noise_level:.3g} "
        f"(seed {config.seed}, {counted(config.samples, 'sample')}) is the same in traces, tracing "
        "reversal and fact forcing.",
        *study.notes,
    ]


def traces_in_words(study: "Localisation") -> list[str]:
    """Where the facts are held."""
    if not study.facts:
        return ["No fact has been traced yet."]
    effects = mean_effects(study, study.window)
    means = [-1.0 if math.isnan(one.mean) else one.mean for one in effects]
    best = means.index(max(means))
    peaks = peak_layers(study)
    n_few = sum(is_concentrated(fact, study.window) for fact in study.facts.values())
    clean = math.fsum(fact.clean_prob for fact in study.facts.values()) / study.n_facts
    noised = math.fsum(fact.corrupted_prob for fact in study.facts.values()) / study.n_facts
    said = [
        f"Noise takes the mean probability of the true object from {clean:.3f} to {noised:.3f}. "
        f"Restoring {counted(study.window, 'MLP')} around a layer at the best token brings back "
        f"most around layer {best}: {effects[best].in_words()} of what was taken, in the mean over "
        "facts.",
    ]
    if peaks:
        counts = {layer: peaks.count(layer) for layer in set(peaks)}
        most = max(counts, key=lambda layer: (counts[layer], -layer))
        said.append(
            f"Single facts peak elsewhere: at layer {most} most often ({counts[most]} of "
            f"{len(peaks)}), at layers {min(peaks)} to {max(peaks)} in all, the median being "
            f"{median(peaks):g}. The effect of {counted(n_few, 'fact')} is concentrated in few "
            "layers."
        )
    return said


def explained_in_words(study: "Localisation") -> list[str]:
    """What layers explain, and what traces add."""
    made = [one for one in study.explained("rewrite") if one.regression.can_be_made]
    if not made:
        return ["There are too few rows for a regression. Study more facts or layers."]
    by_layer = sorted(made, key=lambda one: one.regression.r2_layer)
    largest = max(made, key=lambda one: one.regression.delta)
    found = largest.regression
    above = [one for one in made if one.regression.delta_low > 0]
    said = [
        f"Which layer is edited explains {by_layer[0].regression.r2_layer:.0%} "
        f"({_where(by_layer[0])}) to {by_layer[-1].regression.r2_layer:.0%} "
        f"({_where(by_layer[-1])}) of the variance of rewrite scores. The effect that traces find "
        f"there adds {min(one.regression.delta for one in made):.3f} to {found.delta:.3f} to that "
        f"R²; most with {_where(largest)}, where its interval over facts is {found.delta_low:.3f} "
        f"to {found.delta_high:.3f} ({found.n_rows:,} rows of {counted(found.n_facts, 'fact')}).",
        _conclusion(above, len(made)),
    ]
    correlations = [one for one in made if not math.isnan(one.regression.correlation)]
    if correlations:
        ordered = sorted(correlations, key=lambda one: one.regression.correlation)
        said.append(
            "Over all rows the rewrite score and the effect correlate between "
            f"{ordered[0].regression.correlation:+.2f} ({_where(ordered[0])}) and "
            f"{ordered[-1].regression.correlation:+.2f} ({_where(ordered[-1])})."
        )
    return said


def _conclusion(above: Sequence[Explained], n_made: int) -> str:
    if not above:
        return (
            f"In none of {counted(n_made, 'case')} is that interval above 0: on this model, where "
            "a fact is held says nothing of where editing it works that the layer does not, as "
            "published."
        )
    names = ", ".join(_where(one) for one in above[:5])
    more = f" and {len(above) - 5} more" if len(above) > 5 else ""
    return (
        f"In {len(above)} of {counted(n_made, 'case')} that interval is above 0 ({names}{more}): "
        "there the trace of a fact says something of where editing it works. In the others it says "
        "nothing that the layer does not."
    )


def _where(one: Explained) -> str:
    return f"{one.method}, {VARIANT_NAMES[one.variant]}"


def choices_in_words(study: "Localisation") -> list[str]:
    """Whether choosing each fact's layer by its trace would pay."""
    found = choices(study)
    if not found:
        return []
    better = [one for one in found if one.by_trace > one.best]
    lost = math.fsum(one.best - one.by_trace for one in found) / len(found)
    return [
        "To edit every fact where its own trace points to, instead of all at one layer, would "
        f"{'lower' if lost > 0 else 'raise'} the mean rewrite score by {abs(lost):.3f} in the mean "
        f"over methods and problems; it would be better in {len(better)} of {len(found)} cases."
    ]
