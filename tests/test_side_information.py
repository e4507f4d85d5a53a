"""Side information: vocabularies and bounds follow from the training part alone, and every value has a code."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionrec_jax.config.settings import Model
from sessionrec_jax.data import side_information, store
from sessionrec_jax.data.preparation import card
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.side_information import quantile_bounds
from sessionrec_jax.data.sources import RawLog
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.embedding import ItemEmbedding

START_MS, HOUR_MS = 1_650_000_000_000, 3_600_000

# Each of four users has a training session of items 1 to 4, then one of item 5 for validation and of item 6 for test.
# Item 4 is context, item 7 is never shown.
SESSIONS = ((1, 2, 3, 4), (5,), (6,))
EXPOSURES = pl.DataFrame(
    [
        (user, item, START_MS + hour * HOUR_MS + item, None if item == 4 else item % 2 == 1)
        for user in range(4)
        for hour, session in enumerate(SESSIONS)
        for item in session
    ],
    schema=["user_id", "item_id", "timestamp_ms", "clicked"],
    orient="row",
).with_columns(feedback=pl.when(pl.col("clicked").is_null()).then(pl.lit("search")))
ITEMS = pl.DataFrame(
    {
        "item_id": range(1, 8),
        "shop": ["b", "a", None, "c", "a", "z", "y"],
        "tag": [["x"], ["w", "x"], [], None, ["v", "x"], ["x"], ["w"]],
        "price": [0.5, 2.5, float("nan"), 1.5, 9.5, -9.5, 2.0],
        "year": [2001, 2003, None, 2002, 2002, 1900, 2004],
    }
)


def prepared(items: pl.DataFrame, folder, **given) -> store.Prepared:
    return prepare(RawLog("test", EXPOSURES, items), folder / "log", Settings(**given))


def side(log: store.Prepared, column: str) -> np.ndarray:
    """Returns the codes of padding and of the items in the order of the publisher's ids."""
    return log.side[column][np.append(0, 1 + np.argsort(log.item_ids().to_numpy()))]


def table(log: store.Prepared, column: str) -> dict[str, list]:
    return pl.read_parquet(log.path / f"side_{column}.parquet").to_dict(as_series=False)


def counted(log: store.Prepared, column: str) -> tuple[int, int, int]:
    entry = next(each for each in log.manifest["side_columns"] if each["name"] == column)
    return entry["values"], entry["missing"], entry["out_of_vocabulary"]


def test_values_that_no_item_shown_in_training_has_are_out_of_vocabulary(tmp_path):
    log = prepared(ITEMS, tmp_path)
    assert table(log, "shop") == {"code": [1, 2, 3], "value": ["a", "b", "c"]}
    assert side(log, "shop")[:, 0].tolist() == [0, 2, 1, 0, 3, 1, 4, 4]
    assert counted(log, "shop") == (3, 1, 2)
    assert table(log, "tag") == {"code": [1, 2], "value": ["w", "x"]}
    assert side(log, "tag").tolist() == [[0, 0], [2, 0], [1, 2], [0, 0], [0, 0], [3, 2], [2, 0], [1, 0]]
    assert counted(log, "tag") == (2, 2, 1)
    entry = card.lines(log.card())["side information"]
    assert "shop (3 values, 2 items out of vocabulary), tag (2 values, lists of up to 2, 1 items out" in entry


def test_numbers_fall_between_quantiles_of_the_items_shown_in_training(tmp_path):
    log = prepared(ITEMS, tmp_path, side_buckets=3)
    assert table(log, "price") == {"code": [1, 2, 3], "above": [None, 0.5, 1.5], "up_to": [0.5, 1.5, None]}
    assert side(log, "price")[:, 0].tolist() == [0, 1, 3, 0, 2, 3, 1, 3]
    assert counted(log, "price") == (3, 1, 0)
    assert table(log, "year")["value"] == [2001, 2002, 2003], "integers are classes"
    assert "price (3 buckets), year (3 values, 2 items out of vocabulary)" in card.lines(log.card())["side information"]
    named = prepared(ITEMS, tmp_path / "named", side_buckets=3, numeric=("year",))
    assert table(named, "year") == {"code": [1, 2, 3], "above": [None, 2001, 2002], "up_to": [2001, 2002, None]}
    assert side(named, "year")[:, 0].tolist() == [0, 1, 3, 0, 2, 2, 1, 3]
    assert named.fingerprint != log.fingerprint


def test_items_not_shown_in_training_change_no_vocabulary_and_no_bound(tmp_path):
    late = pl.col("item_id") > 4
    changed = ITEMS.with_columns(
        shop=pl.when(late).then(pl.lit("new")).otherwise("shop"),
        tag=pl.when(late).then(["new", "newer"]).otherwise("tag"),
        price=pl.when(late).then(1e6).otherwise("price"),
        year=pl.when(late).then(1).otherwise("year"),
    )
    one, other = prepared(ITEMS, tmp_path / "one"), prepared(changed, tmp_path / "other")
    assert one.side_values == other.side_values
    for column in one.side:
        assert table(one, column) == table(other, column)
        np.testing.assert_array_equal(side(one, column)[:5], side(other, column)[:5])


