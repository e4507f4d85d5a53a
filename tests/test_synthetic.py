"""Tests the known-truth log: its parts are reproducible, its distributions are as stated, and its exact truth
agrees with draws.
"""

import dataclasses

import numpy as np
import polars as pl
import pytest
from learning_curve import bayes_excess
from polars.testing import assert_frame_equal
from scipy.stats import chisquare, poisson

from sessionrec_jax.data.synthetic.process import SMALL, ZipfIntent, coin_table
from sessionrec_jax.data.synthetic.truth import Truth
from sessionrec_jax.errors import InputError

TINY = ZipfIntent(users=3_000, base=4, depth=2, categories=3)
FULL = ZipfIntent(users=2_000_000, depth=4)
"""1,048,576 items and about 256 million exposures."""


@pytest.fixture(scope="module")
def tiny_log():
    return TINY.exposures(0, TINY.users)


def targets(log: pl.DataFrame) -> pl.DataFrame:
    """Returns the exposures that have a session before theirs, with that session's anchor."""
    anchors = log.filter(feedback="anchor").select("user_id", pl.col("session_id") + 1, anchor="item_id")
    return log.filter(pl.col("clicked").is_not_null()).join(anchors, on=["user_id", "session_id"])


def arrays(frame: pl.DataFrame, *columns: str) -> list[np.ndarray]:
    return [frame[column].to_numpy() for column in columns]


def mean_and_stderr(user, value):
    """Returns the mean of `value` and its standard error when only users are independent."""
    users = pl.DataFrame({"user": user, "value": value}).group_by("user").agg(pl.sum("value"), n=pl.len())
    mean = users["value"].sum() / users["n"].sum()
    return mean, float(np.sqrt(((users["value"] - mean * users["n"]) ** 2).sum()) / users["n"].sum())


# --- the log ---


def test_columns_follow_the_exposure_table(tiny_log):
    assert tiny_log.schema == {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "timestamp_ms": pl.Int64,
        "clicked": pl.Boolean,
        "session_id": pl.Int64,
        "feedback": pl.String,
    }
    assert TINY.exposures(5, 5).schema == tiny_log.schema
    required = tiny_log.drop("clicked", "feedback")
    assert required.null_count().sum_horizontal().item() == 0


def test_the_first_users_of_a_larger_log_are_the_smaller_log():
    smaller, larger = SMALL, dataclasses.replace(SMALL, users=5_000)
    assert_frame_equal(smaller.exposures(0, 300), larger.exposures(0, 5_000).filter(pl.col("user_id") < 300))


def test_ranges_concatenate():
    whole = TINY.exposures(0, 2_500)  # crosses the border of the internal blocks
    assert_frame_equal(whole, pl.concat([TINY.exposures(0, 1), TINY.exposures(1, 2_100), TINY.exposures(2_100, 2_500)]))


def test_the_seed_decides_everything(tiny_log):
    assert_frame_equal(tiny_log, dataclasses.replace(TINY).exposures(0, TINY.users))
    other = dataclasses.replace(TINY, seed=1)
    assert not other.items().equals(TINY.items())
    assert not other.exposures(0, 10).equals(TINY.exposures(0, 10))


def test_an_anchor_opens_each_session_and_is_never_a_label(tiny_log):
    anchor = pl.col("feedback") == "anchor"
    assert tiny_log.filter(anchor)["clicked"].is_null().all()
    assert tiny_log.filter(pl.col("feedback").is_null())["clicked"].is_not_null().all()
    session = tiny_log.group_by("user_id", "session_id", maintain_order=True)
    opening = session.agg(anchor.first().alias("first"), anchor.sum().alias("anchors"))
    assert opening["first"].all()
    assert (opening["anchors"] == 1).all()


