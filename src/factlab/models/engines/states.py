"""Replay over whole texts: layers one at a time, where something besides attention mixes tokens.

A state-space layer, a linear attention or a convolution has no keys and values to begin from at
any token. But what it does to a token still depends on the tokens before it alone. So the states
that entered each layer are kept, and a layer that is run from some token on runs over these again;
nothing below the first changed layer is. Rows are padded on the right only: not every mixer can be
told to pass over padding.
"""

from typing import Any, ClassVar

import torch

from factlab.models.engines.engine import Columns, Frame, Hidden, first_tensor
from factlab.models.engines.kept import Prefix, Recording, behind
from factlab.models.engines.replay import Replay
from factlab.tokens import TokenBatch


class StatesReplay(Replay):
    """See the module; arguments as for `Replay`."""

    name: ClassVar[str] = "replay over whole texts"

    def frame(
        self,
        batch: TokenBatch,
        left: Recording | Prefix | None = None,
        start: int = 0,
        rows: int | None = None,
    ) -> Frame:
        """See `Engine`."""
        flush, columns = on_the_left(batch, start)
        with self._showing(columns):
            entry, calls = self._shell.front(flush, None, 0, rows)
        return Frame(columns.seen(entry), calls, left, columns)

    def step(self, frame: Frame, hidden: Hidden, layer: int) -> Hidden:
        """See `Engine`."""
        call = frame.calls[layer]
        if call is None:
            return hidden
        args, kwargs = call
        whole = joined(frame, hidden, layer)
        with self._showing(frame.columns):
            output = self._layers[layer](frame.columns.inwards(whole), *args, **kwargs)
        return frame.columns.seen(first_tensor(output))


def on_the_left(batch: TokenBatch, start: int) -> tuple[TokenBatch, Columns]:
    """A batch with every row's tokens from column 0 on, and where its columns went.

    Args:
        batch: the tokens.
        start: first of the columns that are the caller's.
    """
    if not batch.pads_left:
        return batch, Columns(start)
    # Padding on the left counts as none: the columns that follow it come first, it comes last.
    n_padded = (batch.is_token.long().cumsum(1) == 0).sum(1, keepdim=True)
    places = torch.arange(batch.width, device=batch.input_ids.device)
    order = (places[None] - n_padded) % batch.width
    back = torch.empty_like(order).scatter(1, order, places.expand_as(order))
    flush = TokenBatch(batch.input_ids.gather(1, back), batch.is_token.gather(1, back), False)
    return flush, Columns(start, order)


def joined(frame: Frame, hidden: Hidden, layer: int) -> Any:
    """What enters a layer, the tokens on the left included; a record takes note of the others."""
    match frame.left:
        case Recording():
            return frame.left.append(layer, hidden[:, None])[0][:, 0]
        case Prefix():
            return behind(frame.left.kept[layer], (hidden[:, None],))[0][:, 0]
        case _:
            return hidden
