"""Soft labels of the rank loss: the column click_probability of a log, from the table to the gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from onestep import OneStep, assert_same_step

import sessionrec_jax as sr
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config, Loss
from sessionrec_jax.config.values import replace
from sessionrec_jax.data import session_log
from sessionrec_jax.data.batches import eval_batches, shape_of, train_packer
from sessionrec_jax.data.codes import CLICKED, TEST
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve, without_facts_of_log
from sessionrec_jax.data.sources import RawLog, synthetic
from sessionrec_jax.errors import InputError
from sessionrec_jax.loss.rank import rank_loss_sums
from sessionrec_jax.loss.targets import targets

P = session_log.PROBABILITY
SOFT = {"loss.rank_labels": "probability"}
OPTIONS = synthetic.Options(users=200, base=4, depth=3, seed=1)


@pytest.fixture(scope="session")
def soft_log(tmp_path_factory):
    """The log of conftest.py, with the exact click probability of each exposure."""
    raw = synthetic.read(dataclasses.replace(OPTIONS, click_probability=True))
    return prepare(raw, tmp_path_factory.mktemp("soft") / "log", Settings())


@pytest.fixture(scope="session")
def hard_log(tmp_path_factory):
    """The same log, in which every probability is 0 or 1, as the click says."""
    raw = synthetic.read(OPTIONS)
    exposures = raw.exposures.with_columns(pl.col("clicked").cast(pl.Float64).alias(P))
    raw = dataclasses.replace(raw, exposures=exposures)
    return prepare(raw, tmp_path_factory.mktemp("hard") / "log", Settings())


def of(config: Config, log, **more) -> Config:
    return resolve(replace(without_facts_of_log(config), SOFT | more), log)


def table(rows: list[tuple], schema: dict) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


def exposures(values: list, kind=pl.Float64, clicked=(True, False)) -> pl.DataFrame:
    """Two users with two sessions of three exposures; `values` are the probabilities, in the order of rows."""
    rows = [(u, i, 1_700_000_000_000 + s * 86_400_000 + i) for u in range(2) for s in range(2) for i in range(3)]
    frame = table(rows, {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp_ms": pl.Int64})
    frame = frame.with_columns(pl.Series(P, (values * 12)[:12], kind))
    return frame if clicked is None else frame.with_columns(clicked=pl.Series([*clicked] * 6))


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_column_changes_the_fingerprint_and_nothing_else(log, hard_log, soft_log):
    assert len({log.fingerprint, hard_log.fingerprint, soft_log.fingerprint}) == 3
    assert log.arrays().click_probability_N is None
    for other in (hard_log, soft_log):
        own = other.manifest.keys() - log.manifest.keys()
        assert own == {P}
        for name in ("item_N", "feedback_N", "session_items_S", "session_seconds_S", "session_role_S"):
            np.testing.assert_array_equal(getattr(other.arrays(), name), getattr(log.arrays(), name))


def test_a_stored_label_is_that_of_its_exposure(hard_log):
    arrays = hard_log.arrays(soft_labels=True)
    np.testing.assert_array_equal(arrays.click_probability_N, arrays.feedback_N == CLICKED)


def test_the_synthetic_probability_is_the_truths(soft_log):
    """The clicks given the probabilities are fair coins, and their cross-entropy is near the exact floor."""
    arrays = soft_log.arrays(soft_labels=True)
    is_labelled = arrays.feedback_N <= CLICKED
    p, clicked = arrays.click_probability_N[is_labelled].astype(float), arrays.feedback_N[is_labelled] == CLICKED
    assert abs(np.sum(clicked - p)) < 4 * np.sqrt(np.sum(p * (1 - p)))
    assert len(np.unique(p)) <= 3 * OPTIONS.categories  # coin low, coin high, and nothing known, in each category
    for value in np.unique(p):
        with_value = clicked[p == value]
        assert abs(np.sum(with_value - value)) < 4.5 * np.sqrt(len(with_value) * value * (1 - value))


def test_a_row_without_a_probability_has_its_click_as_the_label(tmp_path):
    found = prepare(RawLog("test", exposures([0.25, None, None])), tmp_path / "log", Settings()).arrays(
        soft_labels=True
    )
    wanted = np.where(np.arange(12) % 3 == 0, 0.25, np.arange(12) % 2 == 0)
    by_user = found.click_probability_N.reshape(2, 6)
    assert {tuple(labels) for labels in by_user} == {tuple(labels) for labels in wanted.reshape(2, 6)}


def test_context_has_no_label(tmp_path):
    raw = RawLog("test", exposures([0.25, 0.5, 0.75], clicked=(True, None)))
    found = prepare(raw, tmp_path / "log", Settings()).arrays(soft_labels=True)
    assert (found.click_probability_N[found.feedback_N > CLICKED] == 0).all()
    assert (found.click_probability_N[found.feedback_N <= CLICKED] > 0).all()


def test_without_a_column_of_clicks_the_likelier_outcome_is_the_click(tmp_path):
    by_probability = exposures([0.5, 0.49, None], clicked=None)
    found = prepare(RawLog("test", by_probability), tmp_path / "log", Settings()).arrays(soft_labels=True)
    assert sorted(found.feedback_N.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(found.click_probability_N[found.feedback_N == CLICKED], 0.5)


@pytest.mark.parametrize("bad", [1.5, -0.001, float("nan"), float("inf"), np.nextafter(1, 2)])
@pytest.mark.parametrize("allowed", [0.01, 1.0])
def test_a_label_outside_the_unit_interval_stops_the_preparation(tmp_path, bad, allowed):
    """One bad label among many rows is enough: without it the others would be a biased sample."""
    frame = pl.concat([exposures([0.5])] * 20).with_columns(
        pl.col("timestamp_ms") + pl.int_range(pl.len()) * 86_400_000
    )
    frame = frame.with_columns(pl.when(pl.int_range(pl.len()) == 7).then(bad).otherwise(pl.col(P)).alias(P))
    with pytest.raises(InputError, match=r"1 of 240 rows have a wrong label.*click_probability is not a number from 0"):
        prepare(RawLog("test", frame), tmp_path / "log", Settings(max_rejected_fraction=allowed))
    assert not (tmp_path / "log").exists()
    assert pl.read_parquet(tmp_path / "log.rejected.parquet")["reason"].to_list() == [session_log.NOT_A_PROBABILITY]


@pytest.mark.parametrize(
    ("text", "is_bad"), [("0.25", False), (" ", False), ("", False), ("half", True), ("nan", True)]
)
def test_text_that_is_no_number_is_a_breach_and_a_blank_is_not(text, is_bad):
    typed = session_log.type_rows(exposures(["1", text], pl.String).lazy(), None).collect()
    assert (session_log.NOT_A_PROBABILITY in typed["reason"].to_list()) == is_bad


def test_a_copy_with_another_label_is_a_contradiction():
    frame = pl.concat([exposures([0.5]), exposures([0.5, 0.25]).head(2)])
    typed = session_log.type_rows(frame.lazy(), None).collect()
    reasons = session_log.find_copies(typed)["reason"].sort().to_list()
    assert reasons == sorted([session_log.DUPLICATE, session_log.CONTRADICTION])


def test_the_table_source_reads_the_column(tmp_path):
    frame = exposures([0.5, 0.25])
    frame.rename({P: "teacher"}).write_csv(tmp_path / "log.csv")
    wanted = prepare(RawLog("table", frame), tmp_path / "wanted", Settings())
    given = {"exposures": str(tmp_path / "log.csv"), "click_probability": "teacher"}
    assert sr.prepare("table", out=tmp_path / "log", **given).fingerprint == wanted.fingerprint
    no_clicks = sr.prepare("table", out=tmp_path / "no_clicks", clicked=None, **given)
    assert no_clicks.manifest["clicks"] == 6


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_gradient_is_the_mean_over_clicks_drawn_with_these_probabilities():
    rng = np.random.default_rng(0)
    items, draws = 8, 2**8  # all outcomes of eight exposures, each with its probability
    logit_T, p_T = jnp.asarray(2 * rng.normal(size=items)), jnp.asarray(rng.random(items))
    session_T, target_S = jnp.ones(items, int), jnp.array([False, True])

    def gradient(feedback_T, probability_T=None):
        wanted = targets(feedback_T, session_T, target_S, probability_T)
        return jax.value_and_grad(lambda logit_T: rank_loss_sums(Loss(), logit_T, wanted, wanted.query_T)[0])(logit_T)

    outcome_XT = jnp.asarray(np.arange(draws)[:, None] >> np.arange(items) & 1)
    weight_X = jnp.prod(jnp.where(outcome_XT == 1, p_T, 1 - p_T), axis=1)
    nats_X, gradient_XT = jax.vmap(gradient)(outcome_XT)
    nats, gradient_T = gradient(jnp.zeros(items, int), p_T)
    assert float(nats) == pytest.approx(float(weight_X @ nats_X), rel=1e-5)
    np.testing.assert_allclose(gradient_T, weight_X @ gradient_XT, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(
            {"paradigm": "nipp_plus", "train.microbatches": 2, "optim.table_update": "sparse"}, marks=pytest.mark.slow
        ),
    ],
)
def test_labels_of_zero_and_one_take_the_step_that_clicks_take(config, hard_log, changed):
    clicks, soft = (
        OneStep(of(config, hard_log, **changed, **{"loss.rank_labels": labels}), hard_log, 1)
        for labels in ("clicks", "probability")
    )
    assert_same_step(clicks, soft)


@pytest.mark.slow  # the loss of soft labels has quick tests
def test_soft_labels_train_another_model(config, soft_log):
    clicks = resolve(without_facts_of_log(config), soft_log)
    one, other = OneStep(clicks, soft_log, 1), OneStep(of(config, soft_log), soft_log, 1)
    assert one.sums.rank_terms == other.sums.rank_terms
    assert abs(one.sums.rank_nats - other.sums.rank_nats) > 1e-3
    assert one.sums.retrieval_nats == other.sums.retrieval_nats  # clicks, of the same parameters


@pytest.mark.slow
def test_eight_devices_equal_one(config, soft_log):
    soft = of(config, soft_log)
    assert_same_step(OneStep(soft, soft_log, 1), OneStep(soft, soft_log, 8), params_atol=2e-4)


@pytest.mark.parametrize("paradigm", ["nspp", "nipp_plus"])
def test_a_packed_label_is_that_of_its_exposure_and_padding_has_none(config, soft_log, paradigm):
    soft, arrays = of(config, soft_log, paradigm=paradigm), soft_log.arrays(soft_labels=True)
    labels = {}  # what the stored log says of (session, item, feedback): equal rows of a session have one label
    session_N = np.repeat(np.arange(len(arrays.session_items_S)), arrays.session_items_S)
    for key, label in zip(
        zip(session_N, arrays.item_N, arrays.feedback_N, strict=True), arrays.click_probability_N, strict=True
    ):
        assert labels.setdefault(key, label) == label
    packer = train_packer(soft, soft_log, shape_of(soft, 2))
    for batch in (packer[0], packer[len(packer) - 1]):
        for shard, item_T in enumerate(batch.item_GT):
            real_T = item_T > 0
            session_T = batch.log_session_GRL[shard].reshape(-1)[batch.session_of_item_GT[shard][real_T]]
            found = batch.click_probability_GT[shard]
            wanted = [
                labels[key] for key in zip(session_T, item_T[real_T], batch.feedback_GT[shard][real_T], strict=True)
            ]
            np.testing.assert_array_equal(found[real_T], np.array(wanted, np.float32))
            assert (found[~real_T] == 0).all()


def test_evaluation_reads_the_clicks(config, soft_log):
    soft = of(config, soft_log)
    assert next(eval_batches(soft, soft_log, shape_of(soft, 1), TEST)).click_probability_GT is None


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"loss.rank": "pairwise"}, "--loss.rank pairwise needs to know which items were clicked"),
        ({"loss.rank": "listwise"}, "wanted --loss.rank pointwise, or --loss.rank-labels clicks"),
        ({"loss.alpha": 0.0}, "--loss.alpha is 0, so nothing reads the labels"),
        ({"paradigm": "nipp", "loss.alpha": 0.0}, "--loss.alpha is 0, so nothing reads the labels"),
    ],
)
def test_settings_that_cannot_use_soft_labels_are_refused(changed, reason):
    with pytest.raises(InputError, match=reason):
        check(replace(Config(), SOFT | changed))


def test_a_log_without_the_column_is_refused(config, log):
    with pytest.raises(InputError, match="was prepared without a column click_probability"):
        of(config, log)
