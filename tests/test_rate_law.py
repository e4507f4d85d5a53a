"""The law of the best rate of a sweep: fitted to its rows, and applied to the runs of other plans."""

from __future__ import annotations

import json
import math

import pytest

from experiments.__main__ import main
from experiments.plans import PLANS, rates
from experiments.plans.sizes import size_of
from experiments.sweep.cost import CostEstimate
from experiments.sweep.sweep_folder import begin
from scaling.rates.result import KIND, load_rates
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id, to_dict
from sessionrec_jax.errors import InputError
from sessionrec_jax.row import identity

SMALL = {
    "data.rows": 1, "data.sessions_per_row": 32, "model.id_width": 8, "model.side_width": 4, "loss.negatives": 32,
    "mesh.data": 1,
}  # fmt: skip


def plan_of(name: str, **options):
    return PLANS.find(name)(**options)


@pytest.fixture(scope="module")
def base(log):
    return replace(Config(), SMALL | {"data.path": str(log.path)})


def law_of_rates(path, base, *, n=(1e3, 1e6), d=(10.0, 1e5), batch=False, columns=None, **more):
    """Writes a rates.json: rate* = 3e-3 (N / 1e4)^-.5 (D / 1e3)^.25, and batch* = 4 (D / 1e3)^.5."""
    ranges = {"n": n, "d": d}

    def law(value, exponents):
        theta = [math.log(value), *exponents.values()]
        centre = {axis: {"n": 1e4, "d": 1e3}[axis] for axis in exponents}
        return {"axes": list(exponents), "theta": theta, "cloud": [theta], "centre": centre, "ranges": ranges,
                "scatter": 0.1, "values": 9, "bounds": 0}  # fmt: skip

    laws = {"rate": law(3e-3, {"n": -0.5, "d": 0.25})} | ({"batch": law(4.0, {"d": 0.5})} if batch else {})
    names = {"rate": "learning_rate_peak", "batch": "batch_rows" if batch else None, "n": "params_body"}
    names |= {"d": "sessions_unique", "loss": "validation_objective"} | (columns or {})
    own = {"settings": rates.settings(to_dict(base)), "rows": base.data.rows or None}
    values = {"kind": KIND, "columns": names, "laws": laws} | own | more
    path.write_text(json.dumps({name: value for name, value in values.items() if value != "absent"}))
    return path


def test_a_law_gives_each_run_the_rate_of_its_own_size_and_data(log, base, tmp_path, capsys):
    path = law_of_rates(tmp_path / "rates.json", base)
    plan = plan_of("grid", sizes=("xs", "s"), learning_rates_from=path, users=(20, 40, 80), law="none")
    configs, cost = plan.lay_out(base, log).configs, CostEstimate()
    said = " ".join("".join(capsys.readouterr()).split())
    assert len(configs) == len({config.optim.learning_rate_peak for config in configs}) == 6
    for config in configs:
        row = cost.row(config)
        rate = 3e-3 * (row["params_body"] / 1e4) ** -0.5 * (row["sessions_unique"] / 1e3) ** 0.25
        assert config.optim.learning_rate_peak == pytest.approx(rate, rel=6e-3)
        assert identity(config, "grid")["learning_rate_rule"] == "tuned"
        assert f"{size_of(config)} at D {row['sessions_unique']:,}: {config.optim.learning_rate_peak:g}" in said


def test_a_law_of_the_batch_gives_each_run_its_rows(log, base, tmp_path):
    open_base = replace(base, {"data.rows": 0})
    path = law_of_rates(tmp_path / "rates.json", open_base, batch=True)
    plan = plan_of("grid", learning_rates_from=path, users=(20, 160), law="none")
    configs, cost = plan.lay_out(open_base, log).configs, CostEstimate()
    for config in configs:
        assert config.data.rows == max(1, round(4 * (cost.row(config)["sessions_unique"] / 1e3) ** 0.5))
    assert len({config.data.rows for config in configs}) == 2


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"n": (1e8, 1e9)}, "grid", "times outside the N of .*; wanted at most 10 times"),
        ({"columns": {"n": "params"}}, "grid", "fitted to the column 'params' for the n; a sweep wants 'params_body'"),
        ({"settings": "absent"}, "grid", "does not say for which settings"),
        ({"settings": {"paradigm": "nipp"}}, "grid", "was tuned for other settings: .*paradigm was nipp and is nspp"),
        ({"rows": 7}, "grid", "has batches of 7 rows, but --data.rows is 1"),
        ({}, "cooldown", "runs that share their first steps have one"),
    ],
)
def test_a_law_that_does_not_fit_the_plan_is_refused(options, name, message, log, base, tmp_path):
    path = law_of_rates(tmp_path / "rates.json", base, **options)
    plan = plan_of(name, learning_rates_from=path, law="none", **({"users": (20,)} if name == "grid" else {}))
    with pytest.raises(InputError, match=message):
        plan.lay_out(base, log)


def test_the_rates_of_a_sweep_are_fitted_with_the_settings_that_they_hold_for(log, base, tmp_path):
    """The sweep is made of rows with planted losses."""
    sweep, cost = tmp_path / "SWEEP", CostEstimate()
    parts = [
        plan_of("learning_rate", sizes=("xxs", "xs", "s"), learning_rates=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
        .lay_out(replace(base, {"data.users": users}), log).configs
        for users in (10, 30, 100)
    ]  # fmt: skip
    configs = [config for part in parts for config in part]
    begin(sweep, "learning_rate", configs, {})
    for config in configs:
        row = identity(config, "learning_rate") | cost.row(config)
        best = 3e-3 * (row["params_body"] / 1e3) ** -0.3 * (row["sessions_unique"] / 100) ** 0.2
        loss = 2 + 0.05 * math.log(config.optim.learning_rate_peak / best) ** 2
        folder = sweep / "runs" / run_id(config)
        folder.mkdir(parents=True)
        (folder / "row.json").write_text(json.dumps(row | {"status": "done", "validation_objective": loss}))
    path = tmp_path / "rates.json"
    assert main(["rates", str(sweep), "--json", str(path), "--bootstrap", "40"]) == 0
    law = load_rates(path).rate
    assert [law.exponents[axis].value for axis in ("n", "d")] == pytest.approx([-0.3, 0.2], abs=0.01)
    plan = plan_of("grid", sizes=("xs",), learning_rates_from=path, users=(40,), law="none")
    (config,) = plan.lay_out(base, log).configs
    row = cost.row(config)
    best = 3e-3 * (row["params_body"] / 1e3) ** -0.3 * (row["sessions_unique"] / 100) ** 0.2
    assert config.optim.learning_rate_peak == pytest.approx(best, rel=0.02)
