"""Restoring a run and recommending from it: exact top-K, evaluation's path, time, seen items, refusals."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from grid import mostly_slow
from noise import noise_of

from experiments.__main__ import main
from sessionrec_jax.config.settings import Config, Mesh
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import eval_batches, shape_of, train_catalogue
from sessionrec_jax.data.codes import CLICKED, TEST
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.devices.mesh import make_mesh
from sessionrec_jax.devices.placement import put_batch, put_replicated
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.spec_of_log import spec_of
from sessionrec_jax.runfolder.files import claim, write_json
from sessionrec_jax.serving import recommend as module
from sessionrec_jax.serving.histories import log_histories, read_histories
from sessionrec_jax.serving.load import restore
from sessionrec_jax.serving.recommend import recommend
from sessionrec_jax.serving.vocabulary import Vocabulary
from sessionrec_jax.training.loop import train

SMALL = {
    "data.rows": 8, "data.sessions_per_row": 8,
    "model.width": 8, "model.layers": 1, "model.id_width": 8, "model.side_width": 4,
    "loss.negatives": 32, "mesh.data": 1, "train.epochs": 1.0,
    "optim.learning_rate_peak": 1e-2,
}  # fmt: skip
PROCESS = synthetic.Options(users=150, base=4, depth=3, sessions_mean=6.0, sessions_max=20, seed=2)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Returns a prepared log of 64 items whose ids are text, in another order than the dense ids."""
    raw = synthetic.read(PROCESS)
    text = pl.format("item {}", (pl.col("item_id") * 37) % 101).alias("item_id")
    raw = dataclasses.replace(
        raw, exposures=raw.exposures.with_columns(text), items=raw.items.with_columns(text), truth=None
    )
    return prepare(raw, tmp_path_factory.mktemp("data") / "log", Settings(validation_users=20, test_users=60))


@pytest.fixture(scope="module")
def shop_in_context(tmp_path_factory):
    """Returns the same log with a device for each session: some are missing, and some belong to one user only."""
    raw = synthetic.read(PROCESS)
    kind, user = (pl.col("user_id") * 3 + pl.col("session_id")) % 7, pl.col("user_id")
    device = pl.when(kind == 1).then(pl.format("own {}", user)).when(kind > 1).then(pl.format("kind {}", kind))
    raw = dataclasses.replace(raw, exposures=raw.exposures.with_columns(device.alias("session/device")), truth=None)
    return prepare(raw, tmp_path_factory.mktemp("context") / "log", Settings(validation_users=20, test_users=60))


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    result = train(resolve(replace(Config(), SMALL), shop), shop, run_dir, quiet=True)
    write_json(run_dir / "row.json", {"status": "done"})
    return run_dir, result


@pytest.fixture(scope="module")
def run(trained):
    return restore(trained[0])


def untrained(prepared, changed):
    """Returns a run whose parameters are noise, so that every part of the model counts."""
    config = resolve(replace(Config(), SMALL | changed), prepared)
    catalogue = train_catalogue(config, prepared)
    spec, mesh = spec_of(config, prepared, catalogue), make_mesh(config.mesh)
    return TrainedModel(config, prepared, catalogue, spec, mesh, put_replicated(noise_of(spec, catalogue), mesh), 0)


def as_json(prepared, user, first_session, last_session):
    """Returns the stored sessions [first, last) as a line of a histories file."""
    log, ids, kinds = prepared.arrays(), prepared.item_ids(), prepared.feedback_names
    sessions = []
    for session in range(first_session, last_session):
        exposures = slice(*log.session_item_offsets_S1[session : session + 2])
        sessions.append(
            [
                {"item": ids[int(item) - 1], "clicked": None, "feedback": kinds[code]}
                if code > 1
                else {"item": ids[int(item) - 1], "clicked": bool(code)}
                for item, code in zip(log.item_N[exposures], log.feedback_N[exposures], strict=True)
            ]
        )
    times = log.session_seconds_S[first_session:last_session].tolist()
    line = {"user": user, "sessions": sessions, "times": times}
    if not prepared.context_values:
        return line
    value = [None, *prepared.context_vocabulary("device"), "never met"]
    return line | {
        "context": [{"device": value[code]} for code in log.session_context["device"][first_session:last_session]]
    }