def test_times_increase_and_any_gap_rule_below_an_hour_finds_the_sessions(tiny_log):
    step = tiny_log.with_columns(
        ms=pl.col("timestamp_ms").diff().over("user_id"), new=pl.col("session_id").diff().over("user_id")
    ).drop_nulls("ms")
    assert step["ms"].min() > 0
    assert set(step["new"]) == {0, 1}
    assert step.filter(new=1)["ms"].min() >= 3_600_000
    assert step.filter(new=0)["ms"].max() < 60_000


def test_lengths_have_the_means_and_ends_that_were_asked_for():
    process = dataclasses.replace(TINY, exposures_mean=3.0, exposures_max=7, sessions_mean=4.0, sessions_max=9)
    log = process.exposures(0, process.users)
    sessions = log.group_by("user_id").agg(pl.col("session_id").n_unique())["session_id"]
    exposures = log.drop_nulls("clicked").group_by("user_id", "session_id").len()["len"]
    for lengths, low, high, mean in ((sessions, 2, 9, 4.0), (exposures, 1, 7, 3.0)):
        assert (lengths.min(), lengths.max()) == (low, high)
        assert abs(lengths.mean() - mean) < 4 * lengths.std() / len(lengths) ** 0.5


def test_items_are_shown_by_popularity(tiny_log):
    popularity_K = Truth(TINY).popularity_K
    assert popularity_K.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(np.sort(popularity_K)[::-1], popularity_K.max() * np.arange(1, 17) ** -1.5)
    shown = tiny_log.drop_nulls("clicked")["item_id"].to_numpy()
    assert chisquare(np.bincount(shown, minlength=16), popularity_K * len(shown)).pvalue > 1e-3


def test_the_interest_is_kept_as_often_as_was_asked_for(tiny_log):
    anchors = tiny_log.filter(feedback="anchor").with_columns(before=pl.col("item_id").shift().over("user_id"))
    kept = anchors.drop_nulls("before").select(
        pl.col("user_id"), kept=(pl.col("before") == pl.col("item_id")).cast(float)
    )
    mean, stderr = mean_and_stderr(kept["user_id"], kept["kept"])
    returns = (Truth(TINY).popularity_K ** 2).sum()
    assert abs(mean - (TINY.keep_interest + (1 - TINY.keep_interest) * returns)) < 3 * stderr


def test_digits_spell_the_item_id_and_categories_are_even():
    items = SMALL.items()
    assert items.columns == ["item_id", "digit_0", "digit_1", "digit_2", "category"]
    assert (items["digit_0"] * 256 + items["digit_1"] * 16 + items["digit_2"] == items["item_id"]).all()
    assert chisquare(np.bincount(items["category"])).pvalue > 1e-3
    assert items["category"].n_unique() == SMALL.categories


def test_coins_are_fair_and_independent():
    coin_ZC = coin_table(seed=0, items=100_000, categories=64)
    bound = 4.5 * 0.5 / 100_000**0.5
    assert abs(coin_ZC.mean(0) - 0.5).max() < bound
    assert abs((coin_ZC[:, 1:] ^ coin_ZC[:, :-1]).mean(0) - 0.5).max() < bound
    assert abs((coin_ZC ^ coin_table(seed=1, items=100_000, categories=64)).mean(0) - 0.5).max() < bound


