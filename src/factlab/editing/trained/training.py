"""Training a MEND or KE: one loop for both, which can be killed and goes on to the same weights.

Which example and texts come when follows from the seed and the step alone: all the random state.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from factlab.arguments import checked
from factlab.documents import validated
from factlab.editing.edit import BaseModelInfo, current_versions
from factlab.editing.trained.configs import MendConfig, NetworkConfig, TrainConfig
from factlab.editing.trained.editor import TrainedEditor, name_of, new_network
from factlab.editing.trained.examples import Example, TrainingSet
from factlab.editing.trained.gradients import last_matrices
from factlab.editing.trained.losses import Losses, losses, observe
from factlab.editing.trained.network import EditorNetwork
from factlab.editing.trained.sampling import picked, with_fixed_texts
from factlab.editing.trained.states import States
from factlab.editing.trained.store import (
    load_editor,
    read_checkpoint,
    weights_digest,
    write_checkpoint,
    write_editor,
)
from factlab.editing.trained.together import examples_together
from factlab.errors import EditError, InvalidRequestError
from factlab.journal import Journal, Shard, Writer
from factlab.models.language_model import LanguageModel
from factlab.models.run_model import run_model
from factlab.progress import ProgressCallback, silent
from factlab.results import Drawn, Tabular

if TYPE_CHECKING:
    from factlab.figures import Picture

# Settings that change only how long a training goes on.
_MAY_DIFFER = {"max_steps", "patience"}
# What a validation notes of the training itself.
_OF_TRAINING = {"train_loss", "examples_per_s"}


class Progress(BaseModel):
    """How far a training is, as in its checkpoint.

    Attributes:
        step: steps done.
        best_step: step of the best validation so far.
        best_loss: its loss; None before the first.
        best_score: its score; those of earlier versions went by the loss alone.
        stale: validations since.
        train_loss: sum of the steps' losses since the last validation.
        n_steps: how many steps that sum is over.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    step: NonNegativeInt = 0
    best_step: NonNegativeInt = 0
    best_loss: float | None = None
    best_score: float = 0.0
    stale: NonNegativeInt = 0
    train_loss: float = 0.0
    n_steps: NonNegativeInt = 0


@dataclass(frozen=True, slots=True, repr=False)
class Trained(Tabular, Drawn):
    """What came of a training.

    Attributes:
        editor: the best by validation.
        history: one entry for each validation, by step.
        finished: False if it was stopped and can go on.
        reason: why it ended.
    """

    editor: TrainedEditor
    history: dict[int, dict[str, Any]]
    finished: bool
    reason: str

    def __repr__(self) -> str:
        best = self.editor.training.get("validation", {})
        says = f", says {best['says']:.0%} of what it was to write" if "says" in best else ""
        return (
            f"Trained({self.editor.name}: {self.reason}; "
            f"best at step {self.editor.training.get('step')}{says})"
        )

    def __hash__(self) -> int:
        return hash((self.editor, self.reason))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per validation.

        Its keys: step, loss (of validation), edit_nll (of the new target), loc_kl (on texts that
        must stay), ordinary_kl (on ordinary text alone), says_prompt and says (shares of edits
        whose target is said behind their prompt, and in other words), stays (share of what is read
        elsewhere that is as before), score (harmonic mean of these three, by which the best editor
        is kept), train_loss, examples_per_s. Trainings of earlier versions have fewer.
        """
        return [{"step": step, **found} for step, found in self.history.items()]

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw the learning curve.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: there is nothing to draw yet, or the file name's ending is none of
                these.
            StorageError: the file cannot be written.
        """
        from factlab.editing.trained.curve import plot_curve  # noqa: PLC0415 - when drawing only

        return plot_curve(self.history, self.editor.name, path)

    def _pictures(self) -> "Sequence[Picture]":
        return [self.plot()] if self.history else []

    def to_json(self) -> dict[str, Any]:
        """All but the editor's numbers, ready for JSON."""
        return {
            "editor": self.editor.name,
            "finished": self.finished,
            "reason": self.reason,
            "training": self.editor.training,
            "history": self.rows(),
        }


