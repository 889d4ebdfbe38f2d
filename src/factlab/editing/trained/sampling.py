"""Which examples and texts a step of a training takes: all of its randomness.

It follows from the seed and the number of the step alone.
"""

import random
from collections.abc import Sequence

from factlab.editing.trained.examples import Example


def picked(
    examples: Sequence[Example], step: int, per_step: int, n_unrelated: int, seed: int
) -> list[Example]:
    """The examples of a step, each with one rephrasing and some unrelated texts, drawn anew.

    All examples come once before any comes again.

    Args:
        examples: all of them.
        step: number of the step.
        per_step: how many.
        n_unrelated: texts that go with each.
        seed: of their order and their texts.
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
        others, n = example.unrelated, n_unrelated
        unrelated = draw.sample(others, n) if len(others) >= n else draw.choices(others, k=n)
        found.append(Example(example.edit, (draw.choice(example.rephrased),), tuple(unrelated)))
    return found


def with_fixed_texts(examples: Sequence[Example], n_unrelated: int) -> list[Example]:
    """Each example with one rephrasing, in turn, and its first unrelated texts."""
    found: list[Example] = []
    for i, example in enumerate(examples):
        unrelated = (example.unrelated * n_unrelated)[:n_unrelated]
        found.append(
            Example(example.edit, (example.rephrased[i % len(example.rephrased)],), unrelated)
        )
    return found