def test_the_full_size_has_its_million_items():
    assert FULL.item_count == 1_048_576
    assert FULL.exposures(FULL.users - 3, FULL.users)["user_id"].unique().to_list() == [1_999_997, 1_999_998, 1_999_999]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"users": 0}, "users is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"categories": 65}, "categories is 65; wanted 1 to 64"),
        ({"click_low": 0.6}, "--click-low is 0.6"),
        ({"keep_interest": 1.1}, "--keep-interest is 1.1"),
        ({"exposures_max": 8}, "--exposures-mean is 8.0"),
        ({"sessions_mean": 2.0}, "--sessions-mean is 2.0"),
        ({"depth": 14}, "4\\^14 items"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_settings_are_refused(settings, complaint):
    process = dataclasses.replace(TINY, **settings)
    for use in (process.check, process.items, lambda: process.exposures(0, 1)):
        with pytest.raises(InputError, match=complaint):
            use()


def test_users_outside_the_log_are_refused():
    for first, last in ((-1, 5), (5, 4), (0, TINY.users + 1)):
        with pytest.raises(InputError, match="this log has the users 0 to 3000"):
            TINY.exposures(first, last)


# --- its truth ---


@pytest.mark.parametrize("process", [TINY, dataclasses.replace(TINY, alpha=0.8, seed=3), SMALL])
def test_generated_logs_agree_with_the_exact_floors(process):
    truth = Truth(process)
    shown = targets(process.exposures(0, process.users))
    clicked = shown.filter("clicked")
    rank = truth.rank_nats(*arrays(shown, "anchor", "item_id", "clicked"))
    retrieval = truth.retrieval_nats(*arrays(clicked, "anchor", "item_id"))
    for user, nats, floor in (
        (shown["user_id"], rank, truth.rank_floor_nats_per_exposure),
        (clicked["user_id"], retrieval, truth.retrieval_floor_nats_per_item),
    ):
        mean, stderr = mean_and_stderr(user, nats)
        assert abs(mean - floor) < 3 * stderr
        assert stderr < 0.02


def test_history_helps_by_what_the_floors_say(tiny_log):
    truth = Truth(TINY)
    shown = targets(tiny_log)
    bayes = truth.rank_nats(*arrays(shown, "anchor", "item_id", "clicked"))
    rate_N = truth.click_rate_C[truth.category_K[shown["item_id"]]]
    blind = -np.log(np.where(shown["clicked"], rate_N, 1 - rate_N))
    gain, stderr = mean_and_stderr(shown["user_id"], blind - bayes)
    assert gain > 10 * stderr
    assert abs(gain - (truth.rank_no_history_nats_per_exposure - truth.rank_floor_nats_per_exposure)) < 3 * stderr
    assert truth.retrieval_floor_nats_per_item < truth.retrieval_no_history_nats_per_item


def test_floors_equal_plain_enumeration():
    truth = Truth(TINY)
    z_N, i_N = np.divmod(np.arange(16 * 16), 16)
    nats_ZK = truth.retrieval_nats(z_N, i_N).reshape(16, 16)
    np.testing.assert_allclose(np.exp(-nats_ZK).sum(1), 1)
    q_ZK = truth.click_probability_ZC[:, truth.category_K]
    weight_ZK = truth.popularity_K[:, None] * truth.popularity_K
    assert truth.retrieval_floor_nats_per_item == pytest.approx(np.average(nats_ZK, weights=weight_ZK * q_ZK))
    rank_ZK = [q_ZK * truth.rank_nats(z_N, i_N, np.ones(256, bool)).reshape(16, 16)]
    rank_ZK += [(1 - q_ZK) * truth.rank_nats(z_N, i_N, np.zeros(256, bool)).reshape(16, 16)]
    assert truth.rank_floor_nats_per_exposure == pytest.approx((weight_ZK * sum(rank_ZK)).sum())
    clicked_K = truth.popularity_K * truth.click_rate_C[truth.category_K]
    clicked_K /= clicked_K.sum()
    assert truth.retrieval_no_history_nats_per_item == pytest.approx(-(clicked_K @ np.log(clicked_K)))


def test_a_category_without_items_is_no_trouble():
    truth = Truth(ZipfIntent(users=1, base=2, depth=1, categories=8))
    assert (truth.category_mass_C == 0).any()
    numbers = [truth.rank_floor_nats_per_exposure, truth.retrieval_floor_nats_per_item, *bayes_excess(truth, [10.0])]
    assert np.isfinite(numbers).all()


def test_without_memory_the_history_is_worth_nothing():
    truth = Truth(dataclasses.replace(TINY, keep_interest=0.0))
    assert truth.rank_floor_nats_per_exposure == pytest.approx(truth.rank_no_history_nats_per_exposure)
    assert truth.retrieval_floor_nats_per_item == pytest.approx(truth.retrieval_no_history_nats_per_item)
    np.testing.assert_allclose(bayes_excess(truth, [1.0, 1e6]), 0, atol=1e-12)


def enumerated_excess(truth, exposures, estimate):
    """Returns the excess by enumerating every number of clicks (Poisson) and of passes (Poisson, independent) of
    every cell.
    """
    total = 0.0
    for z, p in enumerate(truth.popularity_K):
        for c, mass in enumerate(truth.category_mass_C):
            q, mean = truth.click_probability_ZC[z, c], exposures * p * mass
            most = int(mean + 12 * mean**0.5 + 12)
            clicks, passes = np.meshgrid(np.arange(most), np.arange(most), indexing="ij")
            chance = poisson.pmf(clicks, mean * q) * poisson.pmf(passes, mean * (1 - q))
            guess = estimate(clicks, passes, c)
            total += p * mass * (chance * (q * np.log(q / guess) + (1 - q) * np.log((1 - q) / (1 - guess)))).sum()
    return total


@pytest.mark.parametrize("exposures", [0.5, 7.0, 100.0, 1_500.0])
def test_the_learning_curve_equals_plain_enumeration(exposures):
    truth = Truth(ZipfIntent(users=1, base=2, depth=2, categories=2))
    low_C, high_C = truth.click_probability_2C

    def bayes(clicks, passes, c):
        log_odds = clicks * np.log(high_C[c] / low_C[c]) + passes * np.log((1 - high_C[c]) / (1 - low_C[c]))
        odds = np.exp(np.clip(log_odds, -500, 500))
        return (low_C[c] + odds * high_C[c]) / (1 + odds)

    wanted = enumerated_excess(truth, exposures, bayes)
    assert bayes_excess(truth, [exposures])[0] == pytest.approx(wanted, rel=1e-4, abs=1e-12)


def test_the_learning_curve_falls_from_ignorance_to_nothing():
    truth = Truth(SMALL)
    bayes_D = bayes_excess(truth, np.logspace(-6, 9, 40))
    assert (np.diff(bayes_D) <= 1e-12).all()
    assert bayes_D[-1] < 1e-4


def local_slope(truth, low, high):
    """Returns the exponent -d log excess / d log D of the learning curve between two data sizes."""
    excess_low, excess_high = bayes_excess(truth, [low, high])
    return np.log(excess_low / excess_high) / np.log(high / low)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
def test_the_slope_tends_to_the_data_exponent(alpha):
    truth = Truth(dataclasses.replace(FULL, alpha=alpha, categories=1))
    assert local_slope(truth, 1e4, 1e6) == pytest.approx(alpha / (1 + alpha), rel=0.04)
    assert truth.data_exponent == pytest.approx(alpha / (1 + alpha))


def test_a_learner_on_a_log_has_the_exponent_of_the_closed_form_but_not_its_level():
    truth = Truth(ZipfIntent(users=8_000))
    shown = targets(truth.process.exposures(0, 8_000))
    few, many = (shown.filter(pl.col("user_id") < n) for n in (250, 8_000))
    excess_few, excess_many = (
        truth.bayes_excess_after(*arrays(t, "anchor", "item_id", "clicked")) for t in (few, many)
    )
    slope = np.log(excess_few / excess_many) / np.log(len(many) / len(few))
    assert slope == pytest.approx(local_slope(truth, len(few), len(many)), abs=0.05)
    assert 1.2 < excess_many / bayes_excess(truth, [len(many)])[0] < 2


def test_what_the_truth_cannot_say_is_refused():
    truth = Truth(TINY)
    with pytest.raises(InputError, match="item_id runs from 1 to 16; wanted the log's own item_id, 0 to 15"):
        truth.rank_nats(np.array([0, 0]), np.array([1, 16]), np.array([True, False]))
    with pytest.raises(InputError, match="anchor runs from -1"):
        truth.retrieval_nats(np.array([-1]), np.array([0]))
