"""Which examples and texts a step of a training takes: all of its randomness.

It follows from the seed and the number of the step alone.
"""

import random
from collections.abc import Sequence

from factlab.continuations import Continuation
from factlab.editing.trained.examples import Example


def picked(
    examples: Sequence[Example],
    step: int,
    per_step: int,
    n_unrelated: int,
    seed: int,
    n_ordinary: int = 0,
) -> list[Example]:
    """The examples of a step, each with one rephrasing and some texts that must stay, drawn anew.

    All examples come once before any comes again.

    Args:
        examples: all of them.
        step: number of the step.
        per_step: how many.
        n_unrelated: texts near it that go with each.
        seed: of their order and their texts.
        n_ordinary: passages of ordinary text that go with each, if it has any.
    """
    found: list[Example] = []
    start = step * per_step
    orders: dict[int, list[int]] = {}
    for place in range(start, start + per_step):
        epoch, number = divmod(place, len(examples))
        if epoch not in orders:
            orders[epoch] = list(range(len(examples)))
            random.Random(f"{seed} order {epoch}").shuffle(orders[epoch])  # noqa: S311
        example = examples[orders[epoch][number]]
        draw = random.Random(f"{seed} texts {place}")  # noqa: S311 - not a secret
        unrelated = _drawn(draw, example.unrelated, n_unrelated)
        rephrased = (draw.choice(example.rephrased),)
        ordinary = _drawn(draw, example.ordinary, n_ordinary)
        found.append(Example(example.edit, rephrased, unrelated, ordinary))
    return found


def _drawn(draw: random.Random, texts: Sequence[Continuation], n: int) -> tuple[Continuation, ...]:
    if not texts:
        return ()
    return tuple(draw.sample(texts, n) if len(texts) >= n else draw.choices(texts, k=n))


def with_fixed_texts(
    examples: Sequence[Example], n_unrelated: int, n_ordinary: int = 0
) -> list[Example]:
    """Each example with one rephrasing, in turn, and its first texts that must stay."""
    return [
        Example(
            example.edit,
            (example.rephrased[i % len(example.rephrased)],),
            (example.unrelated * n_unrelated)[:n_unrelated],
            (example.ordinary * n_ordinary)[:n_ordinary],
        )
        for i, example in enumerate(examples)
    ]
