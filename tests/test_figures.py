"""The figures of the documents are what their files draw from the tables of experiments/results."""

from __future__ import annotations

import re

import pytest

from docs.figures.__main__ import HERE, NAMES, drawn

QUICK = ("ablation", "model", "paradigms")
TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_a_figure_says_what_its_data_say(name):
    """Compares the words and numbers, because a curve's last digits may differ between processors."""
    stored = TEXT.findall((HERE / f"{name}.svg").read_text())
    assert len(stored) > 5
    assert TEXT.findall(drawn(name)) == stored
