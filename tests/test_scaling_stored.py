"""fit.json keeps contract 4 and predicts as the fit did, to the bit; other files and wrong calls of predict are
refused.
"""

import json

import numpy as np
import pytest
from grid import mostly_slow
from planted_laws import FORMULA, PLANTED, line, planted, points

import scaling
from scaling.errors import InputError
from scaling.fitting.fitted import FIELDS
from scaling.laws import registry

CONTRACT = {
    "law", "objective_name", "delta", "objective", "n_rows", "excluded", "params", "interval95", "open_intervals",
    "minima", "heldout",
}  # fmt: skip
GIVEN = {"n": "N", "d": "D", "u": "U", "l": "L", "s": "density"}


@pytest.fixture(scope="module")
def fit() -> scaling.Fit:
    """Returns a full fit, with an open floor, profiles, held-out runs, forms and variants."""
    return scaling.fit(line(0.0, 0.01, seed=1), "power_floor", bootstrap=100)


@pytest.fixture
def stored(fit, tmp_path):
    fit.to_json(tmp_path / "fit.json")
    return tmp_path / "fit.json"


def test_contract_4_with_more_keys(fit, stored):
    got = json.loads(stored.read_text())
    assert CONTRACT | set(FIELDS) <= set(got)
    assert got["params"] == fit.params
    assert got["params"]["E"] is None
    assert got["interval95"]["E"] is None
    assert got["open_intervals"] == ["E"]
    assert got["bounds"]["E"] == list(fit.bounds["E"])
    assert got["n_rows"] == 18
    assert (got["objective_name"], got["delta"]) == ("huber", fit.objective.delta)
    assert [run["predicted"] for run in got["heldout"]] == [run.predicted for run in fit.heldout]
    assert got["forms"]["chosen"] == fit.forms.chosen
    assert {row["law"] for row in got["forms"]["rows"]} == {"power", "power_floor", "broken"}
    assert [variant["name"] for variant in got["variants"]] == [variant.name for variant in fit.variants]
    assert got["profile"]["beta"]["interval95"] == list(fit.profile["beta"].interval95)
    assert got["data_hash"] == fit.table.data_hash()


def test_all_digits_are_there_and_nothing_that_is_no_json(fit, stored):
    text = stored.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    got = json.loads(text)
    assert got["objective"] == fit.objective_value
    assert repr(fit.params["beta"]) in text
    np.testing.assert_array_equal(got["cloud"], fit.cloud_SP)
    np.testing.assert_array_equal(got["theta"], fit.theta_P)
    assert got == json.loads(json.dumps(fit.to_dict()))


def test_it_is_written_whole_over_an_older_one_and_leaves_no_other_file(fit, stored):
    before = stored.read_text()
    fit.to_json(stored)
    assert stored.read_text() == before
    assert [path.name for path in stored.parent.iterdir()] == ["fit.json"]


