"""Restoring a run and recommending from it: exact top-K, the log's own path, the publisher's ids, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.__main__ import main
from sessionrec_jax import recommend as module
from sessionrec_jax.config import Config, Mesh, replace
from sessionrec_jax.data.batches import TEST, eval_batches, shape_of
from sessionrec_jax.data.prepare import Settings, prepare
from sessionrec_jax.data.sources import synthetic
from sessionrec_jax.errors import InputError
from sessionrec_jax.model import sessionrec
from sessionrec_jax.partition import make_mesh, put_batch, put_replicated
from sessionrec_jax.recommend import log_histories, read_histories, recommend
from sessionrec_jax.restore import restore
from sessionrec_jax.runfolder import claim, write_json
from sessionrec_jax.train import resolve, train

SMALL = {
    "data.rows": 8, "data.sessions_per_row": 8,
    "model.width": 8, "model.layers": 1, "model.id_width": 8, "model.side_width": 4,
    "loss.negatives": 32, "mesh.data": 1, "train.epochs": 3.0,
    "optim.learning_rate_peak": 1e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A prepared log of 64 items whose ids are text, in another order than the dense ids."""
    raw = synthetic.read(synthetic.Options(users=150, base=4, depth=3, sessions_mean=6.0, sessions_max=20, seed=2))
    text = pl.format("item {}", (pl.col("item_id") * 37) % 101).alias("item_id")
    raw = dataclasses.replace(
        raw, exposures=raw.exposures.with_columns(text), items=raw.items.with_columns(text), truth=None
    )
    return prepare(raw, tmp_path_factory.mktemp("data") / "log", Settings(validation_users=20, test_users=60))


