"""Looking at the arguments of public functions before anything is computed.

A model that is not a `LanguageModel`, a list where one fact is meant, a dict in place of a config:
each would end in an error somewhere inside that says nothing to the caller. `checked` reads the
function's annotations and refuses them in one sentence, and makes a bar of `progress=True`. While
the function runs it has its model to itself: other threads wait.
"""

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import (
    Any,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    overload,
    runtime_checkable,
)

from pydantic import BaseModel

from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.progress import reporting

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


@runtime_checkable
class Checked(Protocol, Generic[P, R_co]):
    """A function whose arguments are looked at; `progress` may be `True` beside what it says."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: object, progress: bool, **kwargs: object) -> R_co: ...


@runtime_checkable
class Lockable(Protocol):
    """What one thread at a time may use."""

    def alone(self) -> AbstractContextManager[None]:
        """A block in which other threads wait; the same thread may enter it again."""
        ...


def checked(several: str = "", in_steps: bool = False) -> Callable[[Callable[P, R]], Checked[P, R]]:
    """A decorator that looks at a function's arguments before it runs.

    Args:
        several: what to use for a list, where the function takes one fact.
        in_steps: whether it is a long run of steps, between which other threads may use the model.
    """

    def decorator(function: Callable[P, R]) -> Checked[P, R]:
        return _wrapped(function, several, in_steps)

    return decorator


def checked_method(function: Callable[P, R]) -> Callable[P, R]:
    """The same for a method of a class."""
    return _wrapped(function, "", False)


def _wrapped(function: Callable[..., Any], several: str, in_steps: bool) -> Any:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        for name, value in call.arguments.items():
            _check(function.__name__, name, value, signature.parameters[name].annotation, several)
        lm = call.arguments.get("lm")
        alone = lm.alone() if isinstance(lm, Lockable) and not in_steps else nullcontext()
        if "progress" not in call.arguments:
            with alone:
                return function(*args, **kwargs)
        with reporting(call.arguments["progress"]) as callback, alone:
            call.arguments["progress"] = callback
            return function(*call.args, **call.kwargs)

    return wrapper


def listed(facts: Fact | Sequence[Fact]) -> Sequence[Fact]:
    """One fact as a list of it; a list as it is."""
    return [facts] if isinstance(facts, Fact) else facts


# -- one argument ------------------------------------------------------------------------------


def _check(function: str, name: str, value: object, annotation: object, several: str) -> None:
    kinds = _members(annotation)
    classes = tuple(kind for kind in kinds if isinstance(kind, type))
    items = [item for kind in kinds for item in _items(kind)]
    if value is None and types.NoneType in classes:
        return
    if name == "lm" and classes:
        if not isinstance(value, classes):
            raise InvalidRequestError(
                f"lm is a {_name(value)}, not a LanguageModel. Load one with fl.load(), or wrap "
                "yours: fl.LanguageModel(model, tokenizer)."
            )
    elif (names := _names(annotation)) and not isinstance(value, str):
        raise InvalidRequestError(
            f"{name} is a {_name(value)}, and {function} takes one of these names: "
            f"{', '.join(names)}."
        )
    elif name == "config" and any(issubclass(kind, BaseModel) for kind in classes):
        _check_config(function, value, classes)
    elif items and not (isinstance(value, classes) and not isinstance(value, Sequence)):
        if str not in classes or not isinstance(value, str):
            _check_items(function, name, value, items)
    elif Fact in classes and not items and not isinstance(value, classes):
        if isinstance(value, Sequence) and not isinstance(value, str):
            hint = f" For several there is {several}." if several else ""
            raise InvalidRequestError(
                f"{function} takes one Fact, and a list of {len(value)} was given.{hint}"
            )
        raise InvalidRequestError(
            f"{name} is a {_name(value)}, not a Fact. Make one: fl.Fact(template, subject, "
            "target_new)."
        )
    elif str in classes and _are_plain(kinds) and not isinstance(value, classes):
        wanted = " or ".join(kind.__name__ for kind in classes if kind is not types.NoneType)
        raise InvalidRequestError(f"{name} is a {_name(value)}, and {function} takes a {wanted}.")


def _check_config(function: str, value: object, classes: tuple[type, ...]) -> None:
    if isinstance(value, classes):
        return
    kind = next(kind for kind in classes if issubclass(kind, BaseModel))
    wanted, namespace = kind.__name__, ".".join(kind.__module__.split(".")[1:2])
    made = f"fl.{namespace}.{wanted}({'**config' if isinstance(value, dict) else '...'})"
    if wanted == "MethodConfig":  # the config of a method that is named beside it
        wanted, made = "config of its method", "one, such as fl.editing.RomeConfig(...)"
    raise InvalidRequestError(
        f"config is a {_name(value)}, and {function} takes a {wanted}. Pass {made}."
    )


def _check_items(function: str, name: str, value: object, items: Sequence[type]) -> None:
    wanted = " or ".join(sorted({item.__name__ for item in items if item is not types.NoneType}))
    if isinstance(value, (str, *items)):
        raise InvalidRequestError(
            f"{function} takes a list as {name}, and one {_name(value)} was given. "
            f"Put it into a list: [{'...' if isinstance(value, str) else name.removesuffix('s')}]."
        )
    if not isinstance(value, Sequence):
        raise InvalidRequestError(
            f"{name} is a {_name(value)}. {function} takes a list of {wanted}."
        )
    for number, item in enumerate(value):
        if not isinstance(item, tuple(items)):
            raise InvalidRequestError(f"{name}[{number}] is a {_name(item)}, not a {wanted}.")


def _members(annotation: object) -> list[object]:
    """The alternatives that an annotation names."""
    if get_origin(annotation) in {Union, types.UnionType}:
        return [one for member in get_args(annotation) for one in _members(member)]
    return [types.NoneType if annotation is None else annotation]


def _names(annotation: object) -> list[str]:
    """What may be chosen by name, if that is all that an annotation allows but for None."""
    kinds = [kind for kind in _members(annotation) if kind is not types.NoneType]
    if not kinds or any(get_origin(kind) is not Literal for kind in kinds):
        return []
    return [str(choice) for kind in kinds for choice in get_args(kind)]


def _are_plain(kinds: Sequence[object]) -> bool:
    """Whether values of no other class will do: numbers stand for each other, and so do paths."""
    return all(isinstance(kind, type) for kind in kinds) and not {*kinds} & {float, Path}


def _items(kind: object) -> list[type]:
    """Of what classes a list is, if the annotation is one of a list of texts or of our classes."""
    if get_origin(kind) is not Sequence:
        return []
    members = [member for item in get_args(kind) for member in _members(item)]
    classes = [member for member in members if isinstance(member, type)]
    ours = [one for one in classes if one is str or one.__module__.startswith("factlab.")]
    return classes if ours and len(classes) == len(members) else []


def _name(value: object) -> str:
    return type(value).__name__