def test_no_folder_is_made(fit, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        fit.to_json(tmp_path / "no" / "fit.json")
    assert not list(tmp_path.iterdir())


LAW_AND_FLOOR = [(law, False) for law in registry.LAWS if law != "chinchilla"]
LAW_AND_FLOOR += [("chinchilla", True), ("repeated", True)]
LONG = [("kaplan", False), ("repeated", False)]
"""Their fits take longest."""


@pytest.mark.parametrize(
    ("law", "floor_known"), mostly_slow(LAW_AND_FLOOR, quick=[x for x in LAW_AND_FLOOR if x not in LONG], several=True)
)
def test_a_loaded_fit_predicts_the_same_to_the_bit(law, floor_known, tmp_path):
    floor = PLANTED[law]["E"] if floor_known else None
    fit = scaling.fit(planted(law, 1e-3, 1), law, floor=floor, objective="ls", bootstrap=40, full=False)
    fit.to_json(tmp_path / "fit.json")
    loaded = scaling.load(tmp_path / "fit.json")
    assert type(loaded) is scaling.FittedLaw
    at = {GIVEN[axis]: x[::5] for axis, x in points(law).items()}
    for one, other in zip(fit.predict(**at), loaded.predict(**at), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.natural().keys() == fit.natural().keys()
    assert (loaded.centre, loaded.ranges, loaded.flops_per_nd) == (fit.centre, fit.ranges, fit.flops_per_nd)
    assert loaded.floor == fit.floor


def test_ranges_are_those_of_the_fitted_data(fit):
    assert fit.ranges == {"d": (3e4, 1e7)}
    runs = planted("chinchilla_no_floor", 1e-3)
    grid = scaling.fit(runs, "chinchilla_no_floor", objective="ls", bootstrap=0, full=False)
    assert grid.ranges["c"] == pytest.approx((6e13, 6e19))
    assert grid.ranges["n"] == (runs.n.min(), runs.n.max())


def edited(text: str, **changed) -> str:
    return json.dumps(json.loads(text) | changed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "is not a fit"),
        (
            lambda text: "d,loss\n1,2",
            r"is not a fit; `sessionrec fit TABLE --json law.json` makes one from a table .*$",
        ),
        (lambda text: text[: len(text) // 2], "is not a fit"),
        (lambda text: "[1, 2]", "is not a fit of this version: it has no law"),
        (lambda text: '"law"', "is not a fit of this version"),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "theta"}), "it has no theta"),
        (lambda text: edited(text, law="powerfloor"), "did you mean 'power_floor'"),
        (lambda text: edited(text, law=["power"]), "unknown law"),
        (lambda text: edited(text, law="power"), "is damaged: theta"),
        (lambda text: edited(text, theta=[1.0]), "is damaged: theta"),
        (lambda text: edited(text, theta=[1.0, 2.0, None]), "is damaged: theta"),
        (lambda text: edited(text, theta="abc"), "is damaged: theta"),
        (lambda text: edited(text, cloud=[[1.0, 2.0]]), "is damaged: cloud"),
        (lambda text: edited(text, cloud=[[1.0, 2.0, "x"]]), "is damaged: cloud"),
        (lambda text: edited(text, cloud=None), "is damaged: cloud"),
        (lambda text: edited(text, cloud=[[1.0, 2.0]] * 3), "is damaged: cloud"),
        (lambda text: edited(text, centre={"n": 1.0}), "is damaged: centre"),
        (lambda text: edited(text, centre={"d": 0.0}), "is damaged: centre"),
        (lambda text: edited(text, centre=3), "is damaged: centre"),
        (lambda text: edited(text, known_floor="x"), "is damaged: known_floor"),
        (lambda text: edited(text, known_floor=-1.0), "is damaged: known_floor"),
        (lambda text: edited(text, known_floor=0.3), "is damaged: theta"),
        (lambda text: edited(text, flops_per_nd=None), "is damaged: flops_per_nd"),
        (lambda text: edited(text, flops_per_nd=0), "is damaged: flops_per_nd"),
        (lambda text: edited(text, ranges={"d": [1.0]}), "is damaged: ranges"),
        (lambda text: edited(text, ranges=[]), "is damaged: ranges"),
    ],
)
def test_what_is_no_fit_is_reported(stored, damage, message):
    stored.write_text(damage(stored.read_text()))
    with pytest.raises(InputError, match=message):
        scaling.load(stored)


def test_a_file_that_is_not_there_and_one_that_is_no_text(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*--json"):
        scaling.load(tmp_path / "fit.json")
    with pytest.raises(InputError, match=r"is not a fit; `sessionrec fit TABLE --json law.json` makes one"):
        scaling.load(tmp_path)
    (tmp_path / "fit.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a fit"):
        scaling.load(tmp_path / "fit.json")


@pytest.mark.parametrize("law", ["power_floor", "chinchilla_no_floor", "repeated", "metric_sigmoid"])
def test_a_prediction_is_the_formula_at_the_fitted_parameters(law):
    fit = scaling.fit(planted(law, 1e-3, 1), law, objective="ls", bootstrap=0, full=False)
    x = {axis: values[:4] * 3 for axis, values in points(law).items()}
    values = {name: float(v[0]) for name, v in fit.natural().items()}
    value, low, high = fit.predict(**{GIVEN[axis]: at for axis, at in x.items()})
    np.testing.assert_allclose(value, FORMULA[law](x, **values), rtol=1e-12)
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_numbers_arrays_and_both_together():
    fit = scaling.fit(
        planted("chinchilla_no_floor", 1e-3), "chinchilla_no_floor", objective="ls", bootstrap=40, full=False
    )
    n, d = np.array([[1e7], [1e8]]), np.array([1e9, 1e10, 1e11])
    value, low, high = fit.predict(N=n, D=d)
    assert value.shape == low.shape == high.shape == (2, 3)
    assert np.all((low < value) & (value < high))
    assert np.all(np.diff(value, axis=0) < 0)
    assert np.all(np.diff(value, axis=1) < 0)
    one = fit.predict(N=1e8, D=1e10)
    assert [x.shape for x in one] == [(), (), ()]
    np.testing.assert_allclose([float(x) for x in one], [value[1, 1], low[1, 1], high[1, 1]], rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"chinchilla_no_floor \(L = .*\) needs N and D to predict"),
        ({"N": 1e8}, "needs D to predict"),
        ({"N": 1e8, "D": 0.0}, "D is 0; a prediction wants it above 0"),
        ({"N": [1e8, -2.0], "D": 1e9}, "N is -2; a prediction wants it above 0"),
        ({"N": float("nan"), "D": 1e9}, "N is nan"),
        ({"N": [1.0, 2.0], "D": [1.0, 2.0, 3.0]}, "N and D want numbers, or arrays that broadcast"),
        ({"N": "many", "D": 1e9}, "N and D want numbers, .*'many'"),
    ],
)
def test_a_prediction_wants_its_axes_above_zero(given, message):
    fit = scaling.fit(planted("chinchilla_no_floor"), "chinchilla_no_floor", objective="ls", bootstrap=0, full=False)
    with pytest.raises(InputError, match=message):
        fit.predict(**given)
