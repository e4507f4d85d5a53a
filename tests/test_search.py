"""Approximate search: the index finds what exact search finds, up to the recall that it was measured to have."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from test_export import SMALL, untrained
from test_service import ask, same, start, user_of

from experiments.__main__ import main
from sessionrec_jax.errors import InputError
from sessionrec_jax.serving import search as module
from sessionrec_jax.serving.export import INDEX, export, lengths
from sessionrec_jax.serving.exported import ExportedModel
from sessionrec_jax.serving.histories import log_histories
from sessionrec_jax.serving.search import Index, measured

ITEMS, WIDTH, DEPTH, NOISE = 3_000, 8, 20, 0.05


def catalogue(topics: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns item vectors around `topics` centres, biases of a power law, and queries. Rows 0 and the last are no
    items."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((topics, WIDTH))
    vector = centre[rng.integers(topics, size=ITEMS + 2)] + NOISE * rng.standard_normal((ITEMS + 2, WIDTH))
    bias = -np.log(1.0 + rng.permutation(ITEMS + 2))
    bias[[0, -1]] = -np.inf
    query = centre[rng.integers(topics, size=200)] + NOISE * rng.standard_normal((200, WIDTH))
    return vector.astype(np.float32), bias.astype(np.float32), query.astype(np.float32)


def exact(vector, bias, query, k=DEPTH) -> np.ndarray:
    return np.argsort(-(query @ vector.T + bias), axis=1, kind="stable")[:, :k]


def test_the_card_has_the_recall_of_other_histories_than_those_that_chose():
    vector, bias, query = catalogue(40)
    best = exact(vector, bias, query)
    index, found = measured(vector, bias, query, best)
    again, _ = index.best(query[1::2], DEPTH)
    recall = np.mean([np.isin(one, other).mean() for one, other in zip(best[1::2], again, strict=True)])
    assert found["recall"] == pytest.approx(recall)
    assert module.LEAST_RECALL <= found["recall"] <= 1
    assert (found["histories"], found["depth"]) == (100, DEPTH)
    assert found["lists_read"] * 4 <= found["lists"]
    other, _ = measured(vector, bias, query, best)
    np.testing.assert_array_equal(other.best(query, DEPTH)[0], index.best(query, DEPTH)[0])


def test_a_catalogue_without_near_items_is_refused_with_the_numbers():
    rng = np.random.default_rng(1)
    vector = rng.standard_normal((ITEMS, 64)).astype(np.float32)
    bias, query = np.zeros(ITEMS, np.float32), rng.standard_normal((100, 64)).astype(np.float32)
    with pytest.raises(InputError, match=r"finds 0\.\d+ of the exact best 20 items of 50 histories when it reads 13"):
        measured(vector, bias, query, exact(vector, bias, query))


def test_when_every_list_is_read_the_answer_is_exact_and_of_equal_scores_the_lower_id_is_first():
    vector, bias, query = catalogue(40)
    vector[100:300], bias[100:300] = vector[100], 0.5  # 200 items that tie, the best of many queries
    index = Index.build(vector, bias)
    index.lists.nprobe = index.lists.nlist
    item, score = index.best(query, ITEMS)
    wanted = np.take_along_axis(query @ vector.T + bias, item, axis=1)
    np.testing.assert_allclose(score, wanted, atol=1e-4)
    assert all(set(found) == set(range(1, ITEMS + 1)) for found in item)  # no row that is no item
    for found in item:
        tied = found[(found >= 100) & (found < 300)]
        np.testing.assert_array_equal(tied, np.arange(100, 300))


def test_items_left_out_never_appear_and_the_next_best_take_their_places():
    vector, bias, query = catalogue(40)
    best = exact(vector, bias, query[:3], 2 * DEPTH)
    index = Index.build(vector, bias)
    index.lists.nprobe = index.lists.nlist
    history = np.repeat([0, 2, 3], [DEPTH, 1, 5])  # the last five are padding
    item = np.concatenate([best[0, :DEPTH], best[2, :1], best[1, :5]])
    found, _ = index.best(query[:3], DEPTH, (history, item))
    np.testing.assert_array_equal(found[0], best[0, DEPTH:])
    np.testing.assert_array_equal(found[1], best[1, :DEPTH])
    np.testing.assert_array_equal(found[2], best[2, 1 : DEPTH + 1])
    everything = np.zeros(ITEMS, int), np.arange(1, ITEMS + 1)
    assert (index.best(query[:1], DEPTH, everything)[1] == -np.inf).all()


# --- an exported model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(log, tmp_path_factory) -> Path:
    """A model with an index. So few items have few lists, and all of them may be read."""
    to = tmp_path_factory.mktemp("exported") / "MODEL"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_READ", 1)
        export(untrained(log, SMALL | {"model.sequence_encoder": "hstu"}), None, to, k=10, search="approximate")
    return to


@pytest.fixture(scope="module")
def models(folder) -> tuple[ExportedModel, ExportedModel]:
    return ExportedModel.read(folder), ExportedModel.read(folder, "approximate")


@pytest.mark.parametrize("seen", ["kept", "masked"])
def test_answers_are_the_exact_ones_up_to_the_recall_with_logits(models, log, seen):
    exactly, approximate = models
    histories = log_histories(log, 60)
    found, shares = list(approximate.answers(histories, 10, seen)), []
    for wanted, answer in zip(exactly.answers(histories, 10, seen), found, strict=True):
        shares.append(np.isin(wanted["items"], answer["items"]).mean())
        assert "scores" not in answer  # whoever wants log probabilities must not take these for them
        if wanted["items"] == answer["items"]:
            normaliser = np.subtract(answer["logits"], wanted["scores"])
            np.testing.assert_allclose(normaliser, normaliser[0], atol=1e-4)
    assert np.mean(shares) >= module.LEAST_RECALL
    assert len({tuple(answer["items"]) for answer in found}) > 20
    if seen == "masked":
        exposed = [set(log_items(histories, user)) for user in range(60)]
        ids = log.item_ids().to_list()
        assert not any(exposed[user] & {ids.index(item) + 1 for item in found[user]["items"]} for user in range(60))


def log_items(histories, user) -> np.ndarray:
    """Returns the items that a user was shown, context left out."""
    of_user = slice(*histories.log.user_item_offsets_U1[user : user + 2])
    return histories.log.item_N[of_user][histories.log.feedback_N[of_user] <= 1]


def test_short_and_long_histories_have_programs_of_their_own_with_the_same_answers(models, log):
    approximate = models[1]
    assert list(approximate.queries) == lengths(approximate.answering.limits)
    short, long = approximate.queries
    assert (short[0] < long[0], short[1] < long[1]) == (True, True)
    users = [user_of(4 * number, log) for number in range(3)]  # one session each
    called = []
    together = ExportedModel(**{**vars(approximate), "queries": {
        most: lambda *given, most=most: called.append(most) or approximate.queries[most](*given)
        for most in approximate.queries
    }})  # fmt: skip
    alone = together.recommend(users, 10, places=4)
    assert called == [short]
    many = {"user": 1, "sessions": user_of(3, log)["sessions"] * 2, "times": [1_700_000_000] * 8}
    with_long = together.recommend([*users, many], 10, places=4)
    assert called[1:] == [long]
    for one, other in zip(alone, with_long, strict=False):
        assert one["items"] == other["items"]
        np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-4)


def test_the_card_and_health_have_the_recall_and_the_service_answers_like_the_model(folder, models, log, capsys):
    found = json.loads((folder / "model.json").read_text())["search"]
    assert f"finds {found['recall']:.4f} of the exact best" in (folder / "README.md").read_text()
    process, port = start(folder, "--search", "approximate", "--batch", "2")
    try:
        _, health = ask(port, None, "GET", "/health")
        assert (health["search"], health["search_recall"]) == ("approximate", found["recall"])
        for number, seen in ((1, "kept"), (2, "masked")):
            [wanted] = models[1].recommend([user_of(number, log)], 7, seen)
            _, answer = ask(port, user_of(number, log, k=7, seen=seen))
            answer["scores"], wanted["scores"] = answer.pop("logits"), wanted.pop("logits")
            same(answer, wanted)
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


def test_a_folder_without_an_index_or_with_that_of_another_model_is_refused(folder, log, tmp_path, capsys, monkeypatch):
    export(untrained(log, SMALL), None, tmp_path / "EXACT", k=10)
    assert main(["serve", str(tmp_path / "EXACT"), "--port", "0", "--search", "approximate"]) == 2
    assert "EXACT has no index; `sessionrec export RUN --to DIR --search approximate`" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "MODEL")
    Index.build(*catalogue(3)[:2]).write(tmp_path / "MODEL" / INDEX)
    assert main(["serve", str(tmp_path / "MODEL"), "--port", "0", "--search", "approximate"]) == 2
    assert f"{INDEX} is not as it was written" in capsys.readouterr().err
    assert main(["serve", str(folder), "--search", "exactly"]) == 2
    assert "exact" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["serve", str(folder), "--port", "0", "--search", "approximate"]) == 2
    assert 'this needs faiss, which is not installed: pip install "sessionrec-jax[search]"' in capsys.readouterr().err
    with pytest.raises(ImportError):
        export(untrained(log, SMALL), None, tmp_path / "NEW", search="approximate")
    assert not (tmp_path / "NEW").exists()
