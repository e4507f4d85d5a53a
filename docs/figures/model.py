"""The model: exposures become items, items become a session, sessions become a state that predicts the next session."""

from __future__ import annotations

import altair as alt

from scaling.report.figures import parts

SESSIONS = ("session t - 2", "session t - 1", "session t")
CLICKS = ("100", "0110", "01")
"""Each session's exposures; 1 is a click."""
STEP, WIDTH, HEIGHT = 190, 790, 372
CLICKED, IGNORED, PAPER = "#b3342d", "#c9ced4", "#f6f7f9"


def chart() -> alt.LayerChart:
    boxes, texts, arrows, items = [], [], [], []
    for index, (name, clicks) in enumerate(zip(SESSIONS, CLICKS, strict=True)):
        middle = 95 + STEP * index
        texts.append(_text(middle, 362, name, bold=True))
        for place, click in enumerate(clicks):
            x = middle + 34 * (place - (len(clicks) - 1) / 2)
            items.append({"x": x, "y": 330, "colour": CLICKED if click == "1" else IGNORED})
            arrows.append(_arrow(x, 318, middle, 290))
        boxes.append(_box(middle - 78, 250, middle + 78, 288))
        texts.append(_text(middle, 269, "session encoder (ISE)"))
        arrows.append(_arrow(middle, 250, middle, 222))
        texts.append(_text(middle + 22, 236, f"s{_below(index)}"))
        arrows.append(_arrow(middle, 178, middle, 150))
        texts.append(_text(middle + 22, 164, f"o{_below(index)}"))
        texts.append(_text(middle, 134, "clicks of the next session"))
        boxes.append(_box(middle - 88, 118, middle + 88, 150))
    boxes.append(_box(7, 180, 7 + 2 * STEP + 176, 220))
    texts.append(_text(95 + STEP, 200, "causal sequence encoder over sessions (SSE): Transformer, HSTU or GRU"))
    texts.append(
        _text(
            7, 92, "score of an item:  q(o) · e + bias  (retrieval),  r(o) · e + bias  (rank)", align="left", bold=True
        )
    )
    legend = [(CLICKED, "clicked exposure"), (IGNORED, "ignored exposure")]
    for place, (colour, words) in enumerate(legend):
        items.append({"x": 590, "y": 318 + 24 * place, "colour": colour})
        texts.append(_text(606, 318 + 24 * place, words, align="left"))
    for line, words in enumerate(
        ("each exposure is an embedding:", "item id and side information,", "through one layer")
    ):
        texts.append(_text(580, 252 + 18 * line, words, align="left"))
    layers = [
        _plane(boxes).mark_rect(fill=PAPER, stroke="#9aa1a9", cornerRadius=6).encode(x2="x2:Q", y2="y2:Q"),
        _plane(arrows).mark_rule(stroke="#6a737d", strokeWidth=1.4).encode(x2="x2:Q", y2="y2:Q"),
        _plane(items).mark_circle(size=260, opacity=1).encode(color=alt.Color("colour:N", scale=None)),
        *_words(texts),
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT - 70)


def _below(index: int) -> str:
    return ("ₜ₋₂", "ₜ₋₁", "ₜ")[index]


def _box(left: float, top: float, right: float, bottom: float) -> dict:
    return {"x": left, "y": top, "x2": right, "y2": bottom}


_arrow = _box


def _text(x: float, y: float, text: str, *, align: str = "center", bold: bool = False) -> dict:
    return {"x": x, "y": y, "text": text, "align": align, "bold": bold}


def _plane(rows: list[dict]) -> alt.Chart:
    """Returns a chart whose x and y are pixels, y downwards from 80."""
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, WIDTH], nice=False), axis=None)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[HEIGHT, 70], nice=False), axis=None)
    return alt.Chart(parts.data(rows)).encode(x=x, y=y)


def _words(texts: list[dict]) -> list[alt.Chart]:
    kinds = sorted({(text["align"], text["bold"]) for text in texts})
    return [
        _plane([text for text in texts if (text["align"], text["bold"]) == kind])
        .mark_text(align=kind[0], baseline="middle", fontSize=13, fontWeight=600 if kind[1] else 400, color=parts.INK)
        .encode(text="text:N")
        for kind in kinds
    ]
