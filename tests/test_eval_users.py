"""The number of held-out users that is chosen where data.eval_users is auto."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.plans import PLANS
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace, run_id
from sessionrec_jax.data.batches import eval_users
from sessionrec_jax.data.codes import TEST, VALIDATION
from sessionrec_jax.data.resolve import resolve, without_facts_of_log
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation import eval_users as chooser
from sessionrec_jax.evaluation.eval_users import SHARE, with_eval_users
from sessionrec_jax.row import run


@pytest.fixture(scope="module")
def config(config):
    """The small configuration, with the number still to be chosen."""
    return replace(config, {"data.eval_users": "auto"})


@pytest.fixture
def few(monkeypatch):
    """Lets a log of 20 held-out users be one whose evaluation is limited."""
    monkeypatch.setattr(chooser, "FEWEST", 2)


def chosen(config, log):
    return with_eval_users([config], log).configs[0]


def test_a_log_of_few_held_out_users_is_scored_whole(config, log):
    assert config.data.eval_users == "auto"
    found = with_eval_users([replace(config, {"train.epochs": 0.01})], log)
    assert found.configs[0].data.eval_users == 0
    assert found.sentence is None
    assert run_id(found.configs[0]) == run_id(replace(config, {"train.epochs": 0.01, "data.eval_users": 0}))


def test_the_number_is_the_largest_of_two_digits_that_costs_a_fifth_of_training(config, log, few):
    users = len(log.users_of(TEST))
    by_epochs = {}
    for epochs in (0.02, 0.1, 0.2, 0.4, 0.8, 1.6, 100.0):
        config = replace(config, {"train.epochs": epochs})
        found, cost = with_eval_users([config], log), chooser._cost(config, log)
        by_epochs[epochs] = number = found.configs[0].data.eval_users
        affordable = SHARE * cost.training / cost.evaluating_a_user
        assert (number or users) == min(users, max(2, int(affordable)))
        assert found.configs[0].data.eval_users_auto
        assert (found.sentence is None) == (number == 0)
    assert by_epochs[0.02] == 2  # with fewer, no two runs could be compared
    assert by_epochs[100.0] == 0
    assert len(set(by_epochs.values())) > 3


def test_validations_and_the_catalogue_cost_and_shown_items_do_not(config, log, few):
    cost = chooser._cost(config, log).evaluating_a_user
    assert chooser._cost(replace(config, {"train.validations": 3}), log).evaluating_a_user > 2 * cost
    assert chooser._cost(replace(config, {"data.eval_candidates": "shown"}), log).evaluating_a_user < cost


FRESH = {
    "data.fresh": "expected", "data.fresh_sessions": 5000, "data.eval_candidates": "shown",
    "loss.retrieval": "none", "model.scored_by": ("category",),
    "model.clicked_in_input": False, "model.ignored_in_input": False,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{"paradigm": "nipp_plus"}, FRESH])
def test_other_paradigms_and_drawn_sessions_have_a_cost(log, few, changes):
    config = resolve(replace(Config(), {"mesh.data": 1} | changes), log)
    assert 0 <= chosen(config, log).data.eval_users <= len(log.users_of(TEST))


def test_a_number_that_is_given_stays(config, log, few):
    for number in (0, 7):
        given = replace(config, {"data.eval_users": number})
        found = with_eval_users([given], log)
        assert found.configs == [given]
        assert found.sentence is None


@pytest.mark.slow
def test_only_the_users_that_are_scored_count(config, log, few, tmp_path):
    row = run(replace(config, {"train.epochs": 0.3}), tmp_path / "RUN", "test", quiet=True)
    number = row["eval_users"]
    assert 2 <= number < len(log.users_of(TEST))
    flat = log.arrays()
    first, end = (flat.user_session_offsets_U1[log.users_of(TEST)[:number] + n] for n in (0, 1))
    targets = sum(np.count_nonzero(flat.session_role_S[a + 1 : b] == TEST) for a, b in zip(first, end, strict=True))
    assert 0 < row["ranked_sessions"] <= targets


def test_another_log_chooses_again(config, log, few):
    config = chosen(replace(config, {"train.epochs": 0.3}), log)
    assert config.data.eval_users > 0
    assert len(eval_users(config, log, VALIDATION)) == config.data.eval_users
    assert without_facts_of_log(config).data.eval_users == "auto"
    assert without_facts_of_log(replace(config, {"data.eval_users_auto": False})).data.eval_users > 0


def test_the_runs_of_a_plan_score_the_same_users(log, few, capsys):
    base = replace(Config(), {"data.path": str(log.path), "data.rows": 8, "data.sessions_per_row": 16, "mesh.data": 1})
    plan = PLANS.find("grid")(users=(20, 40, 80), sizes=("xxs", "s"), epochs=(0.1,), law="none")
    (number,) = {config.data.eval_users for config in plan.lay_out(base, log).configs}
    assert 2 <= number < len(log.users_of(TEST))
    assert f"the first {number} of {len(log.users_of(TEST))} held-out users" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["automatic", -1, 1.5, True])
def test_another_word_or_number_is_refused(value, log):
    with pytest.raises(InputError, match="users is"):
        resolve(replace(Config(), {"data.eval_users": value}), log)
