"""Laws of several arms: planted exponents, multipliers and crossings come back, and pairs make intervals narrower."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import polars as pl
import pytest

import scaling
from experiments.__main__ import main
from scaling.arms.compare import ArmsFit, compare, tables_of
from scaling.arms.joint import JointProblem
from scaling.arms.multiplier import _share, versus
from scaling.arms.sentences import sentences
from scaling.errors import InputError, Refusal

D = np.repeat(np.geomspace(1e3, 1e5, 8), 3)
SEEDS = [0, 1, 2] * 8
FLOPS_PER_D = {"a": 1e6, "b": 3e6}
FLOPS = {"n": "params", "flops": "flops"}


def frame(*, b: tuple[float, float] = (3.0, 0.2), floor: float = 0.0, noise: float = 3e-3, own: float = 1e-3):
    """Returns arms a (3 D^-0.2) and b (size, exponent), whose runs of one seed and D have most of their noise in
    common."""
    generator = np.random.default_rng(1)
    common = noise * generator.normal(size=len(D))
    parts = [
        pl.DataFrame(
            {
                "arm": name, "tokens": D, "seed": SEEDS, "params": 1e4, "flops": FLOPS_PER_D[name] * D,
                "loss": (floor + size * D**-exponent) * np.exp(common + own * generator.normal(size=len(D))),
            }
        )
        for name, (size, exponent) in {"a": (3.0, 0.2), "b": b}.items()
    ]  # fmt: skip
    return pl.concat(parts)


def compared(rows: pl.DataFrame, law: str = "power", **options) -> ArmsFit:
    names = {"d": "tokens", "loss": "loss"} | options.pop("columns", {})
    tables = {arm: scaling.read(part, **names) for arm, part in tables_of(rows, "arm", "table").items()}
    return compare(tables, "arm", law, **({"bootstrap": 300} | options))


def test_the_same_exponent_is_not_called_different_and_the_multiplier_comes_back():
    found = compared(frame(b=(3.3, 0.2)))
    assert found.equal is not None
    assert not found.equal.differ
    (one,) = versus(found)
    needed = 1.1 ** (1 / 0.2)  # 3.3 D^-.2 reaches 3 D^-.2 at this many times D
    for at in (*one.along, one.beyond):
        assert at.multiplier.low < needed < at.multiplier.high
        assert at.better == 0.0
    assert one.crossing.to_beyond == 0.0
    says, arm = sentences(found, [one])
    assert "may have the same beta" in says
    assert "a is better with probability 1 (" in arm


def test_another_exponent_is_called_different_and_the_crossing_comes_back():
    size = 3.0 * 1e4**0.03  # equal at D = 1e4
    found = compared(frame(b=(size, 0.23)))
    assert found.equal.differ
    difference = found.equal.differences["beta of b - a"]
    assert difference.low < 0.03 < difference.high
    (one,) = versus(found)
    assert one.crossing.cost.low < 1e4 < one.crossing.cost.high
    assert one.crossing.within_data == 1.0
    assert one.along[0].multiplier.value > 1 > one.along[-1].multiplier.value
    assert one.beyond.better == 1.0
    assert "differ in beta" in sentences(found, [one])[0]


def test_compute_counts_the_flops_of_a_unit_of_data():
    by_data, by_compute = (versus(compared(frame(), columns=c, bootstrap=0))[0] for c in ({}, FLOPS))
    assert by_compute.along[0].multiplier.value == pytest.approx(3 * by_data.along[0].multiplier.value, rel=0.02)


@pytest.mark.parametrize("without", ["a", "b"])
def test_an_arm_without_flops_makes_data_the_cost_of_all(without):
    rows = frame(b=(3.3, 0.2))
    missing = rows.with_columns(flops=pl.when(arm=without).then(None).otherwise("flops"))
    by_data, found = (compared(some, columns=c, bootstrap=0) for some, c in ((rows, {}), (missing, FLOPS)))
    assert found.cost == by_data.cost == "D"
    assert versus(found) == versus(by_data)
    assert f"{without} has no FLOPs, so arms are compared by data." in found.warnings


def test_one_missing_cell_of_flops_changes_nothing():
    rows = frame(b=(3.3, 0.2))
    missing = rows.with_columns(flops=pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("flops"))
    whole, found = (compared(some, columns=FLOPS, bootstrap=50) for some in (rows, missing))
    for one, other in zip(versus(whole)[0].along, versus(found)[0].along, strict=True):
        assert other.cost == pytest.approx(one.cost)
        assert other.multiplier.value == pytest.approx(one.multiplier.value)
        assert other.better == one.better


def test_a_share_of_draws_without_a_loss_is_no_probability():
    lower, known = np.array([True, True, False, False]), np.array([True, True, True, False])
    assert _share(lower, known) is None
    assert _share(lower, known | True) == 0.5
    assert _share(lower[:0], known[:0]) is None
    found = compared(frame(), bootstrap=50)
    unknown = dataclasses.replace(found.arms[1].fitted, cloud_SP=np.full_like(found.arms[1].fitted.cloud_SP, np.nan))
    arms = (found.arms[0], dataclasses.replace(found.arms[1], fitted=unknown))
    found = dataclasses.replace(found, arms=arms)
    (one,) = versus(found)
    assert (one.beyond.better, one.crossing.within_data, one.crossing.to_beyond) == (None, None, None)
    assert "probability" not in sentences(found, [one])[1]


def test_pairs_make_the_difference_sharper_than_independent_draws():
    rows = frame(b=(3.3, 0.2))
    paired, alone = compared(rows), compared(rows.drop("seed"))
    assert (paired.pairs.paired, paired.pairs.clusters) == (24, 24)
    assert alone.pairs.paired == 0
    widths = [
        versus(found)[0].beyond.difference.high - versus(found)[0].beyond.difference.low for found in (paired, alone)
    ]
    assert widths[0] < 0.6 * widths[1]


def test_separate_parameters_are_the_fits_of_the_arms_and_shared_ones_are_equal():
    rows = frame(b=(3.3, 0.22), floor=0.5)
    options = {"objective": "ls", "bootstrap": 0}
    separate, shared = compared(rows, "power_floor", **options), compared(rows, "power_floor", shared=["E"], **options)
    for arm in separate.arms:
        alone = scaling.fit(rows.filter(arm=arm.name), "power_floor", d="tokens", loss="loss", full=False, **options)
        for name, value in alone.params.items():
            assert arm.params[name].value == pytest.approx(value, rel=1e-5)
    floors = [arm.params["E"].value for arm in shared.arms]
    assert floors[0] == floors[1]
    assert min(arm.params["E"].value for arm in separate.arms) < floors[0]
    assert floors[0] < max(arm.params["E"].value for arm in separate.arms)
    assert shared.equal.names == ("beta",)
    assert shared.equal.objective_ratio >= 1


def test_the_joint_derivatives_are_those_of_the_curve():
    from scaling.arms.compare import _arms

    rows = frame(floor=0.5)
    tables = {arm: scaling.read(part, d="tokens", loss="loss") for arm, part in tables_of(rows, "arm", "t").items()}
    arms, _ = _arms(tables, scaling.LAWS["power_floor"], None)
    joint = JointProblem.of(arms, ("E", "beta"))
    assert joint.curve.params == 4
    theta, weight = np.array([[0.1, -0.7, 0.3, 0.4]]), np.linspace(1, 2, 2 * len(D))[None]
    sums = joint.curve.expand(theta)

    def slope(theta_P):
        return joint.curve.expand(theta_P[None]).gradient(weight)[0]

    steps = 1e-6 * np.eye(4)
    total = [((joint.curve.log(theta + h) - joint.curve.log(theta - h)) * weight).sum() / 2e-6 for h in steps]
    np.testing.assert_allclose(sums.gradient(weight)[0], total, rtol=1e-6)
    bends = [(slope(theta[0] + h) - slope(theta[0] - h)) / 2e-6 for h in steps]
    np.testing.assert_allclose(sums.hessian(-weight, weight)[0], bends, rtol=1e-5, atol=1e-6)


def test_laws_of_size_and_data_are_compared_at_their_best_sizes():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    noise = 1e-3 * np.random.default_rng(1).normal(size=(2, len(n)))

    def arm(name, worse, noise):
        loss = (1.7 + worse * (400 / n**0.34 + 900 / d**0.29)) * np.exp(noise)
        return pl.DataFrame({"arm": name, "params": n, "tokens": d, "seed": 0, "loss": loss})

    rows = pl.concat([arm("a", 1.0, noise[0]), arm("b", 1.05, noise[1])])
    found = compared(rows, "chinchilla", columns={"n": "params"}, bootstrap=100)
    assert found.cost == "C"
    assert found.equal.names == ("alpha", "beta")
    assert not found.equal.differ
    (one,) = versus(found)
    needed = 1.05 ** ((0.34 + 0.29) / (0.34 * 0.29))  # the excess falls as C^-(alpha beta / (alpha + beta))
    assert one.along[2].multiplier.low < needed < one.along[2].multiplier.high


def test_rounding_is_no_difference():
    found = compared(frame(b=(3.3, 0.2), noise=0.0, own=0.0), bootstrap=50)
    assert found.equal.p_value == 1.0


def test_a_law_that_misses_the_runs_says_so_and_promises_nothing_beyond_them():
    found = compared(frame(floor=1.0))
    assert found.misfits == ("a", "b")
    (one,) = versus(found)
    _, arm, misfit = sentences(found, [one])
    assert "if the law held there" in arm
    assert "power misses the runs of a and b by more than their noise" in misfit
    assert not compared(frame(floor=1.0), "power_floor").misfits


def test_an_arm_that_cannot_carry_the_law_is_named():
    rows = frame()
    with pytest.raises(Refusal, match="arm b: power_floor has 3 free parameters"):
        compared(pl.concat([rows.filter(arm="a"), rows.filter(arm="b")[:3]]), "power_floor")


@pytest.mark.parametrize(
    ("shared", "message"), [(["A"], "'A' cannot be shared"), (["bta"], "did you mean 'beta'"), (["E"], "'E' cannot be")]
)
def test_only_exponents_and_the_floor_are_shared(shared, message):
    with pytest.raises(InputError, match=message):
        compared(frame(), shared=shared)


@pytest.fixture
def csv(tmp_path):
    frame(b=(3.3, 0.2)).write_csv(tmp_path / "runs.csv")
    return str(tmp_path / "runs.csv")


FLAGS = ["--d", "tokens", "--loss", "loss", "--law", "power", "--bootstrap", "100"]


def test_the_command_says_and_writes_the_same(csv, tmp_path, capsys):
    assert main(["fit", csv, *FLAGS, "--by", "arm", "--json", str(tmp_path / "arms.json")]) == 0
    written, said = json.loads((tmp_path / "arms.json").read_text()), " ".join(capsys.readouterr().out.split())
    assert all(sentence in said for sentence in written["sentences"])
    (one,) = written["versus_first"]
    assert one["along"][0]["multiplier"]["low"] < 1.1**5 < one["along"][0]["multiplier"]["high"]
    assert written["pairs"] == {"of_every_arm": 24, "groups": 24}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--by", "amr"], "no column 'amr' (--by); did you mean 'arm'"),
        (["--by", "params"], "has 1 values"),
        (["--by", "loss"], "wanted 2 to 20 arms"),
        (["--share", "beta"], "name the column"),
        (["--names", "a"], "name the column"),
        (["--out", "arms.html"], "`sessionrec report` writes the page of one law"),
        (["--by", "arm", "--names", "a", "b"], "--names is for several tables"),
        (["--by", "arm", "--out", "arms.svg"], "wanted a name that ends in .html"),
        (["--by", "arm", "--fix", "beta=0.2"], "do not go with --by"),
        (["--by", "arm", "--law", "best"], "compared by one law"),
        (["--by", "arm", "--law", "power,power_floor"], "compared by one law"),
        (["--by", "arm", "--share", "A"], "'A' cannot be shared"),
        (["--by", "arm", "--delta", "-1"], "delta is -1.0; wanted 'auto' or a number above 0"),
        (["--by", "arm", "--bootstrap", "1"], "bootstrap is 1; wanted 40 draws or more"),
        (["--by", "arm", "--delta", "nan"], "delta is nan; wanted 'auto' or a number above 0"),
        (["--by", "arm", "--delta", "0"], "delta is 0.0; wanted 'auto' or a number above 0"),
    ],
)
def test_wrong_flags_are_one_message(csv, capsys, flags, message):
    assert main(["fit", csv, *FLAGS, *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_several_tables_are_arms_and_give_the_answer_of_one_table_with_a_column(tmp_path, csv, capsys):
    rows = frame(b=(3.3, 0.2))
    files = [tmp_path / f"{arm}.csv" for arm in ("a", "b")]
    for file in files:
        rows.filter(arm=file.stem).write_csv(file)
    together, apart, renamed = (tmp_path / name for name in ("together.json", "apart.json", "renamed.json"))
    assert main(["fit", csv, *FLAGS, "--by", "arm", "--json", str(together)]) == 0
    assert main(["fit", *map(str, files), *FLAGS, "--json", str(apart)]) == 0
    one, other = (json.loads(path.read_text()) for path in (together, apart))
    for name in ("arms", "versus_first", "equal_exponents", "pairs"):
        assert one[name] == other[name]
    assert main(["fit", *map(str, files), *FLAGS, "--names", "old", "new", "--json", str(renamed)]) == 0
    assert list(json.loads(renamed.read_text())["arms"]) == ["old", "new"]
    capsys.readouterr()
    for words, message in (
        ([*map(str, files), "--by", "arm"], "each table is an arm, or one table has them all"),
        ([*map(str, files), "--names", "a"], "1 --names for 2 tables"),
        ([csv, csv], "several tables have the name 'runs'"),
    ):
        assert main(["fit", *words, *FLAGS]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_runs_that_are_left_out_are_listed_with_their_arm_and_their_rule(tmp_path, capsys):
    rows = frame(b=(3.3, 0.2)).with_columns(status=pl.lit("done"))
    runs = tmp_path / "sweep" / "runs"
    for place, row in enumerate(rows.to_dicts()):
        (runs / str(place)).mkdir(parents=True)
        row["status"] = "failed" if place in (30, 31) else "done"
        (runs / str(place) / "row.json").write_text(json.dumps(row | {"run_id": str(place)}))
    rows.write_csv(tmp_path / "other.csv")
    unfinished = runs / "running"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    files = {"json": tmp_path / "arms.json", "out": tmp_path / "arms.html"}
    flags = [*FLAGS, *(word for name, path in files.items() for word in (f"--{name}", str(path)))]
    assert main(["fit", str(runs.parent), *flags, "--by", "arm"]) == 0
    said, page = capsys.readouterr().out, files["out"].read_text()
    assert "2 left out in b: not done" in said
    assert "1 left out without an arm: no row yet" in said
    assert "2 excluded runs in b" in page
    assert "1 excluded runs without an arm" in page
    assert len(json.loads(files["json"].read_text())["unfinished"]) == 1
    assert main(["fit", str(runs.parent), str(tmp_path / "other.csv"), *FLAGS]) == 0
    assert "1 left out in sweep: no row yet" in capsys.readouterr().out


def test_the_page_has_the_answer_the_runs_of_both_arms_and_the_crossing(tmp_path):
    from scaling.report.figures.arms import loss_against_cost
    from scaling.report.figures.parts import as_dict

    rows = frame(b=(3.0 * 1e4**0.03, 0.23))
    rows.write_csv(tmp_path / "runs.csv")
    page = tmp_path / "arms.html"
    assert main(["fit", str(tmp_path / "runs.csv"), *FLAGS, "--by", "arm", "--out", str(page)]) == 0
    text = page.read_text()
    assert "differ in beta" in text
    assert "b and a cross, within the data with probability 1" in text
    tables = {arm: scaling.read(part, d="tokens", loss="loss") for arm, part in tables_of(rows, "arm", "t").items()}
    found = compare(tables, "arm", "power", bootstrap=50)
    drawn = [json.loads(text) for text in as_dict(loss_against_cost(found, versus(found), tables))["datasets"].values()]
    assert [len(values) for values in drawn if "run" in values[0]] == [len(rows)]
    lines = [values for values in drawn if "low" in values[0]]
    assert {values[0]["arm"] for values in lines} == {"a", "b"}
    assert all(row["low"] < row["response"] < row["high"] for values in lines for row in values)
    crossings = [row["c"] for values in drawn for row in values if "cross" in str(row.get("text"))]
    assert crossings == [pytest.approx(1e4, rel=0.5)]


# The exponent or the constant?


def called_different(exponent: float, tables: int) -> list[bool]:
    """Returns for each planted table if the exponents .2 and `exponent` of two arms were called different."""
    found = []
    for seed in range(tables):
        generator = np.random.default_rng(seed)
        arms = {"a": (3.0, 0.2), "b": (3.3 * 1e4 ** (exponent - 0.2), exponent)}
        parts = {
            arm: pl.DataFrame({"tokens": D, "loss": size * D**-each * np.exp(5e-3 * generator.normal(size=len(D)))})
            for arm, (size, each) in arms.items()
        }
        runs = {arm: scaling.read(part, d="tokens", loss="loss") for arm, part in parts.items()}
        found.append(bool(compare(runs, "arm", "power", bootstrap=400).equal.differ))
    return found


def test_exponents_that_differ_are_called_different_and_a_constant_is_not():
    assert sum(called_different(0.2, 4)) <= 1
    assert sum(called_different(0.21, 4)) == 4


@pytest.mark.slow
def test_of_60_planted_tables_few_constants_are_called_exponents_and_few_exponents_are_missed():
    """At the 5 % level 3 of 60 tables with a common exponent are expected to be called different; 8 or more have a
    probability below 1 %. An exponent that is .01 larger is five standard errors away here."""
    assert sum(called_different(0.2, 60)) <= 7
    assert sum(called_different(0.21, 60)) >= 57
