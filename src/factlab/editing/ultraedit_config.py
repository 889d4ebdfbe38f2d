"""The settings of UltraEdit; nothing here needs PyTorch."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from factlab.editing.configs import MethodConfig

# Projections of an MLP: into its hidden layer, and out of it.
MlpPart = Literal["gate", "up", "down"]


class UltraEditConfig(MethodConfig):
    """Settings of UltraEdit.

    Attributes:
        layers: 0-based; by default the preset's, or those at the same share of the depth.
        parts: which projections of their MLPs: `gate` and `up` into the hidden layer, of which an
            MLP that is not gated has `up` alone, as one that stores both as one matrix; and `down`
            out of it. By default the preset's.
        weights: parameter names of the projections, in place of layers and parts. A method that has
            settled what was left open fills it in.
        learning_rate: η; by default the preset's, or by how large the outputs of the projections
            are (`factlab.editing.closed_form.ultraedit`).
        ridge: what is added to the diagonal of HᵀH; the paper's 1.
        spare_mean: write nothing along the mean of the inputs seen so far, which is in every text;
            for turns of few facts (factlab; see `docs/results/scaling.md`).
    """

    added: ClassVar[frozenset[str]] = frozenset({"spare_mean"})
    layer_setting: ClassVar[Literal["layer", "layers"] | None] = "layers"

    layers: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    parts: tuple[MlpPart, ...] | None = Field(default=None, min_length=1)
    weights: tuple[str, ...] | None = Field(default=None, min_length=1)
    learning_rate: PositiveFloat | None = None
    ridge: PositiveFloat = 1.0
    spare_mean: bool = False

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers, if they are set."""
        return self.layers or ()
