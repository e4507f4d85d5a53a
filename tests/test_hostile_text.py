"""Tests that text from outside is shown and never obeyed: by a terminal, rich's markup, HTML, a script or a figure."""

from __future__ import annotations

import functools
import html.parser
import itertools
import json
import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from hostile import FIT, PREPARE, begin_sweep, inside, sessionrec, write_log, write_runs
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from doors.terminal import Terminal
from doors.text import html as escaped
from doors.text import json_in_html, markup, printable, printable_values
from experiments.sweep import sweep_folder
from sessionrec_jax.runfolder.files import write_json

pytestmark = pytest.mark.usefixtures("few_forms")

PIECES = (
    "[b]", "[/b]", "[/]", "[link=x]", "\\[", "<script>", "</script>", "<!--", "-->", "]]>", "&amp;", "'", '"',
    "\x1b[31m", "\x1b]0;title\x07", "\x9b1m", "\x00", "\x07", "\r", "\x7f", "\u202e", "\u2066", "\u200b", "\u2028",
    "\ud800", "\udfff", "\ufeff", "a", "é", "漢", "\U0001f469\u200d\U0001f4bb", " ", "{", "$x$", "\\", "%", "_",
)  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), min_size=1, max_size=6).map("".join)
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Page(html.parser.HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@given(TEXT)
@example("a\tb")
def test_a_terminal_shows_every_character_and_obeys_none(text):
    console = Terminal(force_terminal=True, width=10_000, color_system=None, highlight=False)
    with console.capture() as shown:
        console.print(markup(text), text, soft_wrap=True, markup=False)
        console.print(markup(text), soft_wrap=True)
    assert not CONTROLS.search(shown.get())
    assert " ".join(printable(text).split()) in " ".join(shown.get().split())  # rich draws a tab as spaces


@given(TEXT)
@example("\t")
def test_printable_text_is_its_own_escape(text):
    once = printable(text)
    assert printable(once) == once
    once.encode()
    assert all(unicodedata.category(each) not in ("Cc", "Cs") or each in "\n\t" for each in once)


@given(TEXT)
def test_html_shows_text_and_makes_no_element(text):
    page = Page(f"<p title='{escaped(text)}'>{escaped(text)}</p>")
    assert page.tags == ["p"]
    assert page.text == printable(text)


@given(st.recursive(TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)))
def test_json_in_a_script_means_the_same_and_never_ends_it(values):
    text = json_in_html(values)
    assert json.loads(text) == json.loads(json.dumps(values))  # JSON joins the halves of a surrogate pair
    assert text.isascii()
    assert not set(text) & set("<>&")


@given(st.dictionaries(TEXT, TEXT, max_size=3))
def test_values_of_a_figure_are_printable(values):
    assert not CONTROLS.search("".join(f"{name}{value}" for name, value in printable_values(values).items()))


# Through the commands.

IDS = tuple(each for each in PIECES if each.strip() and not re.search("[\ud800-\udfff]", each))


def test_ids_of_a_log_are_never_obeyed(tmp_path, monkeypatch, capsys):
    """The log's columns, kinds of context and notes reach the terminal, card.html and card.json."""
    monkeypatch.chdir(tmp_path)
    rows = [(piece, u, i) for piece in IDS for u in range(2) for i in range(6)]
    frame = pl.DataFrame({
        "user": [f"{piece}{u}" for piece, u, _ in rows],
        "item": [f"{piece}{i % 3}" for piece, _, i in rows],
        "ts": [1714555000 + 86400 * i for _, _, i in rows],
        "label": [None if i == 3 else str(i % 2) for _, _, i in rows],
        "kind": [piece for piece, _, _ in rows],
    })  # fmt: skip
    frame.write_parquet("log.parquet")
    command = PREPARE.format("log.parquet", "DATA").replace("gap_minutes=30", "same_timestamp")
    assert sessionrec(f"{command} --feedback kind --session-context kind") == 0
    assert sessionrec("describe DATA") == 0
    assert sessionrec("describe DATA --json") == 0
    said = capsys.readouterr()
    assert not CONTROLS.search(said.out + said.err)
    text = (tmp_path / "DATA" / "card.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("b") == page.tags.count("td") / 2  # the headings of the table, and none of an id
    assert all(printable(piece) in page.text for piece in IDS)
    assert not CONTROLS.search(page.text)


def test_a_sweep_s_text_is_never_obeyed(tmp_path, capsys):
    folder = tmp_path / "S"
    names = begin_sweep(folder, 2)
    text = "".join(each for each in PIECES if "\n" not in each)
    write_json(
        sweep_folder.run_dir(folder, names[0]) / "row.json", {"run_id": names[0], "status": "failed", "reason": text}
    )
    write_json(
        sweep_folder.run_dir(folder, names[1]) / "row.json",
        {"run_id": text, "status": "done", "loss_nats_per_item": 2.0, "plan": text},
    )
    for command in (f"status {folder}", f"compare {folder}", f"fit {folder}"):
        sessionrec(command)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert not CONTROLS.search(said.out + said.err)


@pytest.mark.parametrize("path", ["a[/b]", "\x1b[31mred", "\u202egnp", "\udc80\udcff", "[link=x]"])
def test_a_path_is_shown_as_it_is_spelled(path, capsys):
    for command in ("describe", "status", "fit", "evaluate"):
        argv = [command, path] + (["--law", "power"] if command == "fit" else [])
        from experiments.__main__ import main

        assert main(argv) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert not CONTROLS.search(said)
        assert printable(path) in said.replace("\n", "")


def named(names, row: list) -> list:
    return [next(names), *row]


@pytest.mark.slow
def test_a_report_shows_its_figures_whatever_its_run_ids_are(tmp_path, capsys):
    """A page whose runs have names of markup parses to the same elements as one whose runs have plain names."""
    with inside(tmp_path):
        for name, ids in (("plain", [f"run{k}" for k in range(len(IDS))]), ("hostile", IDS)):
            edit = functools.partial(named, itertools.cycle(ids))
            write_runs(Path(f"{name}.csv"), names=("run", "d", "loss"), edit=edit)
            argv = FIT.format(f"{name}.csv").replace("fit ", "report ")
            assert sessionrec(f"{argv} --run-id run --out {name}.html") == 0
        plain, hostile = (Page(Path(f"{name}.html").read_text()) for name in ("plain", "hostile"))
        assert hostile.tags.count("script") == plain.tags.count("script")
        assert hostile.tags.count("figure") == plain.tags.count("figure") > 0
        scripts = re.findall(r"const specs = (.*);\n", Path("hostile.html").read_text())
        assert json.loads(scripts[0]).keys()
        for figure in Path("hostile_figures").glob("*.svg"):
            ElementTree.parse(figure)
    assert not CONTROLS.search(capsys.readouterr().out)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(TEXT.filter(lambda text: not re.search("[\ud800-\udfff\x00]", text)), min_size=2, max_size=4))
def test_any_ids_go_through_preparation(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("ids")
    write_log(folder / "log.csv", users=6, name=lambda plain: ids[hash(plain) % len(ids)] + plain)
    with inside(folder):
        code = sessionrec(PREPARE.format("log.csv", "DATA"))
    assert code in (0, 2)