@pytest.fixture(scope="module")
def trained(shop, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    result = train(resolve(replace(Config(), SMALL), shop), shop, run_dir, quiet=True)
    write_json(run_dir / "row.json", {"status": "done"})
    return run_dir, result


@pytest.fixture(scope="module")
def run(trained):
    return restore(trained[0])


def as_json(prepared, user, first_session, last_session):
    """Stored sessions [first, last) as a line of a histories file."""
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
    return {"user": user, "sessions": sessions}


def written(path, lines):
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def lines_of(run, histories, k):
    return list(recommend(run, histories, k, quiet=True))


# --- restoring -----------------------------------------------------------------------------------------------------


def test_restored_parameters_are_the_trained_ones(run, trained):
    jax.tree.map(np.testing.assert_array_equal, run.params, trained[1].params)
    assert run.step == trained[1].steps
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
    with pytest.raises(InputError, match="no run folder"):
        restore(tmp_path)
    claim(tmp_path / "begun", run.config)
    with pytest.raises(InputError, match="no checkpoint yet"):
        restore(tmp_path / "begun")
    assert not (tmp_path / "begun/checkpoints").exists()
    claim(tmp_path / "moved", replace(run.config, {"data.path": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="say with --data where it is"):
        restore(tmp_path / "moved")
    other = prepare(synthetic.read(synthetic.Options(users=100, base=4, depth=3)), tmp_path / "other", Settings())
    with pytest.raises(InputError, match="fingerprint"):
        restore(trained[0], other.path)
    assert restore(trained[0], shop.path).step == run.step


# --- recommending --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("k", [1, 5, 20, 34])
def test_top_k_equals_a_full_sort(devices, k):
    """Chunks shorter and longer than k, and ties, which stand in the catalogue's order."""
    rng = np.random.default_rng(k)
    e_CND, query_BD = rng.integers(-2, 3, (5, 7, 3)).astype(np.float32), rng.integers(-2, 3, (16, 3)).astype(np.float32)
    bias_CN = rng.integers(0, 2, (5, 7)).astype(np.float32)
    bias_CN[0, 0] = -np.inf  # padding
    item_BK, log_prob_BK = module._make_top_k(make_mesh(Mesh(devices)), k)(e_CND, bias_CN, query_BD)
    score_BV = query_BD @ e_CND.reshape(35, 3).T + bias_CN.reshape(35)
    best_BK = np.argsort(-score_BV, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(item_BK, best_BK)
    log_prob_BV = score_BV - np.log(np.exp(score_BV.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(log_prob_BK, np.take_along_axis(log_prob_BV, best_BK, axis=1), atol=1e-5)
    assert 0 not in np.asarray(item_BK)


def log_probs_of_the_last_targets(run):
    """Over all items, for the last session of each test window, by the batches that evaluation reads."""
    side = put_replicated(run.catalogue.side, run.mesh)
    e_VD = sessionrec.embed(run.spec, run.params, jnp.arange(run.spec.ids), side)
    queries_of = jax.jit(jax.vmap(lambda shard: sessionrec.apply(run.spec, run.params, shard, side)[1].retrieval_SD))
    found = []
    for batch in eval_batches(run.config, run.prepared, shape_of(run.config, run.mesh.size), TEST):
        inputs, _ = put_batch(batch, run.mesh)
        score_SV = queries_of(inputs)[0] @ e_VD.T + run.params["heads"]["item_bias"].at[0].set(-jnp.inf)
        log_prob_RLV = jax.nn.log_softmax(score_SV).reshape(*batch.user_of_session_GRL.shape[1:], -1)
        for row, user_L in enumerate(batch.user_of_session_GRL[0]):
            for user in range(1, user_L.max(initial=0) + 1):
                found.append(np.asarray(log_prob_RLV[row, np.flatnonzero(user_L == user)[-2]]))
    return found


def test_a_history_of_the_log_given_as_json_scores_as_the_logs_own_batches_do(run, tmp_path):
    packer = eval_batches(run.config, run.prepared, shape_of(run.config, run.mesh.size), TEST).packer
    cut, order = packer.cut, packer.epoch(0).window_P
    given = [as_json(run.prepared, int(w), cut.first_W[w], cut.last_W[w] - 1) for w in order]
    histories = read_histories(written(tmp_path / "users.jsonl", given), run.prepared)
    answers = lines_of(run, histories, run.catalogue.items)
    expected = log_probs_of_the_last_targets(run)
    dense = {item: place for place, item in enumerate(run.prepared.item_ids(), 1)}
    assert len(answers) == len(expected) > 60
    for line, answer, log_prob_V in zip(given, answers, expected, strict=True):
        assert answer["user"] == line["user"]
        assert (answer["unknown_items"], answer["sessions_used"]) == (0, len(line["sessions"]))
        got_V = np.full(run.spec.ids, -np.inf)
        got_V[[dense[item] for item in answer["items"]]] = answer["scores"]
        np.testing.assert_allclose(got_V, log_prob_V, atol=1e-5)
    assert len({tuple(answer["items"]) for answer in answers}) > 20  # the model listens to its history


def test_the_whole_stored_history_of_the_logs_users(run, tmp_path):
    offsets = run.prepared.arrays().user_session_offsets_U1
    ids = pl.read_parquet(run.prepared.path / "users.parquet")["user_id"].to_list()
    given = [as_json(run.prepared, ids[u], *offsets[u : u + 2]) for u in range(40)]
    answers = lines_of(run, log_histories(run.prepared, 40), 10)
    same = lines_of(run, read_histories(written(tmp_path / "users.jsonl", given), run.prepared), 10)
    assert answers == same
    assert max(np.diff(offsets[:41])) > 7 == max(answer["sessions_used"] for answer in answers)


def test_only_the_newest_sessions_count(run, tmp_path):
    offsets = run.prepared.arrays().user_session_offsets_U1
    user = int(np.argmax(np.diff(offsets)))
    long = as_json(run.prepared, 0, *offsets[user : user + 2])
    short = {"user": 0, "sessions": long["sessions"][-7:]}
    one, other = lines_of(run, read_histories(written(tmp_path / "users.jsonl", [long, short]), run.prepared), 10)
    assert one == other


def test_k_items_are_the_first_of_more_and_devices_change_nothing(run):
    few, all_items = (lines_of(run, log_histories(run.prepared, 0), k) for k in (5, run.catalogue.items))
    eight = make_mesh(Mesh(8))
    spread = run._replace(mesh=eight, params=put_replicated(jax.device_get(run.params), eight))
    for line, all_line, line_of_eight in zip(
        few, all_items, lines_of(spread, log_histories(run.prepared, 0), 5), strict=True
    ):
        assert line["items"] == all_line["items"][:5]
        assert sorted(all_line["items"]) == sorted(run.prepared.item_ids())
        np.testing.assert_allclose(line["scores"], line_of_eight["scores"], atol=1e-5)
        np.testing.assert_allclose(np.exp(all_line["scores"]).sum(), 1, atol=1e-5)


def test_unknown_items_are_counted_and_change_nothing(run, tmp_path):
    known = as_json(run.prepared, "plain", 0, 3)
    strange = [{"item": "never seen", "clicked": True}, {"item": 12, "clicked": None, "feedback": "anchor"}]
    mixed = {"user": "mixed", "sessions": [strange, *([*session, strange[0]] for session in known["sessions"])]}
    nothing = {"user": None, "sessions": [strange, []]}
    never = {"user": {"id": 7}, "sessions": []}
    path = written(tmp_path / "users.jsonl", [known, nothing, mixed, never])
    plain, empty, other, silent = lines_of(run, read_histories(path, run.prepared), 6)
    assert [line["unknown_items"] for line in (plain, empty, other, silent)] == [0, 2, 5, 0]
    assert [line["user"] for line in (plain, empty, other, silent)] == ["plain", None, "mixed", {"id": 7}]
    assert "fallback" not in plain
    for name in ("items", "scores", "sessions_used"):
        assert plain[name] == other[name]
        assert empty[name] == silent[name]
    assert empty["fallback"] == silent["fallback"] == "popularity"
    log_popularity_V = run.catalogue.log_popularity_V
    by_clicks = np.argsort(-log_popularity_V[1:], kind="stable")[:6]
    assert empty["items"] == [run.prepared.item_ids()[int(place)] for place in by_clicks]
    np.testing.assert_allclose(empty["scores"], log_popularity_V[1:][by_clicks], atol=1e-5)


GOOD = {"item": "item 37", "clicked": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ('{"user": NaN, "sessions": []}', "NaN is not a JSON number"),
        ("[1]", "wanted an object with sessions, user"),
        ({"sessions": []}, "lacks 'user'"),
        ({"user": 1, "sesions": []}, "lacks 'sessions'; did you mean 'sesions'"),
        ({"user": 1, "sessions": [GOOD]}, "a list of sessions, each a list"),
        ({"user": 1, "sessions": [[GOOD], ["item 37"]]}, "session 2: wanted an object with clicked, item"),
        ({"user": 1, "sessions": [[{"item": "item 37"}]]}, "session 1 lacks 'clicked'"),
        ({"user": 1, "sessions": [[GOOD | {"feedbck": "anchor"}]]}, "did you mean 'feedback'"),
        ({"user": 1, "sessions": [[GOOD | {"item": 1.5}]]}, "item is 1.5"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": 1}]]}, "clicked is 1; wanted true, false, or null"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": None}]]}, "no feedback 'context' for context; known: anchor"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": None, "feedback": "ancor"}]]}, "did you mean 'anchor'"),
        ({"user": 1, "sessions": [[GOOD | {"clicked": None, "feedback": 2}]]}, "feedback is 2; wanted text"),
    ],
)
def test_a_malformed_line_is_named(run, tmp_path, line, message):
    text = line if isinstance(line, str) else json.dumps(line)
    path = tmp_path / "users.jsonl"
    path.write_text(json.dumps({"user": 0, "sessions": [[GOOD]]}) + f"\n{text}\n")
    with pytest.raises(InputError, match=r"users\.jsonl, line 2") as refused:
        read_histories(path, run.prepared)
    assert message in str(refused.value)


def test_refusals(run, tmp_path):
    histories = log_histories(run.prepared, 3)
    for k in (0, run.catalogue.items + 1):
        with pytest.raises(InputError, match=f"the catalogue has {run.catalogue.items} items"):
            recommend(run, histories, k)
    with pytest.raises(InputError, match="has 150 users"):
        log_histories(run.prepared, 151)
    with pytest.raises(InputError, match="cannot be read"):
        read_histories(tmp_path / "missing.jsonl", run.prepared)
    with pytest.raises(InputError, match="holds no history"):
        read_histories(written(tmp_path / "empty.jsonl", []), run.prepared)
    long = {"user": "eager", "sessions": [[GOOD], [GOOD] * (run.config.data.items_per_row + 1)]}
    with pytest.raises(InputError, match="last session of user 'eager' has"):
        recommend(run, read_histories(written(tmp_path / "long.jsonl", [long]), run.prepared), 5)


def test_command_line(trained, run, tmp_path, capsys):
    run_dir, out = str(trained[0]), tmp_path / "top.jsonl"
    assert main(["recommend", run_dir, "--log-users", "4", "--k", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["recommend", run_dir, "--log-users", "4", "--k", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    assert [json.loads(line) for line in printed.splitlines()] == lines_of(run, log_histories(run.prepared, 4), 3)
    users = written(tmp_path / "users.jsonl", [{"user": 1, "sessions": [[GOOD]]}, {"user": 2}])
    assert main(["recommend", run_dir, "--histories", str(users), "--out", str(tmp_path / "never.jsonl")]) == 2
    assert "line 2 lacks 'sessions'" in capsys.readouterr().err
    assert main(["recommend", run_dir]) == 2
    assert "--histories users.jsonl or --log-users N" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["top.jsonl", "users.jsonl"]
