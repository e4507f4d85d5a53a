"""Tests pages in a browser: figures are drawn, hovering shows the run, and nothing is wider than a narrow screen.

A script that is added to a copy of the page measures it and writes what it finds into the document, which headless
Chromium prints. The tests are skipped where no Chromium is installed.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from report_runs import COLUMNS, OF_BOTH, THEORY, isoflop_runs, runs

import scaling
from scaling import report
from scaling.report import exports
from scaling.table.run_table import from_frame

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
FOUND = "found-by-the-test"
PROBE = """
<script>
const wait = ms => new Promise(go => setTimeout(go, ms));
(async () => {
  for (let i = 0; i < 50 && [...document.querySelectorAll('.chart')].some(c => !c.querySelector('svg')); i++)
    await wait(100);
  const found = {
    svgs: [...document.querySelectorAll('.chart')].map(c => [c.id, c.querySelectorAll('svg path').length]),
    wide: [document.documentElement.scrollWidth, innerWidth],
    outside: [...document.querySelectorAll('.chart svg, h1, p, figure')].filter(
      e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80)),
    ink: getComputedStyle(document.body).color, paper: getComputedStyle(document.body).backgroundColor,
    title: (text => text && getComputedStyle(text).fill)(document.querySelector('.chart svg text')), hovered: '',
  };
  const point = document.querySelector('.chart .mark-symbol[role=graphics-object] path[aria-roledescription=point]');
  if (point) {
    const box = point.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    for (const type of ['pointerover', 'pointermove', 'mousemove'])
      point.dispatchEvent(new MouseEvent(type, {bubbles: true, clientX: x, clientY: y, view: window}));
    await wait(300);
    found.hovered = (document.getElementById('vg-tooltip-element') || {innerText: ''}).innerText;
  }
  const place = document.createElement('pre');
  place.id = 'ID';
  place.textContent = JSON.stringify(found);
  document.body.append(place);
})();
</script>
"""


def look(page: Path, width: int, *, is_dark: bool = False) -> dict:
    """Returns what PROBE finds in a page on a screen of this width, which is a frame: windows have a least width."""
    probed = page.with_name("probed.html")
    before, end, after = page.read_text().rpartition("</body>")  # the program that draws has the word too
    probed.write_text(before + PROBE.replace("'ID'", f"'{FOUND}'") + end + after)
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<body style="margin:0"><iframe src="probed.html" style="border:0;width:{width}px;height:900px"></iframe>'
        f"<script>const copy = setInterval(() => {{ const pre = frames[0].document.getElementById('{FOUND}');"
        "if (pre) { clearInterval(copy); document.body.append(pre.cloneNode(true)); } }, 100);</script></body>"
    )
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=12000",
    ]
    command += [
        "--allow-file-access-from-files",
        "--window-size=1500,1000",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    command += ["--force-dark-mode"] if is_dark else []
    done = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(f'<pre id="{FOUND}">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found.group(1)))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Returns pages of a law of D with a theory, and of a law of N and D with budgets, written without files."""
    folder = tmp_path_factory.mktemp("pages")
    written = exports.write_figures
    exports.write_figures = lambda *_: None
    try:
        table = from_frame(runs(), COLUMNS)
        fit = scaling.fit(table, "power_floor", bootstrap=50, full=False)
        report.write(folder / "data.html", table, [("power_floor", fit)], THEORY, title="one axis")
        table = from_frame(isoflop_runs(), OF_BOTH)
        fit = scaling.fit(table, "chinchilla", bootstrap=50, full=False)
        report.write(
            folder / "both.html", table, [("chinchilla", fit)], title="two_axes_with_a_rather_long_name_of_a_sweep"
        )
    finally:
        exports.write_figures = written
    return folder


@pytest.mark.parametrize("name", ["data", "both"])
def test_figures_are_drawn_and_nothing_overflows_a_narrow_screen(pages, name):
    found = look(pages / f"{name}.html", 400)
    assert found["svgs"]
    assert all(paths > 5 for _, paths in found["svgs"]), found["svgs"]
    assert found["wide"] == [400, 400]
    assert found["outside"] == []
    assert re.search(r"run\s*run\d+", found["hovered"]), found["hovered"]


def test_a_wide_and_dark_screen_is_readable(pages):
    found = look(pages / "both.html", 1400, is_dark=True)
    ink, paper, title = (
        np.mean([float(x) for x in re.findall(r"[\d.]+", found[key])[:3]]) for key in ("ink", "paper", "title")
    )
    assert found["wide"] == [1400, 1400]
    assert paper < 60 < 190 < min(ink, title)
