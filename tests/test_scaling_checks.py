"""Tests which tables may carry which law: a refusal names its reason and its cure, and no input gives another error."""

import numpy as np
import polars as pl
import pytest
from grid import mostly_slow

from scaling.errors import InputError, Refusal
from scaling.fitting.noise import seed_noise
from scaling.laws.registry import LAWS
from scaling.table.checks import refuse
from scaling.table.run_table import Columns, RunTable, from_frame, read
from scaling.table.variation import refuse_rising

POWER, POWER_FLOOR, CHINCHILLA = (LAWS[name] for name in ("power", "power_floor", "chinchilla"))
REPEATED, BROKEN, OF_LOSS = (LAWS[name] for name in ("repeated", "broken", "metric_exponential"))


def grid(sizes: int = 6, datas: int = 6) -> pl.DataFrame:
    """Returns a table that carries every law of the project."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e9, sizes), np.geomspace(1e7, 1e10, datas)))
    loss = 1.7 + 400 * n**-0.34 + 900 * d**-0.29
    ids = [f"run{i}" for i in range(len(n))]
    return pl.DataFrame({"run_id": ids, "seed": 0, "status": "done", "n": n, "d": d, "loss": loss, "hit": 1 / loss})


def ray(rows: int = 24) -> pl.DataFrame:
    n = np.geomspace(1e6, 1e9, rows)
    return pl.DataFrame({"n": n, "d": 20 * n, "loss": 1.7 + 400 * n**-0.34 + 900 * (20 * n) ** -0.29})


def table(frame: pl.DataFrame, **named) -> RunTable:
    return from_frame(frame, Columns(**({"loss": "loss", "d": "d", "n": "n"} | named)))


def seen(epochs: np.ndarray | float) -> RunTable:
    """A table whose D is `epochs` times its distinct data."""
    return table(grid().with_columns(u=pl.col("d") / epochs), unique="u")


def test_a_good_table_carries_every_law_without_a_word():
    runs = table(grid(), metric="hit")
    assert refuse(runs, CHINCHILLA, None) == refuse(runs, CHINCHILLA, 1.7) == refuse(runs, OF_LOSS, None) == ()
    assert refuse(table(ray(), n=None), POWER, None) == ()


@pytest.mark.parametrize(
    ("law", "known_floor", "message"),
    [
        (CHINCHILLA, None, "needs N; name its column with --n"),
        (OF_LOSS, None, "needs the metric column; name its column with --metric"),
        (POWER, 0.3, "has no floor"),
        (POWER_FLOOR, -1.0, "above 0"),
        (POWER_FLOOR, float("nan"), "above 0"),
    ],
)
def test_wrong_requests(law, known_floor, message):
    with pytest.raises(InputError, match=message):
        refuse(table(grid(), n=None), law, known_floor)


def test_a_single_ray():
    with pytest.raises(Refusal, match=r"single ray \(D grows as N\^1;.*Add runs.*IsoFLOP"):
        refuse(table(ray()), CHINCHILLA, None)
    assert refuse(table(ray(), n=None), POWER_FLOOR, None) == ()


def test_a_ray_with_some_spread_is_warned_of():
    off = np.exp(np.tile([-0.3, 0.3], 12))
    (warning,) = refuse(table(ray().with_columns(d=pl.col("d") * off)), CHINCHILLA, None)
    assert "almost on one line" in warning


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize(("law", "P"), [(POWER, 2), (POWER_FLOOR, 3), (CHINCHILLA, 5)])
def test_three_runs_to_spare_are_the_least(rows, law, P):
    if rows < P + 3:
        with pytest.raises(Refusal, match=f"{P} free parameters and wants at least {P + 3} runs; {rows} remain"):
            refuse(table(grid()[:rows]), law, None)
    with pytest.raises(Refusal, match=f"{P + 2} remain"):
        refuse(table(grid()[: P + 2]), law, None)
    refuse(table(grid()[:: 36 // (P + 3)][: P + 3]), law, None)


def test_a_known_floor_wants_one_run_less():
    runs = table(ray(5))
    with pytest.raises(Refusal, match="at least 6 runs"):
        refuse(runs, POWER_FLOOR, None)
    refuse(runs, POWER_FLOOR, 1.7)


def test_too_few_runs_names_what_was_left_out():
    runs = pl.DataFrame({"d": [1.0, 2, 4, 8, 16, 32], "loss": [9.0, 8, 7, 4, 3, 2], "base": [5.0] * 6})
    with pytest.raises(Refusal, match=r"3 remain of 6 \(3 does not beat the baseline\). Train the lost runs better"):
        refuse(table(runs, n=None, baseline="base"), POWER, None)
    lost = table(runs.with_columns(base=1.0), n=None, baseline="base")
    with pytest.raises(Refusal, match=r"0 remain of 6 .* learning rate .* epochs .* optimizer step.* not calibrated"):
        refuse(lost, POWER, None)
    with pytest.raises(Refusal, match=r"0 remain of 36 \(36 not done\)"):
        refuse(table(grid().with_columns(status=pl.lit("finished"))), POWER, None)


def test_mixed_recipes():
    mixed = grid().with_columns(alpha=pl.Series([0.5, None] * 18), width=pl.int_range(36))
    assert refuse(table(mixed), CHINCHILLA, None) == ()
    with pytest.raises(Refusal, match=r"'alpha' \(0.5, \(none\)\).*Fit a table with the rows of one"):
        refuse(table(mixed, recipe=("alpha",)), CHINCHILLA, None)
    with pytest.raises(Refusal, match=r"'width' \(0, 1, 2, 3, \.\.\.\)"):
        refuse(table(mixed, recipe="width"), CHINCHILLA, None)
    refuse(table(mixed.with_columns(alpha=pl.lit("same")), recipe="alpha"), CHINCHILLA, None)


def test_a_recipe_column_may_be_the_axis():
    """`negatives` is a setting of the recipe, which varies here because it is D."""
    runs = table(grid().rename({"d": "negatives"}), d="negatives", recipe="negatives")
    assert refuse(runs, CHINCHILLA, None) == ()


def test_rows_of_one_run_want_a_cluster():
    twice = pl.concat([grid(), grid().with_columns(pl.col("loss") * 1.01, pl.col("d") / 2)])
    with pytest.raises(Refusal, match=r"72 rows are of 36 runs .*--cluster run_id, or keep one row a run"):
        refuse(table(twice), CHINCHILLA, None)
    refuse(table(twice, cluster="run_id"), CHINCHILLA, None)


def test_few_clusters_are_warned_of():
    (warning,) = refuse(table(grid().with_columns(c=pl.int_range(36) % 4), cluster="c"), CHINCHILLA, None)
    assert "4 clusters for 5 parameters" in warning


@pytest.mark.parametrize("law", [POWER, CHINCHILLA])
def test_repeated_data_under_a_law_of_new_data(law):
    with pytest.raises(Refusal, match=r"36 runs repeat .* up to 8 times .*Fit the law repeated.* --d u"):
        refuse(seen(8.0), law, None)
    with pytest.raises(Refusal, match="1 runs repeat"):
        refuse(seen(np.r_[np.ones(35), 1.06]), law, None)
    refuse(seen(1.04), law, None)
    refuse(seen(0.5), law, None)


def test_the_repeated_law_wants_repetition():
    assert refuse(seen(np.tile([1.0, 2, 4], 12)), REPEATED, None) == ()
    for epochs in (1.0, 0.5):
        with pytest.raises(Refusal, match=r"no run repeats its data .*Fit chinchilla, or add runs of several epochs"):
            refuse(seen(epochs), REPEATED, None)


def test_repeated_data_on_a_ray_is_identified_by_its_distinct_part():
    free = ray(36).with_columns(u=pl.col("d") / np.tile([1.0, 4, 16], 12))
    refuse(table(free, unique="u"), REPEATED, None)
    tied = ray(36).with_columns(u=pl.col("d") / 4)
    with pytest.raises(Refusal, match="single ray"):
        refuse(table(tied, unique="u"), REPEATED, None)


@pytest.mark.parametrize(("column", "law"), [("loss", POWER), ("loss", CHINCHILLA), ("hit", OF_LOSS)])
def test_a_constant_response(column, law):
    with pytest.raises(Refusal, match=f"column '{column}' is 0.5 in all 36 rows"):
        refuse(table(grid().with_columns(pl.lit(0.5).alias(column)), metric="hit"), law, None)


@pytest.mark.parametrize("axis", ["n", "d"])
def test_a_constant_axis(axis):
    almost = 1e7 * np.exp(1e-9 * np.arange(36))
    for values in (np.full(36, 1e7), np.repeat([1e7, 1e8], 18), almost):
        with pytest.raises(Refusal, match=f"distinct {axis.upper()}; .*Run more values of {axis.upper()}"):
            refuse(table(grid().with_columns(pl.Series(axis, values))), CHINCHILLA, None)


@pytest.mark.parametrize(("law", "wanted"), [(POWER, 3), (POWER_FLOOR, 4), (BROKEN, 9)])
def test_distinct_data_sizes(law, wanted):
    frame = ray(60).with_columns(seed=pl.int_range(60))
    steps = np.arange(60) % (wanted - 1)
    with pytest.raises(Refusal, match=f"{wanted - 1} distinct D .* at least {wanted} are needed.*over two decades"):
        refuse(table(frame.with_columns(d=10.0 ** (5 + steps)), n=None), law, None)
    refuse(table(frame.with_columns(d=10.0 ** (5 + np.arange(60) % wanted)), n=None), law, None)


def test_a_metric_law_wants_different_losses_and_a_span_of_them():
    frame = grid()
    with pytest.raises(Refusal, match="2 distinct loss for 3"):
        refuse(table(frame.with_columns(loss=2.0 + pl.int_range(36) % 2), metric="hit"), OF_LOSS, None)
    near = frame.with_columns(loss=pl.Series(np.linspace(2, 2.1, 36)))
    (warning,) = refuse(table(near, metric="hit"), OF_LOSS, None)
    assert "spans only 5.0%" in warning


def test_what_is_warned_of():
    assert "below 20" in refuse(table(grid()[::2]), CHINCHILLA, None)[0]
    assert "6 different N" in refuse(table(grid()), POWER_FLOOR, None)[0]
    assert "at or below the known floor" in refuse(table(grid()), CHINCHILLA, 10.0)[0]


def corrupt(frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Makes one thing wrong with one column, or with the rows."""
    name = str(rng.choice(frame.columns))
    column = frame[name]
    some = rng.random(len(frame)) < rng.choice([0.03, 0.3, 1.0])
    odd = rng.choice([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e300, 1e-300, 5e-324, 1.0, 50.0])

    def where(value) -> pl.DataFrame:
        if column.dtype.is_nested():
            return frame
        values = [value if hit else old for hit, old in zip(some, column, strict=True)]
        return frame.with_columns(pl.Series(name, values, strict=False))

    changes = [
        lambda: where(None),
        lambda: where(float(odd)),
        lambda: frame.with_columns(pl.Series(name, [f"{odd}" if hit else "2.5" for hit in some])),
        lambda: frame.with_columns(
            pl.Series(name, ["oops" if hit else str(v) for hit, v in zip(some, column, strict=True)])
        ),
        lambda: frame.with_columns(pl.Series(name, some)),
        lambda: frame.with_columns(pl.Series(name, [[1.0, 2.0]] * len(frame))),
        lambda: frame.with_columns(pl.Series(name, [None] * len(frame))),
        lambda: frame.with_columns(pl.Series(name, column.to_list()[:1] * len(frame))),
        lambda: frame.drop(name),
        lambda: frame.with_columns(pl.col(name) * 10.0 ** rng.integers(-12, 12)) if column.dtype.is_float() else frame,
        lambda: pl.concat([frame, frame.filter(some)]),
        lambda: frame.head(int(rng.integers(0, 12))),
        lambda: frame.sample(fraction=1.0, shuffle=True, seed=int(rng.integers(1000))),
    ]
    return changes[rng.integers(len(changes))]()


