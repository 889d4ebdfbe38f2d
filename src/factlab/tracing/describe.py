"""Traces in words: what was traced, what came of it, and what to beware of."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from factlab.errors import counted
from factlab.tracing.configs import KIND_NAMES, TraceConfig
from factlab.tracing.corruption_kinds import Substitution
from factlab.tracing.groups import GROUPS, LAST, LAST_SUBJECT, POOLED

if TYPE_CHECKING:
    from factlab.tracing.average import AverageTrace
    from factlab.tracing.result import CausalTrace

_HARDLY_KNOWN = 0.2
REDRAWN = "noise drawn anew"  # as in the paper's code


def trace_in_words(trace: "CausalTrace") -> str:
    """A few lines: the prompt, the answer's probabilities, the strongest state of each kind."""
    lines = [
        f"CausalTrace of {trace.prompt!r} ({trace.model_name})",
        f"  P({trace.answer!r}) = {trace.clean_prob:.3f}; {corruption_in_words(trace)} "
        f"{trace.corrupted_prob:.3f}",
    ]
    if trace.engine not in {None, "replay"}:
        lines.append(f"  run by {trace.engine}")
    if trace.config.is_estimate:
        lines.append("  effects are estimated by a gradient: good for ranks, not for sizes")
    lines += [
        f"  {kind_in_words(kind, trace.config, trace.part_names)}: {peak_in_words(trace, kind)}"
        for kind in trace.effects
        if not trace.effects[kind].isnan().all()
    ]
    return "\n".join([*lines, *(f"  {note}" for note in trace.notes)])


def trace_notes(trace: "CausalTrace") -> tuple[str, ...]:
    """What to beware of; see `CausalTrace.notes`."""
    notes: list[str] = []
    if trace.says_expected is False and trace.expected is not None:
        notes.append(_not_expected(trace))
    elif trace.clean_prob < _HARDLY_KNOWN and trace.config.answer != "product":
        notes.append(
            f"The model gives {trace.answer!r} a probability of {trace.clean_prob:.3f} only, so it "
            "hardly knows this. Trace a prompt that it answers with more than "
            f"{_HARDLY_KNOWN}, or give the right answer to follow (answer=, --answer)."
        )
    if trace.total_effect <= 0:
        notes.append(
            "The corruption did not lower the answer's probability: there is no drop to explain. "
            "Corrupt more strongly."
        )
    return tuple(notes)


def _not_expected(trace: "CausalTrace") -> str:
    said, expected = repr(trace.said), repr(trace.expected)
    # An answer that was asked for is followed, whatever the model says.
    if trace.answer != trace.said:
        return (
            f"The model says {said} here, not {expected}: this is about an answer that it does not "
            "give. Trace a fact that it knows (fl.tracing.knows)."
        )
    return (
        f"The model says {said} here, not {expected}: this is about a wrong answer. Follow the "
        f"right one with answer={expected}, or trace a fact that it knows (fl.tracing.knows)."
    )


def average_in_words(average: "AverageTrace") -> str:
    """A few lines: how many facts, their probabilities, the strongest layer of each kind."""
    lines = [
        f"AverageTrace of {counted(average.n_facts, 'fact')} ({average.model_name})"
        + (f", {average.n_missing} still to do" if average.n_missing else "")
    ]
    if average.n_facts:
        lines.append(
            f"  P(answer) = {average.clean_prob.mean:.3f}, corrupted "
            f"{average.corrupted_prob.mean:.3f}; total effect "
            f"{average.total_effect.in_words()}"
        )
    if average.pooling != "facts":
        lines.append(f"  groups of several tokens: {POOLED[average.pooling]}")
    for kind, effects in average.effects.items():
        for group in (LAST_SUBJECT, LAST):
            if not effects[group].isnan().all():
                layer, peak = average.peak(kind, group)
                name = kind_in_words(kind, average.config, average.part_names)
                lines.append(
                    f"  {name}, {GROUPS[group]}: "
                    f"{average.config.effect_name} {peak.in_words()} at layer {layer}"
                )
    return "\n".join(lines)


def corruption_in_words(trace: "CausalTrace") -> str:
    """What was done to the subject, such as `with noise (ν = 0.35, 10 samples) on 'Rome'`."""
    corruption = trace.config.corruption
    if isinstance(corruption, Substitution):
        return f"with {' or '.join(map(repr, corruption.subjects))} instead of {trace.subject!r}"
    behind = (
        f" and {counted(corruption.extra_tokens, 'token')} behind it"
        if corruption.extra_tokens
        else ""
    )
    return f"with {noise_in_words(trace.config, trace.noise_level)} on {trace.subject!r}{behind}"


def noise_in_words(config: TraceConfig, level: float | None) -> str:
    """Kind, size and samples of the noise; the substitutes where there is none."""
    corruption = config.corruption
    if isinstance(corruption, Substitution):
        return f"{' or '.join(corruption.subjects)} in the subject's place"
    size = "" if level is None else f"ν = {level:.3g}, "
    return f"{corruption.type} noise ({size}{counted(config.samples, 'sample')})"


def kind_in_words(
    kind: str, config: TraceConfig, part_names: Mapping[str, str] | None = None
) -> str:
    """A kind of state, and how many layers of it were restored together.

    Args:
        kind: of state.
        config: of the trace.
        part_names: what stands for attention and for the MLP in this model.
    """
    several = f", {config.window} layers at a time" if config.is_window(kind) else ""
    if config.redraws and kind.endswith("severed"):
        several = f", {REDRAWN}"
    names = part_names or {}
    said = KIND_NAMES[kind].replace("attention", names.get("attn", "attention"))
    return said.replace("MLP", names.get("mlp", "MLP")) + several


def peak_in_words(trace: "CausalTrace", kind: str) -> str:
    """The strongest state of a kind; of an exact trace also its share of the drop."""
    position, layer, effect = trace.peak(kind)
    where = f"at {(trace.tokens[position].strip() or trace.tokens[position])!r}, layer {layer}"
    if trace.config.is_estimate:
        return f"largest estimate {effect:+.3f} {where}"
    share = f" ({effect / trace.total_effect:.0%} of the drop)" if trace.total_effect > 0 else ""
    return f"strongest {effect:+.3f} {where}{share}"
