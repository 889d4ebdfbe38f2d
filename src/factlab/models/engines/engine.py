"""What it takes to run a part of a model, and the two ways of doing it.

An engine makes a batch of tokens ready (`frame`), runs layers of it (`step`, `run`) and turns what
leaves the last layer into logits (`readout`). What is run may begin at any layer; and at any token,
with what was kept of the tokens on the left (`kept.Recording`, `kept.Prefix`). The caller deals
with the tokens that are run and no others, in hooks too.

| engine | runs | keeps of a token | for |
|---|---|---|---|
| `replay.Replay` | one layer at a time, from any token on | keys and values | attention alone |
| `states.StatesReplay` | one layer at a time, over whole texts | states | other mixers |
| `plain.PlainPasses` | whole forward passes | states | everything else |

Which one a model gets is found out when it is loaded (`factlab.models.check`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.columns import ALL, Columns
from factlab.models.engines.kept import Prefix, Recording
from factlab.tokens import TokenBatch

Hidden = Float[Tensor, "batch pos d_model"]
# The arguments, besides the hidden state, that a model passes to one layer.
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A batch of tokens ready to enter the layers.

    Attributes:
        entry: the input of layer 0, (batch, pos, d_model).
        calls: for each layer the arguments, besides the hidden state, that the model passes it;
            None where it passes the layer over, as cross-attention to an image that is not there.
        left: what is kept of the tokens on the left, or is to be kept of these.
        columns: which of those that are run are the caller's.
        inputs: what the model is called with, for an engine that calls all of it.
    """

    entry: Hidden
    calls: list[Call | None] = field(default_factory=list)
    left: Recording | Prefix | None = None
    columns: Columns = ALL
    inputs: dict[str, Any] = field(default_factory=dict)


class Engine(ABC):
    """Runs any part of a model; see the module.

    Attributes:
        name: in results and figures.
        steps: whether layers can be run one at a time. Otherwise each step is a whole pass.
        columns: of what is being run just now; hooks see these.
        takes_embedding: whether layers take more of a text than the state that enters them, such as
            its embedding. What is put in place of a state must then belong to the text as it is.
    """

    name: ClassVar[str]
    steps: ClassVar[bool] = True
    columns: Columns = ALL
    takes_embedding: bool = False

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """Number of decoder layers."""

    @property
    def replays_other_texts(self) -> bool:
        """Whether layers can be run one by one on states that no text has, as corrupted ones."""
        return self.steps and not self.takes_embedding

    def recording(self, capacity: int) -> Recording:
        """An empty record for at most so many tokens."""
        return Recording(self.n_layers, capacity)

    @abstractmethod
    def frame(
        self,
        batch: TokenBatch,
        left: Recording | Prefix | None = None,
        start: int = 0,
        rows: int | None = None,
    ) -> Frame:
        """Make columns `start` onwards of a batch ready.

        Args:
            batch: the tokens, columns left of `start` included.
            left: what was kept of columns left of `start`, or a record that is to be filled while
                the layers run.
            start: first column to run.
            rows: run this many rows, the batch repeated, instead of the batch's own number.
        """

    @abstractmethod
    def step(self, frame: Frame, hidden: Hidden, layer: int) -> Hidden:
        """Run one layer."""

    def run(
        self, frame: Frame, hidden: Hidden | None = None, first: int = 0, stop: int | None = None
    ) -> Hidden:
        """Run layers `first` up to, not including, `stop`.

        Args:
            frame: what `frame()` returned.
            hidden: input of layer `first`; the frame's own entry by default.
            first: first layer to run.
            stop: layer to stop before; by default none, and `readout` takes what is returned.
        """
        state = frame.entry if hidden is None else hidden
        for layer in range(first, self.n_layers if stop is None else stop):
            state = self.step(frame, state, layer)
        return state

    @abstractmethod
    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits of states that leave the last layer."""

    @contextmanager
    def _showing(self, columns: Columns) -> Iterator[None]:
        """Let hooks inside the block see these columns."""
        before, self.columns = self.columns, columns
        try:
            yield
        finally:
            self.columns = before


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The state with which a layer is called: its first argument that is a tensor."""
    values = (*args[:1], *kwargs.values())
    return next((value for value in values if isinstance(value, Tensor)), None)


def select_rows(hidden: Hidden, positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_model"]:
    """Each row's state at its own position."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), positions]


def first_tensor(output: Any) -> Tensor:
    """The state in what a layer returned: a tensor, or a tuple or list that begins with it."""
    return output[0] if isinstance(output, tuple | list) else output