NAMED = (
    Columns(loss="loss", d="d", n="n"),
    Columns(loss="loss", d="d", n="n", unique="unique", flops="flops", metric="hit"),
    Columns(loss="loss", n="n", flops="flops", baseline="baseline", floor_column="floor", cluster="cluster"),
    Columns(metric="hit", d="d", n="n", recipe=("cluster",)),
    Columns(loss="loss", metric="hit"),
    Columns(loss="loss", d="d", select_by="hit", select_within=("n", "seed")),
)


@pytest.mark.parametrize("trials", mostly_slow([120, 600], quick=[120]))
def test_every_fault_of_a_table_is_refused_or_listed(trials):
    good = grid().with_columns(
        unique=pl.col("d") / 2, flops=6 * pl.col("n") * pl.col("d"), baseline=9.0, floor=1.7, cluster=pl.col("run_id")
    )
    good = good.with_columns(schedule_fraction=1.0)
    defaults = Columns(progress="schedule_fraction")
    outcomes = {"raised": 0, "listed": 0, "refused": 0, "carried": 0}
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        frame = good
        for _ in range(rng.integers(1, 4)):
            frame = corrupt(frame, rng)
        columns = NAMED[trial % len(NAMED)]
        with np.errstate(all="raise"):
            try:
                runs = from_frame(frame, columns, drop_worst=int(rng.integers(0, 3)), defaults=defaults)
            except InputError:
                outcomes["raised"] += 1
                continue
            assert len(runs) + len(runs.excluded) == len(frame)
            outcomes["listed"] += len(runs) < len(frame)
            for values in (runs.loss, runs.d, runs.n, runs.unique, runs.metric):
                assert values is None or np.all((values > 0) & np.isfinite(values))
            for law in (*LAWS.values(), REPEATED, BROKEN, OF_LOSS):
                try:
                    refuse(runs, law, runs.known_floor if law.has_floor else None)
                    outcomes["carried"] += 1
                    seed_noise(runs, law)
                except InputError:
                    outcomes["refused"] += 1
    assert min(outcomes.values()) > trials / 12, outcomes


