"""Tests that source and documents are in plain English: they have none of the openings and words listed below.

The test reads docstrings, comments and string literals of Python files, and all text of Markdown files. It skips code
between backticks.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = (
    *("sessionrec_jax/**/*.py", "scaling/**/*.py", "experiments/**/*.py", "benchmarks/**/*.py"),
    *(
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LOG.md",
        "docs/**/*.md",
        "experiments/results/*.md",
        "benchmarks/*.md",
    ),
)
# A docstring is a sentence with a subject and a verb. These openings make it a fragment.
OPENING = re.compile(r"\s*(Of|What|Whatever|Whether|Where|How|Who|Whoever|Whence)\b")
# Each of these has a plain word: says, reports, next to, compared with, as many, no, again, is. (A check that
# "cannot tell" has no plainer word.)
WORDS = re.compile(
    r"\b(told|(?<!cannot )tells?|beside|so\s+many|of\s+none|(?-i:(is|are)\s+none)|anew|lies?|lain|stands?|stood"
    r"|as\s+(it|they)\s+came|whence|wherefrom|hears|reckon\w*|therein|thereof|hitherto|betwixt|begun)\b",
    re.IGNORECASE,
)
CODE = re.compile(r"(`+)[^`]+\1")


def words(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line within the text, word) for each listed word outside backticks."""
    prose = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
    for match in WORDS.finditer(prose):
        yield prose.count("\n", 0, match.start()), " ".join(match.group().split())


def strings_and_comments(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yields (line, text, whether it opens a docstring or a comment). A string without a space is a name, not prose."""
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value, id(node) in statements
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#"), token.start[0] != last + 1
            last = token.start[0]


def offences(name: str, text: str) -> list[str]:
    """Returns each offence in a file as "name:line: word"."""
    texts = strings_and_comments(text) if name.endswith(".py") else [(1, text, False)]
    found = []
    for line, prose, opens in texts:
        opening = OPENING.match(prose) if opens else None
        found += [(line, f"opens with {opening[1]}")] if opening else []
        found += [(line + offset, word) for offset, word in words(prose)]
    return [f"{name}:{line}: {what}" for line, what in sorted(found)]


def test_source_and_documents_are_in_plain_english():
    paths = sorted(path for pattern in FILES for path in ROOT.glob(pattern))
    found = [line for path in paths for line in offences(str(path.relative_to(ROOT)), path.read_text())]
    assert not found, "\n".join([f"{len(found)} offences", *found])


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", 'def f():\n    """Of all shards."""', ["a.py:2: opens with Of"]),
        ("a.py", 'class A:\n    x: int\n    """Where it is."""', ["a.py:3: opens with Where"]),
        ("a.py", "x = 1\n# Of all shards.", ["a.py:2: opens with Of"]),
        ("a.py", "x = f'{y} runs stand beside it'", ["a.py:1: beside", "a.py:1: stand"]),
        ("a.py", 'x = """a\nb is\nnone."""', ["a.py:2: is none"]),
        ("a.py", '"""Runs cannot tell."""', []),
        ("a.md", "A row lies\n\nbeside it.", ["a.md:1: lies", "a.md:3: beside"]),
        ("a.py", '"""Returns x. `told` is a flag, and ``lies`` too."""', []),
        ("a.py", "x = 'told'; stands = 'standard believes'  # so x is None", []),
        ("a.py", "x = 1\n# This comment explains, over two lines, the place\n# Where another sentence continues.", []),
    ],
)
def test_offences_are_found_and_names_are_none(name, text, found):
    assert offences(name, text) == found
