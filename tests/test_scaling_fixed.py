"""Parameters at given values, least squares of the loss itself, N from FLOPs, and the law of density."""

import json

import numpy as np
import polars as pl
import pytest
from planted_laws import PLANTED, planted

import scaling
from scaling.compute.budget import advise
from scaling.errors import InputError, Refusal
from scaling.laws.fixed import with_fixed
from scaling.laws.registry import LAWS

QUICK = {"bootstrap": 0, "full": False}
ONE_OF_EACH_KIND = [
    ("power_floor", "A"),
    ("broken", "D_b"),
    ("chinchilla", "alpha"),
    ("gamma", "gamma"),
    ("data_exponent", "beta"),
    ("metric_exponential", "M_1"),
    ("metric_chance", "M_0"),
    ("sparse", "A_s"),
]


@pytest.mark.parametrize(("law", "name"), [*ONE_OF_EACH_KIND, pytest.param("repeated", "R_D", marks=pytest.mark.slow)])
def test_what_is_fixed_stays_and_the_rest_is_recovered(law, name):
    fit = scaling.fit(planted(law), law, fix={name: PLANTED[law][name]}, objective="ls", **QUICK)
    assert fit.params == pytest.approx(PLANTED[law], rel=1e-7)
    assert name not in fit.free
    assert fit.describe(name).endswith("(fixed)")


def test_a_wrong_value_moves_the_others_and_raises_the_objective():
    runs = planted("chinchilla", 5e-3, 1)
    free = scaling.fit(runs, "chinchilla", objective="ls", **QUICK)
    same = scaling.fit(runs, "chinchilla", objective="ls", fix={"alpha": free.params["alpha"]}, **QUICK)
    wrong = scaling.fit(runs, "chinchilla", objective="ls", fix={"alpha": 0.4}, **QUICK)
    assert same.params == pytest.approx(free.params, rel=1e-5)
    assert same.objective_value == pytest.approx(free.objective_value, rel=1e-9)
    assert wrong.params["alpha"] == 0.4
    assert wrong.objective_value > 2 * free.objective_value


def test_a_fixed_parameter_makes_the_others_surer_and_is_stored(tmp_path):
    runs = planted("chinchilla", 5e-3, 1)
    free = scaling.fit(runs, "chinchilla", bootstrap=100, full=False)
    fit = scaling.fit(runs, "chinchilla", fix={"alpha": 0.34, "E": 1.7}, bootstrap=100, full=False)
    assert fit.known_floor == 1.7
    width = [one.interval95["beta"][1] - one.interval95["beta"][0] for one in (free, fit)]
    assert width[1] < width[0] / 2
    fit.to_json(tmp_path / "fit.json")
    assert json.loads((tmp_path / "fit.json").read_text())["fixed"] == {"alpha": 0.34}
    again = scaling.load(tmp_path / "fit.json")
    assert again.law == fit.law
    np.testing.assert_array_equal(again.predict(N=1e10, D=1e11), fit.predict(N=1e10, D=1e11))


def test_forms_keep_what_is_fixed_where_they_have_it():
    fit = scaling.fit(planted("chinchilla", 5e-3, 1), "chinchilla", fix={"beta": 0.29}, bootstrap=0)
    fixed = {name: dict(whole.law.fixed) for name, whole in fit.forms.whole.items()}
    assert fixed["gamma"] == fixed["kaplan"] == fixed["chinchilla"] == {"beta": 0.29}
    assert fixed["tied"] == {}
    assert "beta" not in fit.profile


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        ({"alpa": 0.3}, "no parameter 'alpa'; did you mean 'alpha'"),
        ({"A": -1.0}, "A is fixed to -1.0; chinchilla wants a number above 0"),
        ({"alpha": float("nan")}, "alpha is fixed to nan"),
        ({"alpha": -0.3}, "alpha is fixed to -0.3, where chinchilla has no such power"),
        ({"A": 1.0, "B": 1.0, "alpha": 0.3, "beta": 0.3}, "all parameters of chinchilla are fixed"),
        ({"E": -1.0}, "the known floor is -1.0"),
    ],
)
def test_what_cannot_be_fixed(fix, message):
    with pytest.raises(InputError, match=message):
        scaling.fit(planted("chinchilla"), "chinchilla", fix=fix, **QUICK)
    with pytest.raises(InputError, match="fix has E too; give one"):
        scaling.fit(planted("chinchilla"), "chinchilla", fix={"E": 1.7}, floor=1.7, **QUICK)
    with pytest.raises(InputError, match="fixed as the known floor: --floor"):
        with_fixed(LAWS["chinchilla"], {"E": 1.7})


@pytest.mark.parametrize("law", ["power_floor", "chinchilla", "metric_sigmoid"])
def test_least_squares_of_the_loss_itself_is_scipys(law):
    from scipy.optimize import least_squares

    runs = planted(law, 2e-2, 4)
    fit = scaling.fit(runs, law, objective="ls_loss", **QUICK)
    response, points = runs.response(fit.law), runs.points(fit.law)

    def miss(theta_P):
        return fit.loss_at(points, theta_P[None])[0] - response

    assert fit.objective_value == pytest.approx((miss(fit.theta_P) ** 2).sum() / 2, rel=1e-9)
    theirs = least_squares(miss, fit.theta_P + 1e-3, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert fit.objective_value <= theirs.cost * (1 + 1e-9)
    np.testing.assert_allclose(fit.theta_P, theirs.x, atol=1e-5)


def test_least_squares_of_the_loss_has_intervals_of_the_usual_width():
    runs = planted("power_floor", 5e-3, 1)
    widths = []
    for objective in ("ls", "ls_loss"):
        fit = scaling.fit(runs, "power_floor", objective=objective, bootstrap=200, full=False)
        low, high = fit.interval95["E"]
        assert low < fit.params["E"] < high
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.5)


def test_n_from_flops_is_c_over_6_d():
    runs = planted("chinchilla", 5e-3, 1)
    frame = pl.DataFrame({"c": 6 * runs.n * runs.d, "d": runs.d, "loss": runs.loss})
    fit = scaling.fit(frame, "chinchilla", d="d", n_from_flops="c", loss="loss", **QUICK)
    np.testing.assert_allclose(fit.table.n, runs.n, rtol=1e-12)
    assert fit.flops_per_nd == 6
    with pytest.raises(InputError, match="--n-from-flops is read as N"):
        scaling.read(frame.with_columns(n=2.0), n="n", d="d", n_from_flops="c", loss="loss")


def test_the_law_of_density_wants_densities_and_no_budget():
    runs = planted("sparse", 2e-3, 1)
    fit = scaling.fit(runs, "sparse", **QUICK)
    assert fit.params == pytest.approx(PLANTED["sparse"], rel=0.2)
    dense, sparse = (fit.predict(N=1e8, D=1e9, density=s)[0] for s in (1.0, 0.1))
    assert dense > sparse  # at the same number of parameters that are not zero
    with pytest.raises(InputError, match="density of the parameters too, which no budget chooses"):
        advise(fit, (1e18,))
    with pytest.raises(InputError, match="needs the density column; name its column with --density"):
        scaling.fit(planted("chinchilla"), "sparse", **QUICK)
    one = runs.frame.filter(pl.col("density") == 1)
    with pytest.raises(Refusal, match="1 distinct density"):
        scaling.fit(one, "sparse", n="n", d="d", density="density", loss="loss", **QUICK)
    with pytest.raises(InputError, match=r"--density\) goes up to 30; wanted the part"):
        scaling.read(runs.frame.with_columns(pl.col("density").pow(-1)), n="n", d="d", density="density", loss="loss")