@checked(in_steps=True)
def train_editor(
    lm: LanguageModel,
    data: TrainingSet,
    out: str | Path,
    network: NetworkConfig | None = None,
    config: TrainConfig | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> Trained:
    """Train an editor for a model.

    Args:
        lm: the model, without edits; left as it is.
        data: see `examples_of_records` and `examples_of_text`.
        out: folder for the editor; new or empty, or with `resume` of this training.
        network: which kind, and its size; MEND by default.
        config: see `TrainConfig`.
        resume: go on with what is in the folder.
        should_stop: asked after every step; the training can be resumed after it stopped.
        progress: True for a bar, or a function that is called with steps done and in all.

    Raises:
        InvalidRequestError: the model carries edits.
        EditError: the training diverged; the best editor and the last checkpoint are kept.
        StorageError: the folder belongs to another training, is damaged, or cannot be written.
    """
    lm.abilities.need("gradient")
    if lm.patches.active:
        raise InvalidRequestError("The model carries edits. Train on the model without them.")
    network = network or MendConfig()
    config = (config or TrainConfig()).settled(network)
    lm.identity.now(progress=progress)
    training = _Training(lm, data, Path(out), network, config)
    journal = Journal.open(training.folder, training.request, dict, resume)
    with journal.writing(Shard()) as writer:
        return training.run(journal, writer, should_stop, progress)


class _Training:
    def __init__(
        self,
        lm: LanguageModel,
        data: TrainingSet,
        folder: Path,
        network: NetworkConfig,
        config: TrainConfig,
    ) -> None:
        self._lm, self._data, self.folder = lm, data, folder
        self._network_config, self._config = network, config
        self._base = BaseModelInfo.of(lm)
        self._name = name_of(network.kind, data.kind)
        matrices = last_matrices(lm, network.n_blocks)
        self._network: EditorNetwork = new_network(
            matrices, lm.embedding.weight.shape[1], network
        ).to(lm.device)
        groups = self._network.parameter_groups(
            config.learning_rate or 0.0, config.step_learning_rate
        )
        self._optimiser = torch.optim.Adam(groups)
        self._at, self._has_checkpoint = Progress(), False
        numbers = {n: v for n, v in config.model_dump(mode="json").items() if n not in _MAY_DIFFER}
        self.request: dict[str, Any] = {
            "training": network.kind,
            "model": run_model(lm, folder),
            "data": {
                "kind": data.kind,
                "examples": data.examples_hash,
                "split": data.digest,
                "n_train": len(data.train),
                "n_validation": len(data.validation),
                "n_test": data.n_test,
            },
            "network": network.model_dump(mode="json"),
            "config": numbers,
        }

    def run(
        self,
        journal: Journal,
        writer: Writer,
        should_stop: Callable[[], bool],
        progress: ProgressCallback,
    ) -> Trained:
        """Train until the end, or until something stops it."""
        where = read_checkpoint(self.folder, self._network, self._optimiser)
        self._has_checkpoint = where is not None
        if where is not None:
            what = f"The checkpoint in '{self.folder}'"
            self._at = validated(Progress, where, what, "Train in another folder.")
        ended = self._ended()
        if not ended:
            with torch.inference_mode(False), self._lm.frozen():
                ended = self._steps(writer, should_stop, progress)
        history = {step: r for step, r in sorted(journal.records.items()) if step <= self._at.step}
        reason = ended or f"stopped at step {self._at.step}"
        return Trained(load_editor(self.folder), history, bool(ended), reason)

    def _steps(
        self, writer: Writer, should_stop: Callable[[], bool], progress: ProgressCallback
    ) -> str:
        """Go on; why the training ended, empty if it was asked to stop."""
        config, at = self._config, self._at
        first_block = self._lm.n_layers - self._network_config.n_blocks
        states = States(self._lm, first_block, self._data.texts(), progress)
        began, first = perf_counter(), at.step
        if not self._has_checkpoint:
            # Before the first edit, so that running statistics have something to begin with.
            self._observe(states, self._parts(self._picked(0)))
            self._validated(states, writer, 0.0)
        label = f"training {self._name}"
        while not (ended := self._ended()):
            progress(label, at.step, config.max_steps)
            if should_stop():
                self._checkpoint()
                return ""
            loss = self._step(states)
            at.step += 1
            at.train_loss, at.n_steps = at.train_loss + loss, at.n_steps + 1
            if at.step % config.validate_every == 0 or at.step == config.max_steps:
                speed = (at.step - first) * config.examples_per_step / (perf_counter() - began)
                self._validated(states, writer, speed)
        progress(label, at.step, config.max_steps)
        return ended

    def _ended(self) -> str:
        if self._at.step >= self._config.max_steps:
            return f"all {self._config.max_steps} steps are done"
        if self._at.stale >= self._config.patience:
            return f"no better validation since step {self._at.best_step}"
        return ""

    def _parts(self, examples: Sequence[Example]) -> list[list[Example]]:
        """As many examples together as memory has room for."""
        return examples_together(self._lm, self._network, self._network_config.n_blocks, examples)

    def _observe(self, states: States, parts: Sequence[Sequence[Example]]) -> None:
        """Let the editor take note of the gradients of examples."""
        with torch.no_grad():
            for some in parts:
                observe(self._lm, self._network, states, some, self._config.mixed_precision)

    def _losses(self, states: States, some: Sequence[Example], observed: bool = False) -> Losses:
        precision = self._config.mixed_precision
        return losses(self._lm, self._network, states, some, observed, precision)

    def _step(self, states: States) -> float:
        """One step of the optimiser; the mean loss before it.

        The editor takes note of all examples before it edits with the first, so that the step is
        the same whether they go through the model together or in parts.
        """
        config, total = self._config, 0.0
        examples = self._picked(self._at.step)
        parts = self._parts(examples)
        is_whole = len(parts) == 1
        if not is_whole:
            self._observe(states, parts)
        for some in parts:
            with torch.enable_grad():
                found = self._losses(states, some, observed=is_whole)
                loss = config.c_edit * found.edit_nll + config.c_loc * found.loc_kl
                loss = loss.sum() / len(examples)
                loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), config.clip)
        if not (math.isfinite(total) and bool(norm.isfinite())):
            self._diverged(f"the loss is {total:.3g} and its gradient's norm {float(norm):.3g}")
        self._optimiser.step()
        self._optimiser.zero_grad()
        return total

    def _picked(self, step: int) -> list[Example]:
        config = self._config
        return picked(
            self._data.train, step, config.examples_per_step, config.n_unrelated, config.seed,
            config.n_ordinary,
        )  # fmt: skip

    def _validated(self, states: States, writer: Writer, speed: float) -> None:
        """Validate, keep the editor if it is the best so far, and write a checkpoint."""
        config, at = self._config, self._at
        examples = with_fixed_texts(
            self._data.validation[: config.n_validation], config.n_unrelated, config.n_ordinary
        )
        sums: dict[str, float] = {}
        with torch.no_grad():
            for some in self._parts(examples):
                for name, values in self._losses(states, some).measured.items():
                    sums[name] = sums.get(name, 0.0) + float(values.cpu().double().sum())
        means = {name: total / len(examples) for name, total in sums.items()}
        loss = config.c_edit * means["edit_nll"] + config.c_loc * means["loc_kl"]
        if not math.isfinite(loss):
            self._diverged(f"the validation loss is {loss}")
        score = harmonic_mean([means[name] for name in ("says_prompt", "says", "stays")])
        record: dict[str, Any] = {
            "loss": loss,
            **means,
            "score": score,
            "train_loss": at.train_loss / at.n_steps if at.n_steps else None,
            "examples_per_s": speed,
        }
        at.train_loss, at.n_steps = 0.0, 0
        if at.best_loss is None or (-score, loss) < (-at.best_score, at.best_loss):
            at.best_loss, at.best_score, at.best_step, at.stale = loss, score, at.step, 0
            self._keep(record)
        else:
            at.stale += 1
        writer.append(at.step, record)
        self._checkpoint()

    def _checkpoint(self) -> None:
        write_checkpoint(self.folder, self._network, self._optimiser, self._at.model_dump())

    def _keep(self, record: dict[str, Any]) -> None:
        training = {
            "step": self._at.step,
            "validation": {
                name: value for name, value in record.items() if name not in _OF_TRAINING
            },
            **{name: self.request[name] for name in ("data", "config")},
        }
        editor = TrainedEditor(
            self._data.kind, self._base, self._network_config, self._network, self._data.subjects,
            training, current_versions(), weights_digest(self._network),
        )  # fmt: skip
        write_editor(editor, self.folder, self._lm.embedding.weight.shape[1])

    def _diverged(self, what: str) -> None:
        kept = "No editor was written."
        if self._at.best_loss is not None:
            kept = (
                f"The best editor so far, of step {self._at.best_step} (validation loss "
                f"{self._at.best_loss:.4g}), is in '{self.folder}'."
            )
        raise EditError(
            f"The training diverged at step {self._at.step}: {what}. {kept} Train in another "
            + (
                f"folder with a learning rate below {self._config.learning_rate:g}."
                if self._at.step
                else "folder with smaller steps of the untrained network (step_size)."
            )
        )
