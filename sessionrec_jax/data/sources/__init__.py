"""Sources of session logs, one file each: how a published layout maps to the two tables of contract 1.

A source is a module with NAME, TITLE, LICENCE, SIZE, WHERE (to download it), CITATION, FILES (what it expects to find),
`Options` (a dataclass: its part of the command line) and `read(options) -> RawLog`. It checks its files and scans them
lazily; cleaning, sessions and roles are the same for all (prepare.py). `sessionrec_jax.registry.SOURCES` finds the
sources by name: the files of this folder, and what a plugin registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from sessionrec_jax.data.session_log import Split, TimeUnit


@dataclass(frozen=True)
class RawLog:
    """A log as a source reads it, not checked yet."""

    source: str
    """Name of the source."""
    exposures: pl.LazyFrame | pl.DataFrame
    """Columns of contract 1, and any others; types as they came. It is scanned twice where rows are rejected."""
    items: pl.DataFrame | None = None
    """item_id and columns of side information. None: the catalogue is the items seen."""
    time_unit: TimeUnit = "ms"
    """Of the times where they are numbers."""
    times: str | None = None
    """Which column of which published file holds the times. None: --time-unit tells their unit."""
    session_rule: str = "gap_minutes=30"
    """How sessions are cut where the exposures have no session_id and nobody says otherwise."""
    split: Split = "leave_one_session_out"
    """How sessions get their roles where nobody says otherwise."""
    note: str = ""
    """What a reader of the log should know: what was left out, and why."""
    truth: dict[str, Any] | None = None
    """Settings of the process that made the log, where it is known."""
