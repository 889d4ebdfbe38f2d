"""A value as it is kept on a disk: a line of JSON, and numbers as bytes. Nothing is pickled."""

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from factlab.documents import JsonValue, parse_json
from factlab.errors import StorageError

# By the name of a dtype, bytes of a number.
_SIZES = {"float32": 4, "float64": 8}
# A norm within so much of its bound may have been cut back to it.
_CLOSE = 1e-3


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A value without PyTorch.

    Attributes:
        numbers: of δ, little-endian.
        dtype: `float32` or `float64`.
        clamp: ‖δ‖ was kept below this many times the initial norm; None for the method's bound.
        initial_norm: ‖v₀‖.
        history: what was noted of each step.
    """

    numbers: bytes
    dtype: str
    clamp: float | None
    initial_norm: float
    history: Sequence[Mapping[str, float]]

    @property
    def reach(self) -> float:
        """The largest ‖δ‖ of any step, as a multiple of the initial norm."""
        longest = max(step["delta_norm"] for step in self.history)
        return longest / self.initial_norm if self.initial_norm else math.inf

    def stays_clear_of(self, clamp: float | None) -> bool:
        """Whether δ never came near a bound: it is the same with any other it stays clear of."""
        return clamp is not None and self.reach < (1 - _CLOSE) * clamp

    def header(self) -> str:
        """All but the numbers, as JSON.

        Raises:
            ValueError: it would hold NaN or an infinite number.
        """
        names = [*self.history[0]]
        header = {
            "dtype": self.dtype,
            "clamp": self.clamp,
            "initial_norm": self.initial_norm,
            "history": {name: [step[name] for step in self.history] for name in names},
        }
        return json.dumps(header, sort_keys=True, allow_nan=False)

    def digest(self, key: str) -> str:
        """SHA-256 of the value together with what it is the value of."""
        return _digest(key, self.header(), self.numbers)

    @classmethod
    def of_parts(cls, key: str, header: object, numbers: object, digest: object) -> "StoredValue":
        """A value from what `header`, `numbers` and `digest` gave.

        Raises:
            StorageError: it is not what was kept under this key.
        """
        if (
            not isinstance(header, str)
            or not isinstance(numbers, bytes)
            or _digest(key, header, numbers) != digest
        ):
            raise StorageError("The value is damaged: its digest is another.")
        try:
            value = _of_header(parse_json(header, "The value"), numbers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"The value is damaged: {error!r}.") from error
        if not numbers or len(numbers) % _SIZES[value.dtype] or not value.history:
            raise StorageError("The value is damaged: it is not of whole numbers.")
        return value

    def to_json(self, key: str) -> dict[str, JsonValue]:
        """The whole of it as JSON."""
        return {
            "value": json.loads(self.header()),
            "delta": base64.b64encode(self.numbers).decode(),
            "sha256": self.digest(key),
        }

    @classmethod
    def of_json(cls, key: str, line: Mapping[str, JsonValue]) -> "StoredValue":
        """A value from what `to_json` gave.

        Raises:
            StorageError: it is damaged, or not of this key.
        """
        try:
            numbers = base64.b64decode(str(line.get("delta")), validate=True)
        except binascii.Error as error:
            raise StorageError(f"The value is damaged: {error}.") from error
        header = json.dumps(line.get("value"), sort_keys=True)
        return cls.of_parts(key, header, numbers, line.get("sha256"))


def _of_header(header: JsonValue, numbers: bytes) -> StoredValue:
    if not isinstance(header, dict) or header["dtype"] not in _SIZES:
        raise TypeError("its header is not one")
    clamp, columns = header["clamp"], header["history"]
    steps = zip(*columns.values(), strict=True)
    return StoredValue(
        numbers,
        header["dtype"],
        None if clamp is None else _number(clamp),
        _number(header["initial_norm"]),
        [dict(zip(columns, map(_number, step), strict=True)) for step in steps],
    )


def _number(value: JsonValue) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _digest(key: str, header: str, numbers: bytes) -> str:
    made = hashlib.sha256(f"{key}\n{header}\n".encode())
    made.update(numbers)
    return made.hexdigest()
