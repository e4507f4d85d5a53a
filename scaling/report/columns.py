"""The columns that a report reads besides those of the fit. scaling/ knows no names: the caller gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Names = tuple[str, ...]


@dataclass(frozen=True)
class ReportColumns:
    """Column names. A name that the table does not have is ignored."""

    runs: Names = ()
    """The table of runs shows these after the fitted ones."""
    tooltip: Names = ()
    """Hovering over a run in a figure shows these."""
    counted_in_n: Mapping[str, str] = field(default_factory=dict)
    """{a column of N: whether item tables and embeddings are counted in it, in words}."""
    flops_convention: Names = ()
    """The checklist takes its answer from the first of these that has values. So it does for all fields below, but
    architecture and versions, where it takes every one."""
    data: Names = ()
    evaluation_data: Names = ()
    architecture: Names = ()
    optimizer: Names = ()
    learning_rate_schedule: Names = ()
    learning_rate_rule: Names = ()
    learning_rate: Names = ()
    batch_size: Names = ()
    epochs: Names = ()
    versions: Names = ()
    hardware: Names = ()
    stderr: Names = ()
    """The standard error of the response, if it is not called RESPONSE_stderr."""
