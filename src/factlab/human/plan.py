"""Who sees what: items for raters, and the order of passages on every page."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from factlab.human.configs import HumanConfig


class PlannedPage(NamedTuple):
    """A page of one rater.

    Attributes:
        item: number of the item, from 0.
        order: which method stands behind each letter.
    """

    item: int
    order: tuple[int, ...]


def plan_pages(config: HumanConfig, n_methods: int) -> list[list[PlannedPage]]:
    """The pages of every rater.

    Every rater gets those items that fewest have got so far, the seed deciding between equals; so
    an item has at most one rater more than another, whoever comes last. Raters of one item see its
    passages turned round by one place each, so that every method stands behind every letter
    equally often.

    Args:
        config: numbers and seed.
        n_methods: passages of an item.

    Examples:
        >>> from factlab.human.plan import plan_pages
        >>> pages = plan_pages(fl.human.HumanConfig(items=4, per_rater=2, raters=2), 3)
        >>> sorted(page.item for rater in pages for page in rater)
        [0, 1, 2, 3]
    """
    random = np.random.default_rng([config.seed, 1])
    seen = np.zeros(config.items, dtype=np.int64)
    turns: list[Sequence[int]] = [()] * config.items
    raters: list[list[PlannedPage]] = []
    for _ in range(config.raters):
        drawn = random.permutation(config.items)
        fewest = drawn[np.argsort(seen[drawn], kind="stable")][: config.per_rater]
        pages: list[PlannedPage] = []
        for item in map(int, random.permutation(fewest)):
            turn = int(seen[item]) % n_methods
            if turn == 0:
                turns[item] = [*map(int, random.permutation(n_methods))]
            pages.append(PlannedPage(item, (*turns[item][turn:], *turns[item][:turn])))
        seen[fewest] += 1
        raters.append(pages)
    return raters
