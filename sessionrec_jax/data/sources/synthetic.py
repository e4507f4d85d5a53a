"""The Zipf-intent process as a source: a log whose loss floors and exponents are known exactly."""

from __future__ import annotations

import dataclasses

from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.data.synthetic.process import ZipfIntent as Options

NAME = "synthetic"
TITLE = "Zipf-intent process, made here from a seed"
LICENCE = "none needed"
SIZE = "as asked for"
WHERE = "sessionrec_jax/data/synthetic/"
CITATION = "after Hutter, arXiv 2102.04074, and Michaud et al., arXiv 2303.13506"
FILES = ()


def read(options: Options) -> RawLog:
    """Reads all users of the process. Whole users are held out, so that no training session has a held-out user."""
    return RawLog(
        source=NAME,
        exposures=options.exposures(0, options.users),
        items=options.items(),
        session_rule="session_id",
        split="held_out_users",
        note="The interest of a session is its first row, a context exposure of the kind 'anchor'.",
        truth=dataclasses.asdict(options),
    )