def written(path, lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def lines_of(run, histories, k, seen="kept"):
    return list(recommend(run, histories, k, seen, quiet=True))


def answers_to(run, path, lines, k=10, seen="kept"):
    return lines_of(
        run, read_histories(written(path / "users.jsonl", lines), Vocabulary.of_log(run.log, run.config)), k, seen
    )


# --- restoring -----------------------------------------------------------------------------------------------------


def test_restored_parameters_are_the_trained_ones(run, trained):
    jax.tree.map(np.testing.assert_array_equal, run.params, trained[1].params)
    assert run.step == trained[1].step
    assert run.spec == trained[1].spec


def test_a_run_of_more_devices_than_there_are_is_restored_on_those_here(trained, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(trained[0], moved)
    values = json.loads((moved / "config.json").read_text())
    values["mesh"]["data"] = 4096
    write_json(moved / "config.json", values)
    restored = restore(moved)
    assert restored.mesh.size == 8
    jax.tree.map(np.testing.assert_array_equal, restored.params, trained[1].params)


def test_restore_refuses(trained, shop, run, tmp_path):
    with pytest.raises(InputError, match="is not a run"):
        restore(tmp_path)
    claim(tmp_path / "started", run.config)
    with pytest.raises(InputError, match="no checkpoint yet"):
        restore(tmp_path / "started")
    assert not (tmp_path / "started/checkpoints").exists()
    claim(tmp_path / "moved", replace(run.config, {"data.path": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="name its folder with --data"):
        restore(tmp_path / "moved")
    other = prepare(synthetic.read(synthetic.Options(users=100, base=4, depth=3)), tmp_path / "other", Settings())
    with pytest.raises(InputError, match="fingerprint"):
        restore(trained[0], other.path)
    assert restore(trained[0], shop.path).step == run.step


# --- recommending --------------------------------------------------------------------------------------------------


def log_probs_of_the_last_targets(run):
    """Yields (user, session, log probabilities of all items) of the last session of each window that evaluation
    reads.
    """
    side = put_replicated(run.catalogue.side, run.mesh)
    e_VD = sessionrec.embed(run.spec, run.params, jnp.arange(run.spec.ids), side)
    queries_of = jax.jit(jax.vmap(lambda shard: sessionrec.apply(run.spec, run.params, shard, side)[1].retrieval_SD))
    found = []
    for batch in eval_batches(run.config, run.log, shape_of(run.config, run.mesh.size), TEST):
        inputs = put_batch(batch, run.mesh).shards()
        score_SV = queries_of(inputs)[0] @ e_VD.T + run.params["heads"]["item_bias"][: run.spec.ids].at[0].set(-jnp.inf)
        log_prob_RLV = np.asarray(jax.nn.log_softmax(score_SV)).reshape(*batch.user_of_session_GRL.shape[1:], -1)
        for row, user_L in enumerate(batch.user_of_session_GRL[0]):
            for user in range(1, user_L.max(initial=0) + 1):
                *_, query, target = np.flatnonzero(user_L == user)
                named = (names_GRL[0, row, target] for names_GRL in (batch.log_user_GRL, batch.log_session_GRL))
                found.append((*map(int, named), log_prob_RLV[row, query]))
    return found


@pytest.mark.parametrize("paradigm", mostly_slow(["nspp", "nipp", "nipp_plus"], quick=["nspp"]))
def test_a_history_scores_as_evaluation_scores_what_comes_after_it(shop_in_context, tmp_path, paradigm):
    """Returns histories of any length: short ones, some longer than a window, and under nipp some without a click."""
    shop = shop_in_context
    room = (
        {"data.items_per_row": 300} if paradigm == "nspp" else {}
    )  # the sessions of a window, never its items, fill it
    run = untrained(shop, {"paradigm": paradigm, "loss.alpha": 0.0, **room})
    log, expected = shop.arrays(), log_probs_of_the_last_targets(run)
    given = [as_json(shop, user, log.user_session_offsets_U1[user], session) for user, session, _ in expected]
    answers = answers_to(run, tmp_path, given, run.catalogue.items)
    dense = {item: place for place, item in enumerate(shop.item_ids(), 1)}
    assert len(answers) == len(expected) > 60
    longest, unknown = 0, 0
    for line, answer, (_, _, log_prob_V) in zip(given, answers, expected, strict=True):
        exposures = [exposure for session in line["sessions"] for exposure in session]
        clicks = [exposure for exposure in exposures if exposure["clicked"]]
        read = {"nspp": line["sessions"], "nipp": clicks, "nipp_plus": exposures}[paradigm]
        longest = max(longest, len(read))
        assert answer["sessions_used" if paradigm == "nspp" else "items_used"] == min(len(read), 7)
        assert "fallback" not in answer
        assert answer["unknown_context"] == line["context"].count({"device": "never met"})
        unknown += answer["unknown_context"]
        got_V = np.full(run.spec.ids, -np.inf)
        got_V[[dense[item] for item in answer["items"]]] = answer["scores"]
        np.testing.assert_allclose(got_V, log_prob_V, rtol=1e-5, atol=1e-5)  # float32 logits
    assert longest > 7
    assert unknown > 10
    assert len({tuple(answer["items"]) for answer in answers}) > 20  # the model depends on its history
    whole = [as_json(shop, None, *log.user_session_offsets_U1[u : u + 2]) for u in range(12)]
    of_log = lines_of(run, log_histories(shop, 12), 10)
    assert [line | {"user": None} for line in of_log] == answers_to(run, tmp_path, whole)


def test_a_nipp_user_without_a_click_is_answered_from_the_empty_start(shop, tmp_path):
    run, (one, other) = untrained(shop, {"paradigm": "nipp", "loss.alpha": 0.0}), shop.item_ids()[:2]
    ignored = [{"user": 0, "sessions": [[{"item": item, "clicked": False}]]} for item in (one, other)]
    unknown = {"user": 0, "sessions": [[{"item": "never seen", "clicked": True}]]}
    first, second, fallback = answers_to(run, tmp_path, [*ignored, unknown])
    assert first == second
    assert first["items_used"] == fallback["items_used"] == 0
    assert "fallback" not in first
    assert fallback["fallback"] == "popularity"
    assert first["scores"] != fallback["scores"]


def test_a_model_that_reads_time_gets_the_times(shop, tmp_path):
    run, user_U1 = untrained(shop, {"model.sequence_encoder": "hstu"}), shop.arrays().user_session_offsets_U1
    given = [as_json(shop, user, *user_U1[user : user + 2]) for user in range(20)]
    answers = answers_to(run, tmp_path, given)
    of_log = lines_of(run, log_histories(shop, 20), 10)
    assert answers == [line | {"user": user} for user, line in enumerate(of_log)]
    at_once = [line | {"times": [1_600_000_000] * len(line["times"])} for line in given]
    assert (
        sum(a["scores"] != b["scores"] for a, b in zip(answers, answers_to(run, tmp_path, at_once), strict=True)) > 10
    )
    later = [line | {"times": [float(second + 9_000) for second in line["times"]]} for line in given]
    assert answers_to(run, tmp_path, later) == answers
    unknown = [[{"item": "never seen", "clicked": True}]]
    with_unknown = [
        line | {"sessions": unknown + line["sessions"], "times": [1_000_000_000, *line["times"]]} for line in given
    ]
    assert [line | {"unknown_items": 0} for line in answers_to(run, tmp_path, with_unknown)] == answers
    with pytest.raises(InputError, match=r"line 2 lacks 'times', but this model reads the time .* \"times\": \["):
        answers_to(run, tmp_path, [given[0], {"user": 1, "sessions": given[1]["sessions"]}])


def test_other_models_take_no_notice_of_times(run, tmp_path):
    line = as_json(run.log, 0, 0, 3)
    without = {name: line[name] for name in ("user", "sessions")}
    one, other = answers_to(run, tmp_path, [line, without])
    assert one == other


def test_seen_items_are_left_out_exactly(run, tmp_path):
    """Compares with the whole ranking; the second line has three items left, the third saw one item as context only."""
    log, ids = run.log.arrays(), run.log.item_ids().to_list()
    histories = log_histories(run.log, 0)
    for user, (all_line, line, kept) in enumerate(
        zip(*(lines_of(run, histories, *args) for args in ((64,), (20, "masked"), (20,))), strict=True)
    ):
        own = slice(*log.user_item_offsets_U1[user : user + 2])
        seen = {ids[item - 1] for item in log.item_N[own][log.feedback_N[own] <= CLICKED]}
        best = [pair for pair in zip(all_line["items"], all_line["scores"], strict=True) if pair[0] not in seen][:20]
        assert list(zip(line["items"], line["scores"], strict=True)) == best
        assert (line["seen_items"], kept["seen_items"]) == ("masked", "kept")
        assert set(kept["items"]) <= set(all_line["items"][:20])
    shown = [[{"item": item, "clicked": item == ids[5]}] for item in ids[3:]]
    context = [[{"item": ids[5], "clicked": None, "feedback": "anchor"}]]
    lines = [{"user": 0, "sessions": sessions} for sessions in ([], shown, context)]
    nobody, tired, fresh = answers_to(run, tmp_path, lines, 64, "masked")
    assert (nobody["fallback"], nobody["seen_items"], len(nobody["items"])) == ("popularity", "masked", 64)
    assert sorted(tired["items"]) == sorted(ids[:3])
    assert len(fresh["items"]) == 64


def test_the_whole_stored_history_of_the_logs_users(run, tmp_path):
    offsets = run.log.arrays().user_session_offsets_U1
    ids = pl.read_parquet(run.log.path / "users.parquet")["user_id"].to_list()
    given = [as_json(run.log, ids[u], *offsets[u : u + 2]) for u in range(40)]
    answers = lines_of(run, log_histories(run.log, 40), 10)
    assert answers == answers_to(run, tmp_path, given)
    assert max(np.diff(offsets[:41])) > 7 == max(answer["sessions_used"] for answer in answers)


def test_only_the_newest_sessions_count(run, tmp_path):
    offsets = run.log.arrays().user_session_offsets_U1
    user = int(np.argmax(np.diff(offsets)))
    long = as_json(run.log, 0, *offsets[user : user + 2])
    short = {"user": 0, "sessions": long["sessions"][-7:]}
    one, other = answers_to(run, tmp_path, [long, short])
    assert one == other


@pytest.mark.slow
def test_k_items_are_the_first_of_more_and_devices_change_nothing(run, monkeypatch):
    histories = log_histories(run.log, 0)
    few, all_items = (lines_of(run, histories, k) for k in (5, run.catalogue.items))
    masked = lines_of(run, histories, 5, "masked")
    eight = make_mesh(Mesh(8))
    spread = dataclasses.replace(run, mesh=eight, params=put_replicated(jax.device_get(run.params), eight))
    monkeypatch.setattr(module, "BLOCK", 4)  # so that every device has queries, and there are several blocks
    few_of_eight, masked_of_eight = (lines_of(spread, histories, 5, seen) for seen in ("kept", "masked"))
    assert [line["items"] for line in masked] == [line["items"] for line in masked_of_eight]
    for line, all_line, line_of_eight in zip(few, all_items, few_of_eight, strict=True):
        assert line["items"] == all_line["items"][:5]
        assert sorted(all_line["items"]) == sorted(run.log.item_ids())
        np.testing.assert_allclose(line["scores"], line_of_eight["scores"], atol=1e-5)
        np.testing.assert_allclose(np.exp(all_line["scores"]).sum(), 1, atol=1e-5)


def test_unknown_items_are_counted_and_change_nothing(run, tmp_path):
    known = as_json(run.log, "plain", 0, 3)
    strange = [{"item": "never seen", "clicked": True}, {"item": 12, "clicked": None, "feedback": "anchor"}]
    mixed = {"user": "mixed", "sessions": [strange, *([*session, strange[0]] for session in known["sessions"])]}
    nothing = {"user": None, "sessions": [strange, []]}
    never = {"user": {"id": 7}, "sessions": []}
    plain, empty, other, silent = answers_to(run, tmp_path, [known, nothing, mixed, never], 6)
    assert [line["unknown_items"] for line in (plain, empty, other, silent)] == [0, 2, 5, 0]
    assert [line["user"] for line in (plain, empty, other, silent)] == ["plain", None, "mixed", {"id": 7}]
    assert "fallback" not in plain
    for name in ("items", "scores", "sessions_used"):
        assert plain[name] == other[name]
        assert empty[name] == silent[name]
    assert empty["fallback"] == silent["fallback"] == "popularity"
    log_popularity_V = run.catalogue.log_popularity_V
    by_clicks = np.argsort(-log_popularity_V[1:], kind="stable")[:6]
    assert empty["items"] == [run.log.item_ids()[int(place)] for place in by_clicks]
    np.testing.assert_allclose(empty["scores"], log_popularity_V[1:][by_clicks], atol=1e-5)


GOOD = {"item": "item 37", "clicked": True}


def test_refusals(run, tmp_path):
    histories = log_histories(run.log, 3)
    for k in (0, run.catalogue.items + 1):
        with pytest.raises(InputError, match=f"the catalogue has {run.catalogue.items} items"):
            recommend(run, histories, k)
    long = {"user": "eager", "sessions": [[GOOD], [GOOD] * (run.config.data.items_per_row + 1)]}
    with pytest.raises(InputError, match="last session of user 'eager' has"):
        answers_to(run, tmp_path, [long])


def test_attention_within_a_session_refuses_a_longer_one_than_its_log_has(run, tmp_path):
    most, wide = run.spec.session_items, replace(run.config, {"data.items_per_row": 999})
    attends = dataclasses.replace(run, config=replace(wide, {"model.session_encoder": "transformer"}))

    def asked(its, *lengths):
        line = {"user": "eager", "sessions": [[GOOD] * length for length in lengths]}
        path = written(tmp_path / "users.jsonl", [{"user": "calm", "sessions": [[GOOD]]}, line])
        return recommend(its, read_histories(path, Vocabulary.of_log(its.log, its.config)), 5)

    with pytest.raises(
        InputError, match=rf"user 'eager' has {most + 1} exposures, but .* at most {most}, .* leave out"
    ):
        asked(attends, 1, most + 1, 1)
    asked(attends, most + 1, *[most] * 7)  # the window begins after the long one
    asked(dataclasses.replace(run, config=wide), 1, most + 1, 1)


def test_command_line(trained, run, tmp_path, capsys):
    run_dir, out = str(trained[0]), tmp_path / "top.jsonl"
    assert main(["recommend", run_dir, "--log-users", "4", "--k", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    new_only = ["--seen", "masked", "--out", str(tmp_path / "new.jsonl")]
    assert main(["recommend", run_dir, "--log-users", "4", "--k", "3", *new_only]) == 0
    answers = [json.loads(line) for line in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert answers == lines_of(run, log_histories(run.log, 4), 3, "masked")
    for axes, message in (("data=16", "wants 16 devices"), ("data=3", "does not spread over 3 devices.*--mesh data=2")):
        assert main(["recommend", run_dir, "--log-users", "4", "--mesh", axes]) == 2
        assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert main(["recommend", run_dir, "--log-users", "4", "--k", "3"]) == 0
    assert (printed := capsys.readouterr().out) == out.read_text()
    assert [json.loads(line) for line in printed.splitlines()] == lines_of(run, log_histories(run.log, 4), 3)
    users = written(tmp_path / "users.jsonl", [{"user": 1, "sessions": [[GOOD]]}, {"user": 2}])
    assert main(["recommend", run_dir, "--histories", str(users), "--out", str(tmp_path / "never.jsonl")]) == 2
    assert "line 2 lacks 'sessions'" in capsys.readouterr().err
    assert main(["recommend", run_dir]) == 2
    assert "--histories users.jsonl or --log-users N" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "top.jsonl", "users.jsonl"]


@pytest.mark.slow  # test_spread.py has a quick one, without the command line
def test_the_command_line_finds_the_same_items_on_a_mesh(trained, tmp_path):
    found = []
    for mesh in ("data=1", "data=2,model=4"):
        asked = ["--log-users", "4", "--k", "3", "--mesh", mesh, "--out", str(tmp_path / f"{mesh}.jsonl")]
        assert main(["recommend", str(trained[0]), *asked]) == 0
        found.append([json.loads(line)["items"] for line in (tmp_path / f"{mesh}.jsonl").read_text().splitlines()])
    assert found[0] == found[1]