def test_a_value_out_of_vocabulary_is_embedded_as_a_missing_one():
    embedding = ItemEmbedding(Model(width=8, heads=2, id_width=0, side_width=4), 1, (("tag", 2),))
    code_VW = jnp.array([[0, 0], [1, 0], [2, 1], [3, 0], [1, 3], [3, 3]])
    item_N = jnp.arange(6)
    params = embedding.init(jax.random.key(0), item_N, {"tag": code_VW})
    assert params["params"]["side_tag"].shape == (3, 4)
    e_ND = embedding.apply(params, item_N, {"tag": code_VW})
    missing_ND = embedding.apply(params, item_N, {"tag": jnp.where(code_VW == 3, 0, code_VW)})
    np.testing.assert_array_equal(e_ND, missing_ND)
    assert not np.allclose(e_ND[0], e_ND[1])


@pytest.mark.parametrize("named", [("tag",), ("item_id",), ("item_id", "shop")])
def test_an_item_is_scored_by_what_is_named_and_read_by_all(named):
    model = Model(width=8, heads=2, id_width=4, side_width=4, id_init_std=0.1, scored_by=named)
    embedding = ItemEmbedding(model, 6, (("tag", 2), ("shop", 2)))
    item_N, side = jnp.arange(6), {"tag": jnp.array([[1, 2]] * 6), "shop": jnp.array([[1], [2]] * 3)}
    params = embedding.init(jax.random.key(0), item_N, side)

    def embedded(**how) -> np.ndarray:
        return np.asarray(embedding.apply(params, item_N, side | how.pop("side", {}), **how))

    read_ND, scored_ND = embedded(), embedded(scored=True)
    unnamed = {name: jnp.zeros_like(side[name]) for name in side if name not in named}
    has_id_N = jnp.full(6, "item_id" in named)
    np.testing.assert_array_equal(scored_ND, embedded(side=unnamed, has_id_N=has_id_N))
    assert (np.abs(scored_ND - read_ND).max(axis=1) > 0).all()


def test_every_code_is_a_value_missing_or_out_of_vocabulary(tmp_path):
    items = ITEMS.with_columns(unseen=pl.when(pl.col("item_id") > 4).then(pl.col("item_id") / 2))
    log = prepared(items, tmp_path, numeric=("year",))
    for name, codes_VW in log.side.items():
        assert codes_VW.min() == 0
        assert codes_VW.max() <= log.side_values[name] + 1
        assert not codes_VW[0].any()
    assert (log.side_values["unseen"], counted(log, "unseen")) == (0, (0, 4, 3))


@given(
    st.lists(st.one_of(st.integers(0, 5).map(float), st.floats(allow_nan=False)), min_size=1, max_size=60),
    st.integers(2, 12),
)
@settings(deadline=None)
def test_no_bucket_is_empty_and_distinct_values_fill_them_evenly(values, buckets):
    bound = quantile_bounds(np.array(values), buckets)
    counts = np.bincount(np.searchsorted(bound, values, side="left"), minlength=len(bound) + 1)
    assert len(counts) == len(bound) + 1 <= buckets
    assert counts.min() >= 1
    if len(set(values)) == len(values) >= buckets:
        assert len(counts) == buckets
        assert np.ptp(counts) <= 1


def test_kinds_of_columns(tmp_path):
    seen_V = np.array([False, True, True, True])
    items = pl.DataFrame(
        {
            "item_id": [1, 2, 3],
            "gaps": [4.0, float("nan"), 9.0],
            "huge": [1e300, 2e300, float("inf")],
            "prices": [[0.5, None], [float("nan"), 1.5], None],
            "nothing": pl.Series([None, None, None]),
            "kind": pl.Series(["p", "q", "p"], dtype=pl.Categorical),
        }
    )
    coded = side_information.code_side(items, seen_V, (), 10)
    assert {name: column.summary["kind"] for name, column in coded.items()} == {
        "gaps": "categories", "huge": "buckets", "prices": "buckets", "nothing": "categories", "kind": "categories",
    }  # fmt: skip
    assert coded["gaps"].table["value"].to_list() == [4, 9]
    assert coded["gaps"].codes_VW[:, 0].tolist() == [0, 1, 0, 2]
    assert coded["huge"].codes_VW[:, 0].tolist() == [0, 1, 2, 3]
    assert coded["prices"].codes_VW[:, 0].tolist() == [0, 1, 2, 0]
    assert coded["nothing"].codes_VW.tolist() == [[0]] * 4


BAD = {
    "no such column": ({"numeric": ("pric",)}, "--numeric pric: the item table has no such column; did you mean 'pric"),
    "text": ({"numeric": ("shop",)}, "--numeric shop: the item table's column has the type String; wanted numbers"),
    "one bucket": ({"side_buckets": 1}, "--side-buckets is 1; wanted 2 to"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_told_before_anything_is_read(tmp_path, case):
    given, message = BAD[case]
    with pytest.raises(InputError, match=message):
        prepared(ITEMS, tmp_path, **given)
    with pytest.raises(InputError, match="--numeric price: the log has no item table"):
        prepare(RawLog("test", EXPOSURES), tmp_path / "log", Settings(numeric=("price",)))
    assert not list(tmp_path.iterdir())
