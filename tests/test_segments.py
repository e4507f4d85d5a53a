"""Metrics by segment: the segments of a kind add up to the whole, and each equals a count made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from noise import noise_of

import scaling
from experiments.__main__ import main
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.batches import train_catalogue
from sessionrec_jax.data.codes import CLICKED, TEST, TRAIN
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_replicated
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.measure import evaluate, measure
from sessionrec_jax.evaluation.segments import BUILT_IN, POPULARITY, Segments, segment_columns
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.row import run
from sessionrec_jax.serving.load import restore

KINDS = (*BUILT_IN, "hour_of_day")
OF_SESSIONS = ("history_length", "session_items", "hour_of_day")


@pytest.fixture(scope="module")
def model(config, wide_log):
    """Returns a model with random heads, on a log whose sessions have an hour."""
    wide = {"data.path": "", "data.fingerprint": "", "data.items_per_row": 0, "data.eval_users": 5}
    config = resolve(replace(config, wide), wide_log)
    catalogue, mesh = train_catalogue(config, wide_log), make_mesh(config.mesh)
    spec = spec_of(config, wide_log, catalogue)
    return TrainedModel(config, wide_log, catalogue, spec, mesh, put_replicated(noise_of(spec, catalogue), mesh), 0)


@pytest.fixture(scope="module")
def found(model):
    return evaluate(model, TEST, KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_segments_of_a_kind_add_up_to_the_whole(found, kind):
    segments = found["by"][kind].values()
    assert len(segments) > 1
    assert sum(of["scored_clicks"] for of in segments) == found["scored_clicks"]
    nats = sum(of["loss_nats_per_item"] * of["scored_clicks"] for of in segments)
    assert nats == pytest.approx(found["loss_nats_per_item"] * found["scored_clicks"], rel=1e-9)
    if kind in OF_SESSIONS:
        assert sum(of["ranked_sessions"] for of in segments) == found["ranked_sessions"]
        for name in ("ndcg_at_50", "mrr", "recall_at_500"):
            mean = sum(of[name] * of["ranked_sessions"] for of in segments if of[name] is not None)
            assert mean == pytest.approx(found[name] * found["ranked_sessions"], rel=1e-9)
    else:
        assert not any("rank_auc" in of for of in segments)  # an order of exposures cannot be cut by items


def test_every_segment_counts_the_clicks_that_it_names(model, found):
    log, users = model.log.arrays(), model.log.users_of(TEST)[: model.config.data.eval_users]
    is_trained_N = np.repeat(log.session_role_S == TRAIN, log.session_items_S) & (log.feedback_N == CLICKED)
    clicks_V = np.bincount(log.item_N[is_trained_N], minlength=model.spec.ids)
    counted = {"zero": 0, "new": 0, "first": 0, "hour": {}}
    hours = model.log.context_vocabulary("hour_of_day").cast(str).to_list()
    for user in users:
        begin, end = log.user_session_offsets_U1[user : user + 2]
        for session in range(begin + 1, end):
            if log.session_role_S[session] != TEST:
                continue
            first, own = (log.session_item_offsets_S1[place] for place in (begin, session))
            last = log.session_item_offsets_S1[session + 1]
            is_shown = log.feedback_N[first:own] <= CLICKED
            shown = set(log.item_N[first:own][is_shown].tolist())
            clicked = log.item_N[own:last][log.feedback_N[own:last] == CLICKED].tolist()
            counted["zero"] += sum(clicks_V[item] == 0 for item in clicked)
            counted["new"] += sum(item not in shown for item in clicked)
            counted["first"] += len(clicked) * (session - begin == 1)
            code = log.session_context["hour_of_day"][session]
            hour = hours[code - 1] if 0 < code <= len(hours) else "other"
            counted["hour"][hour] = counted["hour"].get(hour, 0) + len(clicked)
    by = found["by"]
    assert by["item_popularity"]["0"]["scored_clicks"] == counted["zero"] > 0
    assert by["new_item"]["new"]["scored_clicks"] == counted["new"] > 0
    assert by["history_length"]["1"]["scored_clicks"] == counted["first"] > 0
    named = {hour: of["scored_clicks"] for hour, of in by["hour_of_day"].items() if hour in hours}
    assert named == {hour: counted["hour"][hour] for hour in named}
    assert len(named) > 1


def test_the_whole_is_the_same_with_and_without_segments(model, found):
    alone = evaluate(model, TEST)
    assert alone == {name: value for name, value in found.items() if name != "by"}


def test_an_unknown_kind_names_the_nearest(model):
    with pytest.raises(InputError, match=r"--by item_popularty: .* did you mean 'item_popularity'"):
        Segments(("item_popularty",), model, TEST)


def test_popularity_segments_are_the_same_for_every_log():
    assert POPULARITY[:3] == (0, 1, 10)


def test_sums_are_over_the_scored_users_alone(model):
    segments = Segments(("new_item",), model, TEST)
    measure(model, TEST, segments)
    assert segments.metrics.users == 5


@pytest.mark.slow
def test_the_command_shows_segments_and_draws_them(model, tmp_path, capsys):
    small = (
        "--model.width",
        "8",
        "--model.layers",
        "1",
        "--data.rows",
        "4",
        "--train.epochs",
        "0.5",
        "--mesh",
        "data=1",
    )
    run, out = str(tmp_path / "RUN"), [str(tmp_path / name) for name in ("metrics.json", "segments.svg")]
    assert main(["train", str(model.log.path), "--out", run, *small]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--by", *KINDS, "--json", out[0], "--figure", out[1]]) == 0
    shown = capsys.readouterr().out
    assert all(f"by {kind}" in shown for kind in KINDS)
    by = json.loads((tmp_path / "metrics.json").read_text())["by"]
    assert set(by) == set(KINDS)
    assert all(label in (tmp_path / "segments.svg").read_text() for label in by["history_length"])
    assert main(["evaluate", run, "--figure", str(tmp_path / "other.svg")]) == 2
    assert "wanted --by" in capsys.readouterr().err
    assert not (tmp_path / "other.svg").exists()


def test_a_row_has_the_metrics_of_the_segments_that_were_asked_for(config, log, tmp_path):
    """The columns are those of `evaluate --by`, and a law is fitted to one of them by its name."""
    by = ("item_popularity", "session_items")
    settings = {"mesh.data": 1, "train.epochs": 0.2, "data.eval_users": 20}
    plain = replace(config, settings)
    asked = replace(plain, {"train.evaluate_by": by})
    assert run_id(asked) == run_id(plain)
    row = run(asked, tmp_path / "run", "train", quiet=True)
    wanted = evaluate(restore(tmp_path / "run"), TEST, by)["by"]
    found = {name: value for name, value in row.items() if "__" in name}
    assert len(found) == sum(len(metrics) for kind in by for metrics in wanted[kind].values())
    for label, column in (("10 to 99", "10_to_99"), ("100 to 999", "100_to_999")):
        metrics = wanted["item_popularity"][label]
        name = f"loss_nats_per_item__item_popularity__{column}"
        assert found[name] == pytest.approx(metrics["loss_nats_per_item"])
        assert found[f"{name}_stderr"] == pytest.approx(metrics["loss_nats_per_item_stderr"])

    sessions = [1_000 * 2**n for n in range(10)]
    table = [row | {"run_id": str(d), "sessions_unique": d, name: 3 + 40 * d**-0.4} for d in sessions]
    law = scaling.fit(table, "power_floor", d="sessions_unique", loss=name, floor=3.0, bootstrap=0, full=False)
    assert law.params["beta"] == pytest.approx(0.4, rel=0.01)


def test_segments_that_a_log_does_not_have_are_refused_before_training(config, log, tmp_path):
    with pytest.raises(InputError, match=r"--train\.evaluate-by item_popularty: .* did you mean 'item_popularity'"):
        run(replace(config, {"train.evaluate_by": ("item_popularty",)}), tmp_path / "run", "train", quiet=True)


def test_segments_of_items_need_the_catalogue(config, log, tmp_path):
    shown = {"data.eval_candidates": "shown", "train.evaluate_by": ("new_item",)}
    with pytest.raises(
        InputError, match=r"--train.evaluate-by new_item cuts .*wanted --data.eval-candidates catalogue"
    ):
        run(replace(config, shown), tmp_path / "run", "train", quiet=True)
    assert not (tmp_path / "run").exists()


def test_names_of_segments_that_differ_in_signs_alone_stay_apart():
    by = {"device": {"a b": {"mrr": 0.5, "mrr_stderr": 0.1}, "a-b": {"mrr": 0.25, "mrr_stderr": 0.2}}}
    assert segment_columns(by) == {
        "mrr__device__a_b": 0.5, "mrr__device__a_b_stderr": 0.1,
        "mrr__device__a_b_2": 0.25, "mrr__device__a_b_2_stderr": 0.2,
    }  # fmt: skip
