"""The Zipf-intent process as a source: a log whose loss floors and exponents are known exactly."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import polars as pl

from sessionrec_jax.data.session_log import PROBABILITY
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.synthetic.process import ZipfIntent
from sessionrec_jax.data.synthetic.truth import Truth

NAME = "synthetic"
TITLE = "Zipf-intent process, made here from a seed"
LICENCE = "none needed"
SIZE = "as asked for"
WHERE = "sessionrec_jax/data/synthetic/"
CITATION = "after Hutter, arXiv 2102.04074, and Michaud et al., arXiv 2303.13506"
FILES = ()


@dataclass(frozen=True)
class Options(ZipfIntent):
    click_probability: bool = False
    """Add the exact click probability of each exposure, given the user's earlier sessions, as a column that a run may
    take as the labels of its rank loss (--loss.rank-labels probability)."""


def read(options: Options) -> RawLog:
    """Reads all users of the process. Whole users are held out, so that no training session has a held-out user."""
    process = ZipfIntent(**{field.name: getattr(options, field.name) for field in dataclasses.fields(ZipfIntent)})
    exposures = process.exposures(0, process.users)
    return RawLog(
        source=NAME,
        exposures=with_click_probability(exposures, Truth(process)) if options.click_probability else exposures,
        items=process.items(),
        session_rule="session_id",
        split="held_out_users",
        note="The interest of a session is its first row, a context exposure of the kind 'anchor'.",
        truth=dataclasses.asdict(process),
    )


def with_click_probability(exposures: pl.DataFrame, truth: Truth) -> pl.DataFrame:
    """Adds the click probability of each exposure, given the anchor of the user's session before it; given nothing in a
    user's first session. `exposures` is the table of `ZipfIntent.exposures`; anchors get none."""
    is_anchor_N = exposures["clicked"].is_null().to_numpy()
    session_N = np.cumsum(is_anchor_N) - 1  # an anchor opens each session
    user_S, anchor_S = (exposures[name].to_numpy()[is_anchor_N] for name in ("user_id", "item_id"))
    is_first_S = np.append(True, user_S[1:] != user_S[:-1])
    category_N = truth.category_K[exposures["item_id"].to_numpy()]
    given_N = truth.click_probability_ZC[np.roll(anchor_S, 1)[session_N], category_N]
    probability_N = np.where(is_first_S[session_N], truth.click_rate_C[category_N], given_N)
    return exposures.with_columns(pl.Series(PROBABILITY, np.where(is_anchor_N, np.nan, probability_N)).fill_nan(None))
