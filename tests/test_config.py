"""Settings that cannot run are refused by name, and a run's id contains everything that decides its numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import typing

import pytest

from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import from_dict, replace, run_id, to_dict
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.errors import InputError

WATCHED_ONLY = {
    "data.path", "data.rows_auto", "data.eval_users_auto", "model.attention", "optim.learning_rate_rule", "mesh.data",
    "mesh.fsdp", "mesh.model", "train.microbatches", "train.checkpoint_every_seconds", "train.checkpoints_kept",
    "train.checkpoints_at", "train.begins_from", "train.evaluate_by", "train.log_every_steps", "train.profile_steps",
}  # fmt: skip


def fields(config: Config = Config()) -> dict[str, typing.Any]:  # noqa: B008  a frozen value
    """Returns every setting by its dotted name."""
    found = {}
    for part in dataclasses.fields(config):
        name, room = part.name, getattr(config, part.name)
        if dataclasses.is_dataclass(room):
            found |= {f"{name}.{f.name}": getattr(room, f.name) for f in dataclasses.fields(room)}
        else:
            found[name] = room
    return found


NUMBERS = sorted(
    name for name, value in fields().items() if isinstance(value, (int, float)) and not isinstance(value, bool)
)


def changed(config: Config, name: str) -> Config:
    """Returns `config` with another valid value of one setting."""
    value = fields(config)[name]
    if isinstance(value, tuple):
        return replace(config, {name: (*value, 3 if name == "train.checkpoints_at" else "other")})
    if isinstance(value, bool):
        return replace(config, {name: not value})
    if isinstance(value, str):
        room, _, field = name.rpartition(".")
        kind = type(getattr(config, room)) if room else Config
        choices = typing.get_args(typing.get_type_hints(kind)[field]) or ("other",)
        if choices[0] is int:  # a number, or a word
            return replace(config, {name: 7})
        return replace(config, {name: next(choice for choice in choices if choice != value)})
    return replace(config, {name: value * 2 if value >= 1 else value + (1 if isinstance(value, int) else 1 / 64)})


def test_the_defaults_can_run():
    assert check(Config()) == Config()


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_rule(name):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is -1"):
        check(replace(Config(), {name: -1}))


@pytest.mark.parametrize("name", [name for name in NUMBERS if isinstance(fields()[name], float)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_are_finite(name, value):
    with pytest.raises(InputError, match=f"{name.replace('_', '-')} is {value}; wanted "):
        check(replace(Config(), {name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.sessions_per_row", 1), ("model.width", 0), ("model.heads", 0), ("model.heads", 3),
        ("model.mlp_ratio", 0), ("model.side_width", 0), ("loss.negatives", 0), ("loss.negatives_uniform", 0.0),
        ("loss.negatives_uniform", 1.5), ("optim.learning_rate_peak", 0.0), ("optim.warmup_fraction", 1.0),
        ("optim.clip_norm", 0.0), ("optim.beta1", 1.0), ("optim.beta2", 1.0), ("train.epochs", 0.0),
        ("train.checkpoint_every_seconds", 0.0), ("train.log_every_steps", 0),
    ],
)  # fmt: skip
def test_limits_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is "):
        check(replace(Config(), {name: value}))


@pytest.mark.parametrize(("name", "value"), [("base_width", 128), ("base_layers", 4), ("base_heads", 4)])
def test_a_base_model_is_refused_where_nothing_is_measured_against_it(name, value):
    of_base = {f"model.{name}": value}
    with pytest.raises(InputError, match=f"--model.base-{name[5:]} is {value}, but .*standard.*wanted .*mup, or "):
        check(replace(Config(), of_base))
    mup = replace(Config(), of_base | {"model.parametrization": "mup"})
    assert check(mup) == mup


@pytest.mark.parametrize(("name", "value", "flag"), [
    ("loss.alpha", 0.0, "--loss.alpha is 0"), ("data.eval_seen", "masked", "--data.eval-seen is masked"),
])  # fmt: skip
def test_scoring_the_shown_alone_needs_a_rank_loss_and_masks_nothing(name, value, flag):
    shown = replace(Config(), {"data.eval_candidates": "shown"})
    assert check(shown) == shown
    with pytest.raises(InputError, match=f"{flag}, but --data.eval-candidates shown .*; wanted "):
        check(replace(shown, {name: value}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cooldown_fraction": 0.3}, "--optim.cooldown-fraction is 0.3, but --optim.schedule is cosine.*wanted .* 0.2"),
        ({"schedule": "cooldown", "warmup_fraction": 0.5, "cooldown_fraction": 0.6}, "together longer than the run"),
    ],
)
def test_a_cooldown_needs_its_schedule_and_fits_into_its_run(settings, message):
    with pytest.raises(InputError, match=message):
        check(replace(Config(), {f"optim.{name}": value for name, value in settings.items()}))


def test_gradients_are_summed_in_bfloat16_only_where_the_model_computes_in_it():
    rounded = replace(Config(), {"optim.gradient_sum": "bfloat16", "model.compute": "bfloat16"})
    assert check(rounded) == rounded
    with pytest.raises(InputError, match=r"--optim.gradient-sum is bfloat16, but --model.compute is float32; wanted "):
        check(replace(rounded, {"model.compute": "float32"}))


@pytest.mark.parametrize(("name", "value"), [("id_init_std", 0.0), ("id_dropout", 0.1)])
def test_settings_of_ids_are_refused_without_ids(name, value):
    without = replace(Config(), {"model.id_width": 0})
    assert check(without) == without
    with pytest.raises(InputError, match=f"model.{name} is {value}, but --model.id-width is 0, so there is no ID"):
        check(replace(without, {f"model.{name}": value}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.scored_by": ("categry",)}, r"--model.scored-by categry: did you mean 'category'\?"),
        ({"model.scored_by": ("item_id",), "model.id_width": 0}, "--model.scored-by item_id"),
        ({"model.scored_by": ("digit_0",), "data.side_columns": ("category",)}, "--model.scored-by digit_0"),
    ],
)
def test_items_are_scored_by_what_the_model_sees(log, settings, message):
    with pytest.raises(InputError, match=message):
        resolve(replace(Config(), settings), log)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.session_encoder", "typed_men", "unknown session encoder 'typed_men'; did you mean 'typed_mean'"),
        ("model.sequence_encoder", "lstm", "'lstm'; known: gru, hstu, .*transformer .*--plugin MODULE"),
        ("loss.rank", "pairwse", "unknown rank loss 'pairwse'; did you mean 'pairwise'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name, value, message):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: .*{message}"):
        check(replace(Config(), {name: value}))


def test_an_encoder_without_attention_uses_no_positions():
    message = "--model.positions is rotary, but the sequence encoder gru cannot use it; wanted auto"
    with pytest.raises(InputError, match=message):
        check(replace(Config(), {"model.sequence_encoder": "gru", "model.positions": "rotary"}))


@pytest.mark.parametrize(("base_width", "base_heads"), [(64, 3), (1, 2)])
def test_the_heads_of_a_base_model_divide_its_width(base_width, base_heads):
    of_base = {"model.base_width": base_width, "model.base_heads": base_heads, "model.parametrization": "mup"}
    with pytest.raises(InputError, match=f"--model.base-heads is {base_heads}; wanted a divisor of .* {base_width}"):
        check(replace(Config(), of_base))


def test_all_faults_are_reported_together():
    with pytest.raises(InputError, match=r"--data.rows is -1; .*--train.epochs is 0.0"):
        check(replace(Config(), {"data.rows": -1, "train.epochs": 0.0}))


@pytest.mark.parametrize("name", fields())
def test_a_config_comes_back_from_json(name):
    config = changed(Config(), name)
    assert config != Config()
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", fields())
def test_run_id_names_all_that_can_change_the_numbers_and_nothing_else(name):
    assert (run_id(changed(Config(), name)) == run_id(Config())) == (name in WATCHED_ONLY)


def test_a_run_keeps_its_id_when_a_setting_is_added():
    assert run_id(Config()) == "6ca455840baf"  # as before the first setting that was added to this config version


def test_run_id_does_not_depend_on_the_order_of_overrides():
    one, other = {"model.width": 128, "train.seed": 3}, {"train.seed": 3, "model.width": 128}
    assert run_id(replace(Config(), one)) == run_id(replace(Config(), other))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.widht": 8}, "'widht'; did you mean 'width'"),
        ({"modle.width": 8}, "'modle'; did you mean 'model'"),
        ({"width": 8}, "unknown config section: 'width'"),
        ({"loss.retrieval": "softmax"}, "'softmax'; wanted one of 'sampled_softmax', 'full_softmax'"),
        ({"model.width": 8.0}, "8.0; wanted int"),
        ({"model.width": True}, "True; wanted int"),
        ({"loss.alpha": "1"}, "'1'; wanted float"),
        ({"data.side_columns": "category"}, "'category'; wanted a list of str"),
        ({"data.side_columns": [1]}, r"\[1\]; wanted a list of str"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        replace(Config(), overrides)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["model"].update(widht=8), "'widht'; did you mean 'width'"),
        (lambda d: d.update(modle={}), "'modle'; did you mean 'model'"),
        (lambda d: d["model"].update(width="8"), "model: width is '8'; wanted int"),
        (lambda d: d["loss"].update(other_clicks="dropped"), "'dropped'; wanted one of 'masked', 'counted'"),
        (lambda d: d.update(model=8), "model: wanted an object"),
        (lambda d: d.update(config_version=0), "config_version 0"),
        (lambda d: d.pop("config_version"), "config_version None"),
    ],
)
def test_a_dict_that_does_not_fit_is_refused_with_its_place(edit, message):
    values = to_dict(Config())
    edit(values)
    with pytest.raises(InputError, match=f"runs/a.*{message}"):
        from_dict(values, "runs/a")


def test_an_older_config_reads_as_what_it_was():
    """A later setting has a default that equals the older behaviour; otherwise CONFIG_VERSION grows."""
    values, later = to_dict(Config()), ("parametrization", "base_width", "base_layers", "base_heads")
    values["model"] = {name: value for name, value in values["model"].items() if name not in later}
    assert from_dict(values) == Config()
    assert Config().model.parametrization == "standard"


def test_no_dict_at_all_is_refused():
    with pytest.raises(InputError, match="got list"):
        from_dict([])


def test_whole_numbers_are_accepted_as_fractions():
    assert replace(Config(), {"loss.alpha": 2}).loss.alpha == 2.0
    assert run_id(replace(Config(), {"loss.alpha": 2})) == run_id(replace(Config(), {"loss.alpha": 2.0}))
