"""The page of a sweep: it holds everything it needs, shows the law narrow, and takes no text for HTML."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.cli.law_so_far import LawSoFar
from experiments.cli.status_page import CURVES, RELOAD_SECONDS, StatusPage
from experiments.sweep import sweep_folder
from experiments.sweep.lease import Leases
from experiments.sweep.sweep_folder import states
from scaling.errors import Refusal
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.runfolder.files import MetricsLog, write_json

BETA, FLOOR = 0.4, 2.0
DONE = 12
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \x1b[2J & \u202e"
REPORT = {"law": "power_floor", "d": "sessions_unique", "loss": "loss_nats_per_item"}


def losses(users: np.ndarray) -> np.ndarray:
    return (FLOOR + 30 * users**-BETA) * np.exp(2e-3 * np.random.default_rng(0).normal(size=len(users)))


@pytest.fixture
def sweep(tmp_path):
    """Returns the folder of a sweep: twelve runs are done, one failed, one is running, one waits. Run i ended at
    second i, in an order that mixes small and large runs."""
    folder = tmp_path / "sweep"
    sizes = np.geomspace(500, 64_000, DONE).round().astype(int)[np.random.default_rng(1).permutation(DONE)]
    configs = [replace(Config(), {"data.users": int(users)}) for users in (*sizes, 3, 4, 5)]
    names = [run_id(config) for config in configs]
    sweep_folder.begin(folder, "grid", configs, {"report.json": REPORT})
    rows = [
        {
            "status": "done",
            "run_id": name,
            "steps": 40,
            "sessions_unique": int(users),
            "loss_nats_per_item": float(loss),
        }
        for name, users, loss in zip(names, sizes, losses(sizes), strict=False)
    ]
    rows.append({"status": "failed", "run_id": names[DONE], "steps": 40, "reason": HOSTILE})
    for second, (name, row) in enumerate(zip(names, rows, strict=False)):
        sweep_folder.run_dir(folder, name).mkdir(parents=True)
        path = sweep_folder.run_dir(folder, name) / "row.json"
        write_json(path, {**row, "wall_seconds": 60.0} if row["status"] == "done" else row)
        os.utime(path, (second, second))
    at_work = sweep_folder.run_dir(folder, names[DONE + 1])
    at_work.mkdir()
    lines = [{"step": step, "steps": 40, "step_seconds_p50": 2.0, "retrieval_nats_per_item": 6 - step / 10} for step in
             range(0, 20, 5)]  # fmt: skip
    (at_work / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Leases(folder).take(names[DONE + 1], 0, lambda: None):
        yield folder, names


class Page(HTMLParser):
    """The parts of a page that a test asks about."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.reload: str | None = None
        self.progress: dict[str, str | None] = {}
        self.words = ""
        self.feed(text)
        [specs] = re.findall(r"const specs = (\{.*\});", text)
        self.charts = json.loads(specs)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [found[name] for name in ("src", "href") if found.get(name)]
        if found.get("http-equiv") == "refresh":
            self.reload = found["content"]
        if tag == "progress":
            self.progress = found

    def handle_data(self, data):
        if self.tags[-1:] != ["script"]:
            self.words += data


def page_of(folder, tmp_path) -> Page:
    assert main(["status", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    return Page((tmp_path / "page.html").read_text())


def test_the_page_has_all_and_takes_no_text_for_html(sweep, tmp_path, capsys):
    folder, names = sweep
    page = page_of(folder, tmp_path)
    assert "12 done" in capsys.readouterr().out
    assert page.links == []
    assert page.reload is None
    assert not {"img", "iframe", "link"} & set(page.tags)
    assert page.tags.count("script") == 2  # the program that draws, and the charts
    assert page.progress["value"] == "13"
    assert page.progress["max"] == "15"
    assert all(name in page.words for name in names)
    assert f"{names[DONE]} failed: </script><script>alert(1)</script>" in page.words
    assert "\x1b" not in page.words
    assert "\u202e" not in page.words
    assert "About 0:01:48 left" in page.words  # 24 steps of 2 s, and one waiting run of 60 s
    assert {"loss_against_data", "narrowing", "retrieval_nats_per_item"} == set(page.charts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "sweep"]


def test_the_intervals_narrow_around_the_truth(sweep):
    """The first fits may be refused, for want of runs."""
    fits = [(runs, fit) for runs, fit in LawSoFar(sweep[0]).fits() if not isinstance(fit, Refusal)]
    widths = [high - low for low, high in (fit.interval95["beta"] for _, fit in fits)]
    assert fits[-1][0] == DONE
    assert widths[-1] < widths[0] / 2
    low, high = fits[-1][1].interval95["beta"]
    assert low < BETA < high


def test_a_sweep_without_a_law_or_a_run_says_why(tmp_path):
    configs = [replace(Config(), {"train.seed": seed}) for seed in range(2)]
    sweep_folder.begin(tmp_path / "new", "seeds", configs, {})
    assert main(["status", str(tmp_path / "new"), "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "No law yet: " in text
    assert "No run has trained yet." in text
    assert "http-equiv" not in text
    StatusPage(tmp_path / "page.html", tmp_path / "new", "seeds").write(states(tmp_path / "new")[1], is_followed=True)
    assert f'http-equiv="refresh" content="{RELOAD_SECONDS}"' in (tmp_path / "page.html").read_text()


def test_a_page_is_an_html_file(sweep, tmp_path, capsys):
    assert main(["status", str(sweep[0]), "--html", str(tmp_path / "page.txt")]) == 2
    assert "wanted a name that ends in .html" in capsys.readouterr().err


@pytest.mark.slow
def test_a_followed_page_loads_itself_again_until_the_sweep_is_over(sweep, tmp_path):
    folder, names = sweep
    out = tmp_path / "page.html"
    argv = [sys.executable, "-m", "experiments", "status", str(folder), "--follow", "--html", str(out)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        while not out.exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert Page(out.read_text()).reload == str(RELOAD_SECONDS)
        for name in names[DONE + 1 :]:
            sweep_folder.run_dir(folder, name).mkdir(exist_ok=True)
            write_json(sweep_folder.run_dir(folder, name) / "row.json", {"status": "failed", "steps": 1, "reason": "x"})
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
    page = Page(out.read_text())
    assert page.reload is None
    assert page.progress["value"] == "15"


def test_curves_are_columns_that_the_loop_writes(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", 0, 1, 1)
    log.add(0, 1e-3, (1.0, 1.0, 1.0, 1.0), lambda: {"sessions_per_second": 1.0})
    log.add_validation(0, {"validation_objective": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(CURVES) <= {name for line in lines for name in line}
