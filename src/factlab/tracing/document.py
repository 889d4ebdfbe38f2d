"""What the page draws of traces: their JSON, with what pictures of them say besides."""

from typing import TYPE_CHECKING, Any

from factlab.tracing.groups import GROUPS

if TYPE_CHECKING:
    from factlab.tracing.average import AverageTrace
    from factlab.tracing.result import CausalTrace


def trace_document(trace: "CausalTrace") -> dict[str, Any]:
    """A trace, with the labels of its tokens and what to beware of."""
    return trace.to_json() | {"labels": trace.token_labels, "notes": [*trace.notes]}


def average_document(average: "AverageTrace") -> dict[str, Any]:
    """An average, with the labels of its groups."""
    return average.to_json() | {"labels": [*GROUPS]}
