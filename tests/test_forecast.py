"""Forecasts that are kept: one holds and one does not, a known run is no forecast, and damaged lines are named."""

from __future__ import annotations

import datetime
import json

import numpy as np
import polars as pl
import pytest

import scaling
from experiments.__main__ import main
from scaling.forecasts.frozen import Forecast
from scaling.forecasts.judged import HIT, MISS, OPEN, Judged, calibration

pytestmark = pytest.mark.usefixtures("few_forms")

NOISE = 2e-3
SECOND = datetime.timedelta(seconds=1)


def loss(d):
    return 0.4 + 3 / np.asarray(d) ** 0.35


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast")
    d = np.repeat(np.geomspace(1e3, 1e5, 7), 2)
    noise = np.random.default_rng(0).normal(size=len(d))
    pl.DataFrame({"tokens": d, "loss": loss(d) * np.exp(NOISE * noise)}).write_csv(folder / "runs.csv")
    flags = ["--d", "tokens", "--loss", "loss", "--law", "power_floor", "--bootstrap", "100"]
    assert main(["fit", str(folder / "runs.csv"), *flags, "--json", str(folder / "fit.json")]) == 0
    return folder


def later(fitted, tmp_path, **runs: float) -> str:
    """Writes the table with more runs, {D: loss}, and returns its path."""
    more = pl.DataFrame({"tokens": [float(d[1:]) for d in runs], "loss": list(runs.values())})
    pl.concat([pl.read_csv(fitted / "runs.csv"), more]).write_csv(tmp_path / "later.csv")
    return str(tmp_path / "later.csv")


def freeze(fitted, tmp_path, *d: float) -> int:
    out = str(tmp_path / "forecasts.jsonl")
    return main(["forecast", str(fitted / "fit.json"), "--d", *(f"{x:g}" for x in d), "--out", out])


def test_one_hit_and_one_miss(fitted, tmp_path, capsys):
    before = datetime.datetime.now(datetime.UTC) - SECOND
    assert freeze(fitted, tmp_path, 3e5, 6e5) == 0
    assert freeze(fitted, tmp_path, 9e5) == 0
    frozen = [json.loads(line) for line in (tmp_path / "forecasts.jsonl").read_text().splitlines()]
    assert [line["point"] for line in frozen] == [{"d": 3e5}, {"d": 6e5}, {"d": 9e5}]
    assert {line["data_hash"] for line in frozen} == {json.loads((fitted / "fit.json").read_text())["data_hash"]}
    assert all(before <= datetime.datetime.fromisoformat(line["date"]) <= before + 600 * SECOND for line in frozen)
    # the first run is what the law says, a thousandth off in D; the second is 5 % worse: neither band is that wide
    table = later(fitted, tmp_path, d300300=float(loss(3e5)), d600000=1.05 * float(loss(6e5)))
    arguments = ["forecast", "check", str(tmp_path / "forecasts.jsonl"), table]
    assert main([*arguments, "--json", str(tmp_path / "judged.json")]) == 0
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert [one["outcome"] for one in judged["forecasts"]] == [HIT, MISS, OPEN]
    assert judged["forecasts"][1]["relative_error"] == pytest.approx(1 / 1.05 - 1, abs=0.01)
    assert (judged["calibration"]["hits"], judged["calibration"]["judged"], judged["calibration"]["open"]) == (1, 2, 1)
    assert "1 of 2 forecasts held, a share of 50%" in " ".join(capsys.readouterr().out.split())


def test_a_run_of_the_fitted_table_is_no_forecast(fitted, tmp_path, capsys):
    assert freeze(fitted, tmp_path, 1e5) == 2
    assert "what is known cannot be forecast" in capsys.readouterr().err
    assert not (tmp_path / "forecasts.jsonl").exists()


def test_nothing_is_judged_by_the_table_that_was_fitted(fitted, tmp_path, capsys):
    assert freeze(fitted, tmp_path, 3e5) == 0
    assert main(["forecast", "check", str(tmp_path / "forecasts.jsonl"), str(fitted / "runs.csv")]) == 0
    assert "no forecast can be judged yet; 1 open" in capsys.readouterr().out


def test_a_forecast_is_frozen_once(fitted, tmp_path, capsys):
    assert freeze(fitted, tmp_path, 3e5) == 0
    kept = (tmp_path / "forecasts.jsonl").read_text()
    assert freeze(fitted, tmp_path, 6e5, 3e5) == 2
    assert "has a forecast of D 300000 from 20" in capsys.readouterr().err
    assert (tmp_path / "forecasts.jsonl").read_text() == kept


def test_predict_gives_the_number_of_the_law(fitted, capsys):
    assert main(["predict", str(fitted / "fit.json"), "--d", "1e5"]) == 0
    value, low, high = scaling.load(fitted / "fit.json").predict(D=1e5)
    said = capsys.readouterr().out
    assert f"{value:.6g}" in said
    assert f"[{low:.6g}, {high:.6g}]" in said


def test_the_band_of_several_runs_is_narrower_and_never_narrower_than_the_laws(fitted, tmp_path):
    freeze(fitted, tmp_path, 3e5)
    one = Forecast(**json.loads((tmp_path / "forecasts.jsonl").read_text()))
    widths = [np.log(high / low) for low, high in (one.band(1), one.band(4), (one.low, one.high))]
    assert widths[0] > widths[1] > widths[2]
    assert np.log(one.band(1)[1] / one.value) ** 2 - np.log(one.high / one.value) ** 2 == pytest.approx(
        one.run_noise95**2
    )


def test_nineteen_of_twenty_agree_with_the_promise_and_ten_do_not(fitted, tmp_path):
    freeze(fitted, tmp_path, 3e5)
    one = Forecast(**json.loads((tmp_path / "forecasts.jsonl").read_text()))

    def after(hits: int) -> str:
        outcomes = [HIT] * hits + [MISS] * (20 - hits)
        return str(calibration([Judged(one, outcome, ("r",), 1.0, (0.0, 2.0), 0.01) for outcome in outcomes]))

    assert "19 of 20 forecasts held, a share of 95% [75%, 100%], which agrees with the 95 %" in after(19)
    assert "which is not the 95 %" in after(10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no point is given"),
        (["--n", "1e6", "--d", "1e6"], "N is given, and power_floor"),
        (["--d", "0"], "--d is 0.0; wanted above 0 to 1e+60"),
        (["--d", "nan"], "--d is nan"),
        (["--d", "1e6", "2e6", "--unique", "1", "2", "3"], "2 of D and 3 of U came"),
    ],
)
def test_wrong_points_are_one_message(fitted, capsys, arguments, message):
    assert main(["predict", str(fitted / "fit.json"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "low"}, "its value is 'low'"),
        ({"low": -1.0}, "finite numbers above 0"),
        ({"law": "powr"}, "unknown law 'powr'"),
        ({"point": {"n": 1.0}}, "power_floor has the axes d"),
        ({"columns": {"los": "loss"}}, "unexpected keyword argument"),
        ({"columns": {"loss": 3}}, "its loss is '3'"),
        ({"date": "yesterday"}, "Invalid isoformat"),
    ],
)
def test_a_damaged_line_is_named(fitted, tmp_path, capsys, change, message):
    freeze(fitted, tmp_path, 3e5, 6e5)
    path = tmp_path / "forecasts.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(first + "\n" + json.dumps(json.loads(second) | change) + "\n")
    assert main(["forecast", "check", str(path), str(fitted / "runs.csv")]) == 2
    error = capsys.readouterr().err
    assert f"error: line 2 of {path} is damaged: " in error.replace("\n", "")
    assert message in error
