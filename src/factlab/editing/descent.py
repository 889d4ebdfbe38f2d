"""Descent on many independent problems at once, each of which leaves when it is done.

A problem is a fact, or a set of facts that share their parameters. Its parameters are one row of
each of some stacks; rows do not depend on each other, so a problem ends the same whatever others
there are. What is minimised is the objective's business, how far to go along a gradient the step
rule's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import EditError

Loss = Float[Tensor, " problem"]
# Parameters of all problems; the first dimension is the problem.
Stack = Float[Tensor, "problem ..."]


@runtime_checkable
class StepRule(Protocol):
    """How far to go, for one stack of parameters."""

    def move(self, gradient: Stack, loss: Loss) -> Stack:
        """What to add to the parameters."""
        ...

    def keep(self, problems: Tensor) -> None:
        """Go on with these rows only."""
        ...


class Evaluation(NamedTuple):
    """What an objective says of the problems that are left.

    Attributes:
        loss: of each.
        terms: of each what to note of this step, the loss among it as `loss`.
        is_done: whether each has come far enough.
    """

    loss: Loss
    terms: Sequence[Mapping[str, float]]
    is_done: Sequence[bool]


@runtime_checkable
class Objective(Protocol):
    """What is minimised."""

    def evaluate(self, stacks: Sequence[Stack], is_last: bool) -> Evaluation:
        """The losses; nobody will ask for gradients if it is the last time."""
        ...

    def gradients(self) -> Sequence[Stack]:
        """Of the losses that were evaluated last, one for each stack."""
        ...

    def keep(self, problems: Sequence[int]) -> None:
        """Go on with these of the problems that are left."""
        ...

    def bound(self, stacks: Sequence[Stack]) -> None:
        """Bring parameters that went too far back, in place."""
        ...

    def name(self, problem: int) -> str:
        """What to call a problem, by its number at the beginning."""
        ...

    def refusal(self, problem: int, gradients: Sequence[Tensor]) -> EditError | None:
        """Why a problem cannot be solved, seen from its first gradients; None if it may be."""
        ...


@dataclass(frozen=True, slots=True)
class Descended:
    """Where a problem ended.

    Attributes:
        parameters: its row of each stack, on the CPU.
        history: what was noted of each step.
    """

    parameters: list[Tensor]
    history: list[Mapping[str, float]]


def descend(
    objective: Objective,
    stacks: Sequence[Stack],
    rules: Sequence[StepRule],
    n_steps: int,
    begin: Callable[[int], None],
) -> list[Descended | EditError]:
    """Go down until every problem is done.

    Args:
        objective: what to minimise.
        stacks: parameters to begin at; they are changed.
        rules: one for each stack.
        n_steps: most evaluations of the loss.
        begin: called with the number of every step before it is done.

    Returns:
        For each problem where it ended, or why it could not be solved.
    """
    ends: dict[int, Descended | EditError] = {}
    histories: list[list[Mapping[str, float]]] = [[] for _ in stacks[0]]
    remaining = list(range(len(histories)))
    stacks = list(stacks)
    for step in range(n_steps):
        begin(step)
        is_last = step == n_steps - 1
        loss, terms, is_done = objective.evaluate(stacks, is_last)
        rows: list[int] = []  # that go on
        for row, problem in enumerate(remaining):
            histories[problem].append(terms[row])
            if not math.isfinite(terms[row]["loss"]):
                ends[problem] = EditError(
                    f"The loss of {objective.name(problem)} became {terms[row]['loss']} at step "
                    f"{step}. Make the steps smaller, or use float32."
                )
            elif is_done[row] or is_last:
                reached = [stack[row].detach().to("cpu", copy=True) for stack in stacks]
                ends[problem] = Descended(reached, histories[problem])
            else:
                rows.append(row)
        if not rows:
            break
        gradients = objective.gradients()
        if step == 0:
            rows = _solvable(objective, remaining, gradients, rows, ends)
            if not rows:
                break
        if len(rows) < len(remaining):
            remaining = [remaining[row] for row in rows]
            objective.keep(rows)
            loss = _rows(loss, rows)
            stacks = [_rows(stack, rows) for stack in stacks]
            gradients = [_rows(gradient, rows) for gradient in gradients]
            for rule, stack in zip(rules, stacks, strict=True):
                rule.keep(torch.tensor(rows, device=stack.device))
        for stack, gradient, rule in zip(stacks, gradients, rules, strict=True):
            stack.add_(rule.move(gradient, loss.to(stack.device)))
        objective.bound(stacks)
    return [ends[problem] for problem in range(len(histories))]


def _solvable(
    objective: Objective,
    remaining: Sequence[int],
    gradients: Sequence[Stack],
    rows: Sequence[int],
    ends: dict[int, Descended | EditError],
) -> list[int]:
    """Those of some rows that the objective does not refuse; why it refuses others goes to ends."""
    kept: list[int] = []
    for row in rows:
        refusal = objective.refusal(remaining[row], [gradient[row] for gradient in gradients])
        if refusal is None:
            kept.append(row)
        else:
            ends[remaining[row]] = refusal
    return kept


def _rows(stack: Stack, rows: Sequence[int]) -> Float[Tensor, "kept ..."]:
    return stack[torch.tensor(rows, device=stack.device)]
