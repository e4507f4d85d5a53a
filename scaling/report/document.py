"""An HTML document that holds everything it needs: text, style, charts, and the program that draws them."""

from __future__ import annotations

from collections.abc import Iterable

from doors.text import json_in_html
from scaling.report.html import CSS, element

_OPTIONS = (
    "{mode: 'vega-lite', actions: {export: true, source: false, compiled: false, editor: false}, renderer: 'svg'}"
)


def document(title: str, body: Iterable[str], charts: dict[str, dict], *, reload_seconds: int | None = None) -> str:
    """Returns one self-contained HTML document. `charts` are {the id of an element: Vega-Lite to draw there}.

    With `reload_seconds` a browser that shows the document loads it again after that time, and again.
    """
    reload = "" if reload_seconds is None else f'<meta http-equiv="refresh" content="{reload_seconds}">'
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{reload}{element("title", title)}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body>\n" + "\n".join(body) + f"\n{_script(charts)}\n</body></html>\n"
    )


def figure(name: str, caption: str) -> str:
    """Returns the place where the chart of this name is drawn, with its caption."""
    return f'<figure><div class=chart id="{name}"></div>{element("figcaption", caption)}</figure>'


def _script(charts: dict[str, dict]) -> str:
    if not charts:
        return ""
    import vl_convert

    specs = json_in_html(charts)
    bundle = vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]  the stub requires what is optional
    return (
        f"<script>{bundle}</script>\n<script>const specs = {specs};\n"
        f"for (const name in specs) vegaEmbed('#' + name, specs[name], {_OPTIONS});</script>"
    )
