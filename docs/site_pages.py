"""A Sphinx extension: pages that are made from files outside docs/, links that leave the site, formulas, docstrings."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import latex2mathml.converter
from docutils import nodes
from sphinx.application import Sphinx

from sessionrec_jax import row_columns

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PROJECT = {f"{name}.md": f"made/{name.lower()}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG", "LOG")}
"""Files of the repository, and the pages that are made from them."""
ROW_PAGE = """# The columns of a run's row

Every run ends as one JSON object, RUN/row.json or SWEEP/runs/ID/row.json, and `sessionrec fit` reads these columns.
Null means that the run has no such number; a missing number is never 0. The trainer counts N, D and C itself, so that
no reader has to.
"""
ROW_TABLES = {
    "Every row": row_columns.EVERY_ROW,
    "Rows of runs that are done": row_columns.DONE,
    "Rows of runs that were dropped": row_columns.DROPPED,
    "Rows of runs that failed": row_columns.FAILURE,
}
LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
CELL = re.compile(r"^# %%.*\n", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    make_pages()
    app.connect("source-read", _on_source)
    app.connect("autodoc-process-docstring", _on_docstring, priority=1)  # before napoleon
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_block_formula, None))
    return {"parallel_read_safe": True}


def make_pages() -> None:
    """Writes docs/made: the files of the project, the notebooks, the columns of a row."""
    pages = {page: (ROOT / name).read_text() for name, page in PROJECT.items()}
    for script in sorted((DOCS / "notebooks").glob("*.py")):
        pages[f"made/{script.stem}.md"] = page_of_script(script.read_text())
    pages["made/row.md"] = page_of_columns()
    (DOCS / "made").mkdir(exist_ok=True)
    for page, text in pages.items():
        (DOCS / page).write_text(text)


def page_of_script(script: str) -> str:
    """Returns a script with `# %%` cells as Markdown: the comments of a [markdown] cell are text, the rest is code."""
    parts = []
    for head, cell in zip(CELL.findall(script), CELL.split(script)[1:], strict=True):
        body = cell.strip("\n")
        parts.append(re.sub(r"^# ?", "", body, flags=re.M) if "[markdown]" in head else f"```python\n{body}\n```")
    return "\n\n".join(parts) + "\n"


def page_of_columns() -> str:
    """Returns the tables of the columns of a run's row, by the rows that have them."""
    parts = [ROW_PAGE]
    for title, columns in ROW_TABLES.items():
        parts += [f"\n## {title}\n", "| column | type | unit | meaning |", "|---|---|---|---|"]
        parts += [f"| `{c.name}` | {c.type}{' or null' * c.optional} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join(parts) + "\n"


def _on_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turns a link to a file of the repository into a link to its page, or into the file's name."""
    page = f"{docname}.md"
    home = next((name for name, made in PROJECT.items() if made == page), f"docs/{page}")

    def on_site(link: re.Match) -> str:
        text, target, anchor = link.groups()
        path = (ROOT / home).parent / target
        if not path.exists():
            return link.group()  # Sphinx reports it
        name = path.resolve().relative_to(ROOT).as_posix()
        page_of_file = PROJECT.get(name, name.removeprefix("docs/") if name.startswith("docs/") else None)
        if page_of_file is None:
            return text if text.startswith("`") else f"`{text}`"
        return f"[{text}]({posixpath.relpath(page_of_file, posixpath.dirname(page) or '.')}{anchor or ''})"

    source[0] = LINK.sub(on_site, source[0])


def _on_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keeps the marks of reStructuredText that our plain docstrings use as letters: q_t . e_c, R * L, |x|, x_."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`+[^`]*`+)", line)
        parts[::2] = [re.sub(r"(?<!\*)\*(?!\*)|\||(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def _inline_formula(writer, node: nodes.math) -> None:
    writer.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def _block_formula(writer, node: nodes.math_block) -> None:
    writer.body.append(latex2mathml.converter.convert(node.astext(), display="block"))
    raise nodes.SkipNode
