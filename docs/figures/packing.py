"""A batch as the packer makes it: windows of several users share a row, and each item slot knows its session."""

from __future__ import annotations

import tempfile

import altair as alt

import sessionrec_jax as sr
from scaling.report.figures import parts
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import Batch, shape_of, train_batches
from sessionrec_jax.data.resolve import resolve

ROWS, SESSIONS, ITEMS, CELL = 3, 8, 16, 26
COLOURS = ("#1b6ca8", "#b3342d", "#2f855a", "#b7791f", "#6b46c1", "#0f7b83", "#a03c78", "#5a6372")
PADDING = "#eceef1"


def chart() -> alt.VConcatChart:
    batch = _batch()
    user_RL = batch.user_of_session_GRL[0]
    colour_S = [PADDING if user == 0 else COLOURS[(3 * row + user) % len(COLOURS)] for row, user in _users(user_RL)]
    session_T = batch.session_of_item_GT[0]
    colour_T = [(*colour_S, PADDING)[session] for session in session_T]
    across = ROWS * ITEMS // 2
    return alt.vconcat(
        _slots("Session slots: one color for each user's window", colour_S, _numbers(colour_S, range(99)), SESSIONS),
        _slots("Item slots: the number is the item's session slot", colour_T, _numbers(colour_T, session_T), across),
        spacing=26,
    )


def _batch() -> Batch:
    """Packs the first batch of a small known-truth log."""
    shape = {"data.rows": ROWS, "data.sessions_per_row": SESSIONS, "data.items_per_row": ITEMS}
    small = {**shape, "data.rows_auto": False, "mesh.data": 1}
    with tempfile.TemporaryDirectory() as folder:
        options = {"users": 60, "base": 4, "depth": 2, "exposures_mean": 1.5, "exposures_max": 4, "sessions_mean": 3.0}
        log = sr.prepare("synthetic", out=f"{folder}/log", quiet=True, seed=3, **options)
        config = resolve(replace(Config(), small), log)
        return next(iter(train_batches(config, log, shape_of(config, 1))))


def _users(user_RL) -> list[tuple[int, int]]:
    return [(row, int(user)) for row, users in enumerate(user_RL) for user in users]


def _numbers(colours: list[str], numbers) -> list[str]:
    """Returns the text of each slot; padding has none."""
    return ["" if colour == PADDING else str(number) for colour, number in zip(colours, numbers, strict=False)]


def _slots(title: str, colours: list[str], texts: list[str], across: int) -> parts.Layers:
    rows = [
        {"x": i % across, "y": i // across, "colour": colour, "text": text}
        for i, (colour, text) in enumerate(zip(colours, texts, strict=True))
    ]
    slots = alt.Chart(parts.data(rows)).encode(
        x=alt.X("x:O", axis=None, scale=alt.Scale(paddingInner=0.08)),
        y=alt.Y("y:O", axis=None, scale=alt.Scale(paddingInner=0.16)),
    )
    boxes = slots.mark_rect(cornerRadius=3).encode(color=alt.Color("colour:N", scale=None))
    words = slots.mark_text(color="white", fontSize=12, fontWeight=600).encode(text="text:N")
    size = {"width": across * CELL, "height": (len(colours) // across) * CELL}
    return alt.layer(boxes, words).properties(title=title, **size)
