"""What the page can ask for. Nothing here needs PyTorch."""

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from factlab.config import Config
from factlab.editing.method_choice import MethodRequest
from factlab.errors import InvalidRequestError
from factlab.facts import Fact, joint_named
from factlab.tracing.configs import Kind, TraceConfig, kinds_with_severed

_FOLDER_NAME = re.compile(r"[\w][\w .+-]{0,79}")


def check_folder_name(name: str) -> None:
    """Refuse what cannot be the name of one folder everywhere.

    Raises:
        InvalidRequestError: says what can.
    """
    if not _FOLDER_NAME.fullmatch(name) or name.endswith((" ", ".")):
        raise InvalidRequestError(
            "A name has letters, digits, spaces and . + - _, begins with a letter or a digit, "
            "and is at most 80 characters long."
        )


class TracedPrompt(Config):
    """A prompt, its subject, and how to trace it.

    Attributes:
        prompt: ends where the answer would follow.
        subject: as written in it.
        occurrence: which occurrence of the subject, from 1.
        answer: to follow; by default what the model says.
        severed: paths to cut: `mlp`, `attn`.
        config: see `TraceConfig`.
    """

    prompt: str
    subject: str
    occurrence: PositiveInt | None = None
    answer: str | None = None
    severed: tuple[Literal["mlp", "attn"], ...] = ()
    config: TraceConfig = TraceConfig()

    def fact(self) -> Fact:
        """The prompt as a fact.

        Raises:
            InvalidRequestError: it is empty, or the subject is not in it.
        """
        return Fact.from_prompt(self.prompt, self.subject, occurrence=self.occurrence)

    def trace_config(self) -> TraceConfig:
        """How to trace.

        Raises:
            InvalidRequestError: an estimate cannot sever paths.
        """
        kinds = kinds_with_severed((), self.severed)
        if kinds is None:
            return self.config
        if self.config.is_estimate:
            raise InvalidRequestError("The gradient estimate cannot sever paths. Trace exactly.")
        return self.config.model_copy(update={"kinds": kinds})


class TraceJob(TracedPrompt):
    """A causal trace."""

    kind: Literal["trace"] = "trace"

    def check(self) -> None:
        """Refuse what needs no model to be seen."""
        self.fact()
        self.trace_config()


class CellJob(TracedPrompt):
    """What the corrupted model would say with one state put back.

    Attributes:
        state: which kind of it.
        position: of its token.
        layer: of it, or of the window's centre.
    """

    kind: Literal["cell"] = "cell"
    state: Kind
    position: NonNegativeInt
    layer: NonNegativeInt

    def check(self) -> None:
        """Refuse what needs no model to be seen."""
        self.fact()


class WrittenFact(Config):
    """A fact, and what else to ask before and after it is written.

    Attributes:
        template: with {} where the subject stands, or a whole prompt.
        subject: what it is about.
        target_new: what the model is to say.
        target_true: what is true.
        joint: what goes between prompt and target: space or none.
        paraphrases: other ways to ask for it.
        neighbours: prompts that must keep their answers.
        prompts: any others.
    """

    template: str
    subject: str = ""
    target_new: str | None = None
    target_true: str | None = None
    joint: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    def fact(self) -> Fact:
        """The fact itself.

        Raises:
            InvalidRequestError: a part is missing, or wrong.
        """
        true, joint = self.target_true or None, joint_named(self.joint)
        return Fact(self.template, self.subject, self.target_new or None, true, joint)

    def asked(self) -> list[tuple[str, str]]:
        """All that is asked: for each prompt what kind of it, and the prompt."""
        groups = (
            ("rewrite", (self.fact().prompt,)),
            ("paraphrase", self.paraphrases),
            ("neighbour", self.neighbours),
            ("prompt", self.prompts),
        )
        return [(kind, text.rstrip()) for kind, texts in groups for text in texts if text.strip()]


class EditJob(Config):
    """An edit of one fact, and how the model answers without and with it.

    Attributes:
        fact: to write, and what to ask.
        method: with its settings.
        n_tokens: to write after each prompt.
    """

    kind: Literal["edit"] = "edit"
    fact: WrittenFact
    method: MethodRequest = MethodRequest()
    n_tokens: Annotated[int, Field(ge=1, le=200)] = 12

    def check(self) -> None:
        """Refuse what needs no model to be seen."""
        if self.method.editor is not None:
            raise InvalidRequestError("Trained editors are used from the command line.")
        fact, chosen = self.fact.fact(), self.method.chosen()
        chosen.method.check_subjects([fact])
        if fact.target_new is None and not self.method.erase:
            raise InvalidRequestError("Say what the model should answer: the new object is empty.")


class AskJob(Config):
    """Prompts asked of the model with several choices of saved edits.

    Attributes:
        prompts: to go on with.
        stacks: for each answer the edits to apply, by name, in order; none for the plain model.
        n_tokens: to write after each prompt.
        chat: ask in the model's chat template.
    """

    kind: Literal["ask"] = "ask"
    prompts: tuple[str, ...] = Field(min_length=1)
    stacks: tuple[tuple[str, ...], ...] = Field(default=((),), min_length=1, max_length=16)
    n_tokens: Annotated[int, Field(ge=1, le=400)] = 30
    chat: bool = False

    def check(self) -> None:
        """Refuse what needs no model to be seen."""
        if not all(prompt.strip() for prompt in self.prompts):
            raise InvalidRequestError("A prompt is empty. Write something to go on with.")


class StackJob(Config):
    """Which saved edits are on the model.

    Attributes:
        on: their names, in the order in which to apply them.
    """

    kind: Literal["stack"] = "stack"
    on: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what needs no model to be seen."""
        for name in self.on:
            if self.on.count(name) > 1:
                raise InvalidRequestError(f"The edit '{name}' is named twice.")


class ExportJob(Config):
    """Saved edits, written for other programs.

    Attributes:
        on: their names, in the order in which they are applied.
        to: `peft`: a LoRA adapter; `checkpoint`: the whole model, edited.
        name: of the folder to write.
        rank: at most so many outer products for a weight of an adapter.
    """

    kind: Literal["export"] = "export"
    on: tuple[str, ...] = ()
    to: Literal["peft", "checkpoint"] = "peft"
    name: str
    rank: PositiveInt | None = None

    def check(self) -> None:
        """Refuse what needs no model to be seen."""
        if not self.on:
            raise InvalidRequestError("There is nothing to export. Choose a saved edit.")
        check_folder_name(self.name)
        if self.to == "checkpoint" and self.rank is not None:
            raise InvalidRequestError("A rank is for adapters; a checkpoint has the exact weights.")


AnyJob = Annotated[
    TraceJob | CellJob | EditJob | AskJob | StackJob | ExportJob, Field(discriminator="kind")
]


class SaveEdit(Config):
    """Keep the edit of a job.

    Attributes:
        job: that computed it.
        name: of the folder.
    """

    job: str
    name: str
