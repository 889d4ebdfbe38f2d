"""The five editing problems of Hase et al. (2023), section 4: what a method is asked to do.

| variant | prompt | target | what it answers |
|---|---|---|---|
| `injection` | as it is | the new object | can a new fact be written |
| `reversal` | as it is | what the corrupted run says | can a clean run be made the corrupted one |
| `erasure` | as it is | the true object, made improbable | can knowledge be removed |
| `amplification` | as it is | the true object | can it be strengthened |
| `forcing` | noise on its subject | the true object | can it be restored under noise |

Any method can be asked for any of them that its settings know. Erasing needs a setting `erase`, and
forcing a setting `subject_noise`; the other three write a target as every method does.

The published code erases by minimising P itself for all of its steps. Here −log(1 − P) is
minimised, which is the same where P is small, until it is down to a share of what it was at first.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from factlab.editing.configs import MethodConfig
from factlab.editing.method import Method
from factlab.editing.noise_config import SubjectNoise
from factlab.errors import InvalidRequestError, nearest
from factlab.facts import Fact

Variant = Literal["injection", "reversal", "erasure", "amplification", "forcing"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
VARIANT_NAMES: dict[Variant, str] = {
    "injection": "error injection",
    "reversal": "tracing reversal",
    "erasure": "fact erasure",
    "amplification": "fact amplification",
    "forcing": "fact forcing",
}
# Tokens of what the corrupted run says that become the target of a reversal.
SAID_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """What a method is asked to do with a fact.

    Attributes:
        variant: which of the five.
        fact: as the method takes it.
        config: of the method, likewise.
    """

    variant: Variant
    fact: Fact
    config: MethodConfig

    @property
    def target(self) -> str:
        """The object whose probability the edit is to change."""
        target = self.fact.target_true if self.variant == "erasure" else self.fact.target_new
        return str(target)

    @property
    def noise(self) -> SubjectNoise | None:
        """On the subject, wherever the edited model is asked too."""
        return getattr(self.config, "subject_noise", None)


def variant_named(name: str) -> Variant:
    """A variant by its name.

    Raises:
        InvalidRequestError: there is none.
    """
    for variant in VARIANTS:
        if name in {variant, VARIANT_NAMES[variant]}:
            return variant
    raise InvalidRequestError(
        f"There is no variant '{name}'.{nearest(name, VARIANTS)} Choose from {', '.join(VARIANTS)}."
    )


def check_variant(method: Method, variant: Variant) -> None:
    """Refuse what a method cannot be asked to do; no model is needed to know.

    Raises:
        InvalidRequestError: it cannot.
    """
    if variant == "erasure" and not method.config.can_erase:
        raise InvalidRequestError(
            f"Method '{method.name}' cannot erase, so there is no fact erasure with it. Use rome, "
            "memit, emmet, alphaedit, ft, ft+l, attn or kn."
        )
    if variant == "forcing" and not method.config.can_force:
        raise InvalidRequestError(
            f"Method '{method.name}' cannot edit under noise, so there is no fact forcing with it. "
            "Use rome, memit, emmet, alphaedit, ft, ft+l or attn."
        )


def problem(
    method: Method,
    fact: Fact,
    variant: Variant,
    config: MethodConfig | None = None,
    said: str | None = None,
    noise: SubjectNoise | None = None,
) -> Problem:
    """A fact and settings as a method is asked with them.

    Args:
        method: that is asked.
        fact: with a `target_new` for `injection`, and a `target_true` for the others.
        variant: which of the five.
        config: of the method; by default its defaults.
        said: for `reversal`, what the corrupted run says.
        noise: for `forcing`, with its level.

    Raises:
        InvalidRequestError: the method cannot do it, or the fact lacks what it needs.
    """
    check_variant(method, variant)
    config = config or method.config()
    if variant == "injection":
        return Problem(variant, _with_new(fact, fact.target_new, "no target_new to inject"), config)
    true = fact.target_true
    if variant == "reversal":
        return Problem(variant, _with_new(fact, said, "no output of the corrupted run"), config)
    written = _with_new(fact, true, "no target_true, so it is not known what is true of it")
    changes: dict[str, Any] = {}
    if variant == "erasure":
        changes = {"erase": True}
    elif variant == "forcing":
        if noise is None:
            raise InvalidRequestError("Fact forcing needs noise. Give its level, as of a trace.")
        changes = {"subject_noise": noise}
    return Problem(variant, written, config.model_copy(update=changes))


def nothing_said(prompt: str) -> InvalidRequestError:
    """Why there is no `reversal` of a fact after whose corrupted prompt nothing is said."""
    return InvalidRequestError(
        f"The model says nothing after '{prompt}' with noise on the subject."
    )


def _with_new(fact: Fact, target: str | None, lack: str) -> Fact:
    """The fact with this new target."""
    if not target:
        raise InvalidRequestError(f"'{fact.prompt}' has {lack}.")
    return replace(fact, target_new=target)
