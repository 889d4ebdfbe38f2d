"""The settings of trained editors and of their training; nothing here needs PyTorch."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from factlab.config import Config
from factlab.editing.configs import MethodConfig

DataKind = Literal["counterfact", "zsre", "text"]

EditorKind = Literal["mend", "ke"]

KINDS: dict[EditorKind, str] = {
    "mend": "A gradient's factors, edited by a trained network (MEND).",
    "ke": "A gradient gated by a trained reader of the fact (KE).",
}

# Measured on a model of 135M parameters; see docs/results/trained-editors.md.
_LEARNING_RATES = {"mend": 1e-4, "ke": 1e-4}


class MendConfig(Config):
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

    n_blocks: PositiveInt = 3
    rank: PositiveInt | None = None
    step_size: PositiveFloat = 1e-4
    begin_with: Literal["gradient", "standardised"] = "gradient"
    seed: int = Field(default=0, ge=0)


class KeConfig(Config):
    """Size of a KE.

    Attributes:
        n_blocks: edit the MLPs of so many blocks, the last ones.
        hidden: width of the LSTM, in each direction, and of each matrix's own network.
        condition: width of what the text is encoded to.
        max_scale: largest value of the gate.
        seed: of the initial weights.
    """

    n_blocks: PositiveInt = 3
    hidden: PositiveInt = 512
    condition: PositiveInt = 768
    max_scale: PositiveFloat = 1.0
    seed: int = Field(default=0, ge=0)


NetworkConfig = MendConfig | KeConfig


def kind_of(config: NetworkConfig) -> EditorKind:
    """What a network config is of."""
    return "mend" if isinstance(config, MendConfig) else "ke"


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
        learning_rate: of Adam; by default 1e-4, which suits small models and short trainings
            (published: 1e-6 for MEND and 1e-5 for KE).
        step_learning_rate: of MEND's learned step sizes (published: 1e-4).
        c_edit: weight of the edit's loss.
        c_loc: weight of the divergence on unrelated text.
        examples_per_step: their gradients are added up before each step.
        n_unrelated: unrelated texts per example and step.
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
    c_edit: NonNegativeFloat = 0.1
    c_loc: NonNegativeFloat = 1.0
    examples_per_step: PositiveInt = 10
    n_unrelated: PositiveInt = 2
    clip: PositiveFloat = 100.0
    max_steps: PositiveInt = 1000
    validate_every: PositiveInt = 50
    n_validation: PositiveInt = 60
    patience: PositiveInt = 6
    mixed_precision: bool = False
    seed: int = Field(default=0, ge=0)

    def settled(self, network: NetworkConfig) -> "TrainConfig":
        """With the learning rate filled in."""
        rate = self.learning_rate or _LEARNING_RATES[kind_of(network)]
        return self.model_copy(update={"learning_rate": rate})