def test_the_axis_that_hardly_varies_is_named():
    wide, narrow = np.geomspace(1e7, 1e10, 24), 1e8 * np.exp(0.02 * np.random.default_rng(0).normal(size=24))
    loss = 1.7 + 900 * wide**-0.29
    for axes, name in ((("n", "d"), "N"), (("d", "n"), "D")):
        runs = pl.DataFrame({axes[0]: narrow, axes[1]: wide, "loss": loss})
        with pytest.raises(
            Refusal, match=f"^{name} hardly varies, from .* cannot be measured.*or fit a law without it"
        ):
            refuse(table(runs), CHINCHILLA, None)
    with pytest.raises(Refusal, match=r"^D hardly varies"):
        refuse(table(pl.DataFrame({"d": narrow, "loss": loss}), n=None), POWER, None)


@pytest.mark.parametrize(("unit", "message"), [(1e6, "N in thousands, millions"), (1e9, "less than one parameter")])
def test_sizes_in_millions_or_billions_are_refused(unit, message):
    runs = grid().with_columns(pl.col("n") / unit, pl.col("d") / (1e9 if unit == 1e9 else 1))
    with pytest.raises(InputError, match=f"{message}.*Count both in ones"):
        table(runs)


def test_unusual_units_are_warned_of():
    (small,) = table(grid().with_columns(pl.col("n").log10() * 10, pl.col("d") / 1e5)).warnings
    assert "N is at most 90: if it is counted in millions" in small
    (data,) = table(grid().filter(pl.col("n") < 1e8).with_columns(pl.col("d") / 1e5)).warnings
    assert "if D is in millions, count it in ones" in data


