"""The table of metrics says where a model is no better than popularity, and where it rests on few clicks."""

from __future__ import annotations

import pytest

from experiments.cli.evaluate import FEWEST_CLICKS, print_metrics

GOOD = {
    "loss_nats_per_item": 5.0, "loss_baseline_nats_per_item": 5.5,
    "rank_nats_per_exposure": 0.5, "rank_baseline_nats_per_exposure": 0.6,
    "ndcg_at_50": 0.2, "popularity_ndcg_at_50": 0.1,
    "scored_clicks": 400, "ranked_sessions": 300, "ordered_sessions": 200, "split": "temporal",
}  # fmt: skip


@pytest.fixture
def said(capsys):
    def said(**changes: float | None) -> str:
        print_metrics({name: value for name, value in (GOOD | changes).items() if value is not None}, "RUN")
        return " ".join(capsys.readouterr().out.split())

    return said


def test_a_good_model_has_no_warning(said):
    assert "400 clicks" in said()
    assert "warning" not in said()


@pytest.mark.parametrize(
    ("worse", "named"),
    [
        ({"loss_nats_per_item": 5.5}, "no better than popularity in nats an item: more"),
        ({"rank_nats_per_exposure": 0.7}, "no better than popularity in rank nats: more"),
        ({"ndcg_at_50": 0.1}, "no better than popularity in NDCG@50: more"),
        ({"loss_nats_per_item": 6.0, "ndcg_at_50": 0.0}, "no better than popularity in nats an item, NDCG@50: more"),
    ],
)
def test_a_model_that_popularity_equals_is_named(said, worse, named):
    assert named in said(**worse)
    assert "compares the ranks" not in said(**worse)


def test_a_row_without_the_ranks_of_popularity_names_the_command_that_has_them(said):
    found = said(loss_nats_per_item=6.0, popularity_ndcg_at_50=None)
    assert "in nats an item: more data" in found
    assert "`sessionrec evaluate` compares the ranks too" in found


def test_a_missing_number_is_not_compared(said):
    assert "warning" not in said(rank_nats_per_exposure=None, loss_baseline_nats_per_item=None)


def test_few_clicks_are_said(said):
    assert "say next to nothing" not in said(scored_clicks=FEWEST_CLICKS, ranked_sessions=FEWEST_CLICKS)
    few = FEWEST_CLICKS - 1
    assert f"with fewer than {FEWEST_CLICKS} clicks these numbers say next to nothing" in said(
        scored_clicks=few, ranked_sessions=few
    )
