"""`SavedValues`: values of many facts in a folder, optimised beforehand, perhaps by several shards.

The folder is a run of `journal`, with one record for each fact: what was asked for, δ and its
digest. The values in it stand for all: where one is missing, or is of another model or other
settings, nothing is optimised instead.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from factlab.documents import JsonValue, check_format, validated
from factlab.editing.configs import ContextConfig, MethodConfig
from factlab.editing.values.recipe import Asked, ValuePlan, ValueRecipe, same_texts, with_values
from factlab.editing.values.stored import StoredValue
from factlab.errors import (
    EditError,
    FactlabError,
    InvalidRequestError,
    StorageError,
    WrongModelError,
    counted,
)
from factlab.facts import Fact, fill
from factlab.journal import Journal, Line
from factlab.models.run_model import run_model
from factlab.shards import Shard
from factlab.wrapping import Context, context_of_json

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

FORMAT = "factlab values 1"
BATCH_SIZE = 32  # facts whose values are optimised together
_PART = re.compile(r"records-\d+-of-(\d+)\.jsonl")


@dataclass(frozen=True, slots=True, repr=False)
class SavedValues:
    """Values of many facts, as `load_values` reads them: a source for a `Background`.

    Attributes:
        folder: where they are.
        recipe: what all of them are values of.
        n_facts: that the folder is about.
        values: by template, subject and target; or why there is none.
        missing: places, among the facts, of those that are not there yet.
    """

    folder: Path
    recipe: ValueRecipe
    n_facts: int
    values: Mapping[Asked, StoredValue | str]
    missing: tuple[int, ...]

    def __repr__(self) -> str:
        plan, model = self.recipe.plan, self.recipe.model["name"]
        there = self.n_facts - len(self.missing)
        return (
            f"SavedValues({there} of {counted(self.n_facts, 'fact')}; layer {plan.layer} of "
            f"{model})"
        )

    @property
    def failed(self) -> dict[str, str]:
        """Why facts have no value, by their prompts."""
        told = {asked: why for asked, why in self.values.items() if isinstance(why, str)}
        return {fill(asked.template, asked.subject): why for asked, why in told.items()}

    def to_json(self) -> dict[str, JsonValue]:
        """What there is, without the values themselves."""
        return {
            "folder": str(self.folder),
            "model": self.recipe.model,
            "plan": self.recipe.plan.model_dump(mode="json"),
            "n_facts": self.n_facts,
            "n_missing": len(self.missing),
            "failed": {**self.failed},
        }

    def check(self, facts: Sequence[Fact], method: str, config: MethodConfig) -> None:
        """Refuse to write facts with these values, as far as can be told without the model.

        Args:
            facts: to be written.
            method: its name.
            config: of the method; what it leaves open fits.

        Raises:
            InvalidRequestError: the settings are others, or the method optimises no values.
            StorageError: a value is missing.
            EditError: a fact has none.
        """
        plan = ValuePlan.like(with_values(method, config), self.recipe.plan)
        self._check_plan(plan)
        said = {(each.template, each.subject): each.target for each in self.values}
        asked: list[Asked] = []
        for fact in facts:
            target = fact.target_true if plan.erase else fact.target_new
            # To be erased is what the model says itself, where nobody says what is true.
            target = target or said.get((fact.template, fact.subject), "")
            asked.append(Asked(fact.template, fact.subject, target))
        for value in self._of(asked):
            if isinstance(value, FactlabError):
                raise value

    def check_model(self, lm: "LanguageModel") -> None:
        """Refuse a model that the values are not of.

        Raises:
            WrongModelError: its weights, their dtype or its tokenizer are others, or there are
                edits on it.
        """
        self.has_values_of(lm)
        self._check_model(run_model(lm, None))

    # -- as a source ------------------------------------------------------------------------

    def contexts(self, lm: "LanguageModel", config: ContextConfig) -> list[Context] | None:
        """The texts that its values were optimised over, if such texts are asked for."""
        del lm  # that it is the right one is found out when values are asked for
        fits = same_texts(config, self.recipe.plan.contexts)
        return [*self.recipe.contexts] if fits else None

    def has_values_of(self, lm: "LanguageModel") -> bool:
        """That it has.

        Raises:
            WrongModelError: there are edits on the model.
        """
        if lm.patches.active:
            raise WrongModelError(
                f"The values in '{self.folder}' are of the model without edits, and there is one "
                "on it. Take it off, or do without these values."
            )
        return True

    def find(
        self, recipe: ValueRecipe, asked: Sequence[Asked]
    ) -> list[StoredValue | FactlabError | None]:
        """For each its value.

        Raises:
            WrongModelError: the values are of another model.
            InvalidRequestError: they are of other settings, or behind other texts.
            StorageError: one is missing.
        """
        self._check_model(recipe.model)
        self._check_plan(recipe.plan)
        if recipe.contexts != self.recipe.contexts:
            raise InvalidRequestError(
                f"The values in '{self.folder}' were optimised behind other texts than those at "
                "hand. Use a Background of their own."
            )
        return [*self._of(asked)]

    def keep(self, recipe: ValueRecipe, values: Sequence[tuple[Asked, StoredValue]]) -> None:
        """Nothing: the folder has all that it is to have."""

    # -- what does not fit ------------------------------------------------------------------

    def _of(self, asked: Sequence[Asked]) -> list[StoredValue | EditError]:
        unknown = [each for each in asked if each not in self.values]
        if unknown:
            first = unknown[0]
            n_facts = counted(len(asked), "fact")
            raise StorageError(
                f"'{self.folder}' has no value for {len(unknown)} of {n_facts}, first of all for "
                f"'{fill(first.template, first.subject)}' with the target '{first.target}'. "
                f"{self._advice()}"
            )
        found = (self.values[each] for each in asked)
        return [EditError(value) if isinstance(value, str) else value for value in found]

    def _advice(self) -> str:
        """What to do where values are missing."""
        if not self.missing:
            return "All the facts that it is about are there: compute the others in a new folder."
        names = (_PART.fullmatch(path.name) for path in self.folder.iterdir())
        totals = {int(name[1]) for name in names if name}
        lacks = f"It lacks {len(self.missing):,} of the {self.n_facts:,} that it is about"
        if len(totals) != 1 or totals == {1}:
            return f"{lacks}. Go on with 'factlab values', the same folder and --resume."
        (total,) = totals
        missing = {*self.missing}
        parts = [
            shard.number
            for shard in (Shard(number, total) for number in range(1, total + 1))
            if not missing.isdisjoint(chain(*shard.blocks(range(self.n_facts), 1, BATCH_SIZE)))
        ]
        which = ", ".join(f"{part}/{total}" for part in parts)
        return f"{lacks}: go on with 'factlab values', the same folder and --shard {which}."

    def _check_model(self, model: Mapping[str, JsonValue]) -> None:
        mine = self.recipe.model
        if mine["fingerprint"] != model["fingerprint"]:
            there, here = (f"{m['name']} ({str(m['fingerprint'])[:12]})" for m in (mine, model))
            difference = f"of {there}, not of {here}"
        elif mine["dtype"] != model["dtype"]:
            difference = f"of a model in {mine['dtype']}, not in {model['dtype']}"
        elif mine["tokenizer"] != model["tokenizer"]:
            difference = "of this model with another tokenizer"
        else:
            return
        raise WrongModelError(f"The values in '{self.folder}' are {difference}.")

    def _check_plan(self, plan: ValuePlan) -> None:
        mine = self.recipe.plan
        difference = _difference(mine.model_dump(mode="json"), plan.model_dump(mode="json"))
        if mine.stream != plan.stream:  # whatever else differs
            names = {"mlp": "an MLP, as ROME's", "block": "a layer, as those of MEMIT and its kind"}
            difference = f"they are of what leaves {names[mine.stream]}, not {names[plan.stream]}"
        if difference is not None:
            raise InvalidRequestError(
                f"The values in '{self.folder}' are not those asked for: {difference}. Ask for the "
                "same, or compute values anew in another folder."
            )


def _difference(there: object, asked: object, name: str = "") -> str | None:
    """Where two plans differ, in words."""
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in {**there, **asked}:
            path = f"{name}.{key}" if name else key
            found = _difference(there.get(key), asked.get(key), path)
            if found is not None:
                return found
        return None
    return None if there == asked else f"their {name} is {there}, not {asked}"


# -- the folder --------------------------------------------------------------------------------


def load_values(folder: str | Path) -> SavedValues:
    """Read the values that `compute_values` or `factlab values` left in a folder.

    Raises:
        StorageError: it holds none, or they are damaged.

    Examples:
        >>> done = fl.editing.compute_values(lm, facts, "values")
        >>> values = fl.editing.load_values("values")
        >>> run = fl.edit_together(lm, facts, background=fl.editing.Background(values=values))
    """
    journal = Journal.load(Path(folder))
    where = f"'{journal.folder / 'run.json'}'"
    check_format(journal.request.get("format"), FORMAT, where, "of computed values")
    recipe, n_facts = recipe_of(journal), journal.request.get("n_facts")
    if not isinstance(n_facts, int):
        raise StorageError(f"{where} is damaged: it does not say how many facts there are.")
    values: dict[Asked, StoredValue | str] = {}
    for case, record in journal.records.items():
        texts = [record.get(name) for name in Asked._fields]
        asked = Asked(*map(str, texts))
        failed = record.get("failed")
        try:
            values[asked] = (
                failed
                if isinstance(failed, str)
                else StoredValue.of_json(recipe.key(asked), record)
            )
        except StorageError as error:
            raise StorageError(
                f"'{folder}' has a damaged value, that of case {case}. Delete the line with "
                f'"case": {case} from its records and resume.'
            ) from error
    missing = tuple(i for i in journal.cases(n_facts) if i not in journal.records)
    return SavedValues(journal.folder, recipe, n_facts, values, missing)


def recipe_of(journal: Journal) -> ValueRecipe:
    """What the values of a run depend on besides their facts.

    Raises:
        StorageError: the run is damaged.
    """
    where, advice = f"'{journal.folder / 'run.json'}'", "Begin again in a new folder."
    plan = validated(ValuePlan, journal.request.get("plan"), where, advice)
    model, contexts = journal.request.get("model"), journal.findings.get("contexts")
    if (
        not isinstance(model, dict)
        or not model.keys() >= {"name", "fingerprint", "tokenizer", "dtype"}
        or not isinstance(contexts, list)
        or not contexts
    ):
        raise StorageError(f"{where} is damaged. {advice}")
    return ValueRecipe(model, plan, tuple(context_of_json(one, where) for one in contexts))


def record_of(
    recipe: ValueRecipe, fact: Fact, target: str, value: StoredValue | FactlabError
) -> Line:
    """The record of a fact."""
    asked = Asked(fact.template, fact.subject, target)
    if isinstance(value, FactlabError):
        return {**asked._asdict(), "failed": str(value)}
    return {**asked._asdict(), **value.to_json(recipe.key(asked))}