def test_a_loss_that_rises_is_refused_and_noise_is_not():
    runs = grid()
    refuse_rising(table(runs), CHINCHILLA)
    with pytest.raises(Refusal, match=r"loss rises with D with all else equal in 100% of the pairs.*--metric"):
        refuse_rising(table(runs.with_columns(loss=1 + 400 * pl.col("n") ** -0.34 + pl.col("d") ** 0.05)), CHINCHILLA)
    with pytest.raises(Refusal, match=r"hit rises with loss in 100%.*Is it an error"):
        refuse_rising(table(runs.with_columns(hit=pl.col("loss") / 100), metric="hit"), OF_LOSS)
    flat = 1.7 * np.exp(0.01 * np.random.default_rng(0).normal(size=len(runs)))
    refuse_rising(table(runs.with_columns(loss=flat)), CHINCHILLA)


def test_a_floor_above_every_loss_is_refused_and_above_some_warned_of():
    runs = table(grid())
    with pytest.raises(Refusal, match="the known floor 50 is not below any loss, which is at most"):
        refuse(runs, CHINCHILLA, 50.0)
    (warning,) = refuse(runs, CHINCHILLA, float(np.median(runs.loss)))
    assert "at or below the known floor" in warning


def test_a_column_has_one_meaning_and_a_csv_one_column_of_a_name(tmp_path):
    with pytest.raises(InputError, match="'d' is named by both --loss and --d"):
        table(grid(), loss="d")
    table(grid(), unique="d")  # one epoch: all data are distinct
    (tmp_path / "runs.csv").write_text("d,loss,loss\n1,2,3\n2,3,4\n")
    with pytest.raises(InputError, match=r"has the column 'loss' twice; give each column a name of its own"):
        read(tmp_path / "runs.csv", d="d", loss="loss")
