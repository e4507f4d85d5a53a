"""One door for text from outside (ids, column names, paths, reasons): a function for each medium that shows it.

    printable(text)      a terminal or a plain file: no control character reaches it
    markup(text)         text inside rich's markup
    html(text)           text inside an HTML element or a quoted attribute
    json_in_html(values) JSON inside a <script> element
    shell(*words)        a command that a reader copies into a shell

Text in a figure is data of its Vega-Lite specification, and vl-convert escapes it when it writes SVG; the control
characters that XML does not have are removed from the specification by `printable_values`.
"""

from __future__ import annotations

import html as _html
import json
import shlex
import unicodedata
from typing import Any

from rich.markup import escape as _escape

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode's categories of controls, format characters (bidirectional overrides, zero width), surrogates and
separators."""
_JOINERS = "\u200c\u200d"  # Persian and Indic scripts and emoji are written with them


def printable(text: str) -> str:
    """Returns `text` with each character that a terminal would obey or hide written as an escape, such as \\x1b.
    Newlines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in "\n\t" or character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def markup(text: object) -> str:
    """Returns text that rich shows as it is, without control characters."""
    return _escape(printable(str(text)))


def html(text: object) -> str:
    """Returns text for an HTML element or a quoted attribute, without control characters."""
    return _html.escape(printable(str(text)))


def json_in_html(values: Any) -> str:
    """Returns JSON that no HTML parser takes for the end of a script or the start of a comment."""
    text = json.dumps(values, allow_nan=False)  # ASCII only, so that U+2028 and surrogates are escaped too
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def shell(*words: object) -> str:
    """Returns a command that a shell reads as these words, whatever spaces or quotes are in them."""
    return shlex.join(map(str, words))


def printable_values(values: Any) -> Any:
    """Returns JSON-like values whose texts, and keys, are `printable`."""
    if isinstance(values, str):
        return printable(values)
    if isinstance(values, dict):
        return {printable(key): printable_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [printable_values(value) for value in values]
    return values
