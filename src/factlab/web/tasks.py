"""What each kind of job does with the model: from a request to a JSON document."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from factlab.editing.background import Background
from factlab.editing.edit import Edit
from factlab.errors import InvalidRequestError
from factlab.models.language_model import LanguageModel
from factlab.tracing.document import trace_document
from factlab.tracing.growing import growing_trace
from factlab.tracing.said import said_with_state
from factlab.web.jobs import Job
from factlab.web.requests import (
    AskJob,
    CellJob,
    EditJob,
    ExportJob,
    StackJob,
    TraceJob,
    WrittenFact,
)
from factlab.web.shelf import Shelf, Stack
from factlab.writing import behind


@dataclass(slots=True)
class Tasks:
    """Does jobs with one model.

    Attributes:
        lm: the model.
        shelf: of saved edits.
        stack: those that are on the model.
        background: statistics, contexts and values that are at hand.
    """

    lm: LanguageModel
    shelf: Shelf
    stack: Stack
    background: Background = field(default_factory=Background)

    def do(self, job: Job) -> dict[str, Any]:
        """The document that comes of a job.

        Raises:
            FactlabError: it cannot be done.
            JobCancelled: it is not wanted any more.
        """
        job.report("beginning", 0, 1)
        request = job.record.request
        match request:
            case TraceJob():
                return self._trace(request, job)
            case CellJob():
                return self._cell(request)
            case EditJob():
                return self._edit(request, job)
            case AskJob():
                return self._ask(request, job)
            case StackJob():
                self.stack.put(request.on)
                return {"on": [*self.stack.on]}
            case ExportJob():
                return self.shelf.export(self.lm, request)

    def _trace(self, request: TraceJob, job: Job) -> dict[str, Any]:
        self._check_traced()
        document: dict[str, Any] = {}
        for trace in growing_trace(
            self.lm, request.fact(), request.answer, request.trace_config(), job.report
        ):
            document = trace_document(trace) | {"stack": [*self.stack.on]}
            job.show(document)
        return document

    def _cell(self, request: CellJob) -> dict[str, Any]:
        self._check_traced()
        said = said_with_state(
            self.lm, request.fact(), request.state, request.position, request.layer,
            request.answer, request.trace_config(),
        )  # fmt: skip
        return {"said": [{"token": token, "prob": prob} for token, prob in said]}

    def _check_traced(self) -> None:
        """Refuse to trace a model whose prompts begin with the text of an edit.

        Raises:
            InvalidRequestError: there is such an edit on the stack.
        """
        if self.stack.prefix:
            raise InvalidRequestError(
                "Traces ask a prompt as it is, and an edit on the stack is a text in front of "
                "prompts. Take it off the stack first."
            )

    def _edit(self, request: EditJob, job: Job) -> dict[str, Any]:
        chosen, fact = request.method.chosen(), request.fact.fact()
        asked = request.fact.asked()
        job.report("asking the model", 0, 1)
        before = self._told(request.fact, asked, request.n_tokens, self.stack.prefix)
        document: dict[str, Any] = {
            "stack": [*self.stack.on],
            "asked": [
                {"kind": kind, "prompt": prompt, "before": one}
                for (kind, prompt), one in zip(asked, before, strict=True)
            ],
        }
        job.show(document)
        (edit,) = chosen.method.each(self.lm, [fact], chosen.config, self.background, job.report)
        self.shelf.keep_fresh(job.record.id, edit)
        job.report("asking the edited model", 0, 1)
        after = self._after(edit, request, asked)
        for row, one in zip(document["asked"], after, strict=True):
            row["after"] = one
        return document | {"edit": edit.to_json(), "changes": edit.rows()}

    def _after(
        self, edit: Edit, request: EditJob, asked: Sequence[tuple[str, str]]
    ) -> list[dict[str, Any]]:
        told = (request.fact, asked, request.n_tokens)
        if edit.prefix:
            return self._told(*told, behind(self.stack.prefix, edit.prefix))
        with edit.applied(self.lm):
            return self._told(*told, self.stack.prefix)

    def _told(
        self, fact: WrittenFact, asked: Sequence[tuple[str, str]], n_tokens: int, prefix: str
    ) -> list[dict[str, Any]]:
        """What the model, as it is now, writes after some prompts, and what it makes of targets."""
        plain, prompts = fact.fact(), [behind(prefix, prompt) for _, prompt in asked]
        targets = {"new_prob": plain.target_new, "true_prob": plain.target_true}
        pairs = [
            (row, name, target)
            for name, target in targets.items()
            if target is not None
            for row in range(len(prompts))
        ]
        scores = self.lm.score([prompts[row] for row, _, _ in pairs], [t for _, _, t in pairs])
        told: list[dict[str, Any]] = [
            {"text": text, **dict.fromkeys(targets)} for text in self._texts(prompts, n_tokens)
        ]
        for (row, name, _), score in zip(pairs, scores, strict=True):
            told[row][name] = score.length_normalised_prob
        return told

    def _texts(self, prompts: Sequence[str], n_tokens: int) -> list[str]:
        return self.lm.generate_batch(prompts, max_new_tokens=n_tokens, return_full_text=False)

    def _ask(self, request: AskJob, job: Job) -> dict[str, Any]:
        if request.chat:
            self.lm.chat_forms()  # or an error, before anything is asked
        columns: list[dict[str, Any]] = []
        for done, names in enumerate(request.stacks):
            job.report("asking", done, len(request.stacks))
            with self.stack.instead(names) as prefix:
                plain = [behind(prefix, prompt) for prompt in request.prompts]
                asked = map(self.lm.chat_prompt if request.chat else str.rstrip, plain)
                texts = self._texts([*asked], request.n_tokens)
            columns.append({"stack": [*names], "texts": texts})
            job.show({"prompts": [*request.prompts], "columns": columns})
        return {"prompts": [*request.prompts], "columns": columns}
