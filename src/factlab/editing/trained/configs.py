"""The settings of trained editors and of their training; nothing here needs PyTorch.

A kind of editor is a subclass of `EditorNetwork` in a file of its own, and here its settings, which
say where it is; `NetworkConfig` lists them. Nothing else knows which kinds there are.
"""

from typing import ClassVar, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from factlab.config import Config
from factlab.editing.configs import MethodConfig

DataKind = Literal["counterfact", "zsre", "text"]


class _EditorConfig(Config):
    """Size and beginning of a trained editor's network.

    Attributes:
        kind: how files and commands call such editors.
        about: one sentence.
        home: module of the network's class, and its name.
        learning_rate: of a training, if nothing else is said. Measured on a model of 135M
            parameters; see docs/results/trained-editors.md.
        n_blocks: edit the MLPs of so many blocks, the last ones.
        seed: of the initial weights.
    """

    kind: ClassVar[str]
    about: ClassVar[str]
    home: ClassVar[tuple[str, str]]
    learning_rate: ClassVar[float] = 1e-4

    n_blocks: PositiveInt = 3
    seed: int = Field(default=0, ge=0)

    def widths(self, d_embedding: int) -> tuple[int, ...]:
        """Sizes of the network's weights, beside those of the matrices that it edits."""
        del d_embedding  # of the model's token embeddings, if the network reads text
        return ()


class MendConfig(_EditorConfig):
    """Size and beginning of a MEND.

    Attributes:
        n_blocks: edit the MLPs of so many blocks, the last ones.
        rank: of the networks' matrices; by default the published 1,920, or a quarter of their width
            where that is less.
        step_size: learned step sizes begin here.
        begin_with: what the untrained networks hand on: the gradient's factors, or those with every
            dimension centred and scaled, as in the published code.
        seed: of the initial weights.
    """

    kind: ClassVar[str] = "mend"
    about: ClassVar[str] = "A gradient's factors, edited by a trained network (MEND)."
    home: ClassVar[tuple[str, str]] = "factlab.editing.trained.mend", "Mend"
    learning_rate: ClassVar[float] = 2e-5

    rank: PositiveInt | None = None
    step_size: PositiveFloat = 1e-4
    begin_with: Literal["gradient", "standardised"] = "gradient"


class KeConfig(_EditorConfig):
    """Size of a KE.

    Attributes:
        n_blocks: edit the MLPs of so many blocks, the last ones.
        hidden: width of the LSTM, in each direction, and of each matrix's own network.
        condition: width of what the text is encoded to.
        max_scale: largest value of the gate.
        seed: of the initial weights.
    """

    kind: ClassVar[str] = "ke"
    about: ClassVar[str] = "A gradient gated by a trained reader of the fact (KE)."
    home: ClassVar[tuple[str, str]] = "factlab.editing.trained.ke", "Ke"

    hidden: PositiveInt = 512
    condition: PositiveInt = 768
    max_scale: PositiveFloat = 1.0

    def widths(self, d_embedding: int) -> tuple[int, ...]:
        """See `_EditorConfig`."""
        return d_embedding, self.hidden, self.condition


NetworkConfig = MendConfig | KeConfig

KINDS: dict[str, type[NetworkConfig]] = {config.kind: config for config in get_args(NetworkConfig)}


class TrainedEditConfig(MethodConfig):
    """Settings of an edit by a trained editor.

    Attributes:
        scale: multiplies the change; 1 is what was trained.
        allow_seen_subjects: edit facts about subjects that the editor was trained on too. Scores of
            such edits say nothing about others.
        editor: digest of the editor, which it fills in itself; another editor refuses the config.
    """

    scale: PositiveFloat = 1.0
    allow_seen_subjects: bool = False
    editor: str = ""


class TrainConfig(Config):
    """Settings of a training.

    Attributes:
        learning_rate: of Adam; by default 2e-5 for MEND and 1e-4 for KE, which suits small models
            and short trainings (published: 1e-6 and 1e-5).
        step_learning_rate: of MEND's learned step sizes (published: 1e-4).
        c_edit: weight of the edit's loss (published: 0.1; see docs/results/trained-editors.md).
        c_loc: weight of the divergence on texts that must stay.
        examples_per_step: their gradients are added up before each step.
        n_unrelated: unrelated texts per example and step: of records, neighbours.
        n_ordinary: passages of ordinary text per example and step, beside neighbours.
        clip: largest norm of the gradient.
        max_steps: end here.
        validate_every: steps between validations, each of which writes a checkpoint.
        n_validation: examples that are validated on, at most.
        patience: end after so many validations without a better one.
        mixed_precision: run the model in bfloat16 where that is safe.
        seed: of the order of examples and the choice of their texts.
    """

    learning_rate: PositiveFloat | None = None
    step_learning_rate: PositiveFloat = 1e-5
    c_edit: NonNegativeFloat = 0.3
    c_loc: NonNegativeFloat = 1.0
    examples_per_step: PositiveInt = 10
    n_unrelated: PositiveInt = 2
    n_ordinary: NonNegativeInt = 2
    clip: PositiveFloat = 100.0
    max_steps: PositiveInt = 1000
    validate_every: PositiveInt = 50
    n_validation: PositiveInt = 100
    patience: PositiveInt = 6
    mixed_precision: bool = False
    seed: int = Field(default=0, ge=0)

    def settled(self, network: NetworkConfig) -> "TrainConfig":
        """With the learning rate filled in."""
        rate = self.learning_rate or network.learning_rate
        return self.model_copy(update={"learning_rate": rate})
