"""An HTML document that holds everything it needs: text, style, charts, and the program that draws them."""

from __future__ import annotations

from collections.abc import Iterable

from doors.text import json_in_html
from scaling.report.html import element
from scaling.report.style import CSS

_OPTIONS = "{mode: 'vega-lite', actions: false, renderer: 'svg'}"
_DRAW = """
const NARROW = 600, PANEL = 290, AROUND_PANEL = 80;
function fitted(spec, width) {
  const one = JSON.parse(JSON.stringify(spec));
  if (one.concat) {
    one.columns = Math.max(1, Math.min(one.columns || 1, Math.floor(width / PANEL)));
    const around = Math.min((one.usermeta || {}).around || AROUND_PANEL, width / one.columns / 2);
    for (const panel of one.concat) panel.width = Math.floor(width / one.columns - around);
  } else {
    one.width = width;
    one.height = width < NARROW ? 330 : 440;
    one.autosize = {type: 'fit', contains: 'padding'};
  }
  if (width < NARROW) {
    one.config.legend = {...one.config.legend, orient: 'top', direction: 'vertical', columns: 3, titleOrient: 'top',
      offset: 6, layout: {top: {direction: 'vertical', anchor: 'start'}}};
    one.config.axis = {...one.config.axis, labelFontSize: 11, titleFontSize: 11};
    one.config.text = {fontSize: 10};
    one.padding = 4;
  }
  return one;
}
let drawn = 0;
function draw() {
  if (document.documentElement.clientWidth === drawn) return;
  drawn = document.documentElement.clientWidth;
  for (const name in specs) {
    const place = document.getElementById(name);
    if (place) vegaEmbed(place, fitted(specs[name], place.clientWidth), OPTIONS);
  }
}
let later;
addEventListener('resize', () => { clearTimeout(later); later = setTimeout(draw, 200); });
draw();
"""
"""Draws each chart as wide as its place, again when the window changes: with legends above the plot and one panel a row
on a narrow screen."""


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

    bundle = vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]  the stub requires what is optional
    values = f"const specs = {_specs(charts)};\nconst OPTIONS = {_OPTIONS};"
    return f"<script>{bundle}</script>\n<script>{values}{_DRAW}</script>"


def _specs(charts: dict[str, dict]) -> str:
    """Returns the charts as JSON, with variables of the page's style in place of the colours that follow the scheme."""
    from scaling.report.figures.parts import PAPER, THEME_COLOURS

    specs = json_in_html(charts)
    for colour, variable in THEME_COLOURS.items():
        specs = specs.replace(colour, f"var(--{variable})")
    return specs.replace(f'"background": "{PAPER}"', '"background": null').replace(f'"{PAPER}"', '"var(--paper)"')
