"""A Config and a prepared log meet: the settings that only the log can decide are filled in."""

from __future__ import annotations

from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import AUTO, Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import train_users, train_windows
from sessionrec_jax.data.columns import item_columns, session_context
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.windows import items_per_row
from sessionrec_jax.errors import InputError

_STEPS_OF_EPOCH, _MOST_ROWS = 64, 32
"""The steps that one epoch has at least, and the rows that a batch has at most, where data.rows is 0."""
_FRESH_SESSIONS = 2_048
"""Sessions of a step that draws them, where data.rows is 0: on a device, larger steps cost less a session."""


def resolve(config: Config, log: Prepared) -> Config:
    """Returns `config` with `data.path`, `data.fingerprint`, `data.items_per_row` and `data.rows` filled in from the
    prepared log.

    A resolved Config comes back unchanged. Raises InputError if the Config cannot run, or does not fit the log.
    """
    check(config)
    if config.data.fingerprint not in ("", log.fingerprint):
        raise InputError(
            f"{log.path} has the fingerprint {log.fingerprint}, the run was configured for {config.data.fingerprint}: "
            "the log was prepared again since. Start a new run folder."
        )
    # These three raise if the log has fewer users than asked for, or lacks a named column.
    train_users(config, log)
    item_columns(config, log)
    session_context(config, log)
    _check_input(config, len(log.feedback_names) > 2)
    if config.loss.rank_labels == "probability" and not log.has_click_probability:
        raise InputError(
            f"--loss.rank-labels is probability, but {log.path} was prepared without a column click_probability; "
            "prepare it with one, or use --loss.rank-labels clicks"
        )
    if config.loss.alpha and log.manifest["click_rate"] == 1:
        raise InputError(
            f"every exposure of {log.path} is a click, so the rank loss has nothing to rank them against; wanted "
            "--loss.alpha 0"
        )
    items = config.data.items_per_row or items_per_row(config, log.arrays(), log.manifest["items_per_session_mean"])
    config = replace(config, {"data.path": log.where, "data.fingerprint": log.fingerprint, "data.items_per_row": items})
    return config if config.data.rows else with_rows(config, rows_of_batch(config, log))


def _check_input(config: Config, has_context: bool) -> None:
    """Raises InputError if no exposure would enter the model. `has_context`: the log has exposures without a label."""
    model = config.model
    if config.paradigm == "nipp" and not model.clicked_in_input:
        raise InputError(
            "--paradigm nipp sees clicked items alone, and --model.no-clicked-in-input is given: nothing would enter "
            "the model; leave it out"
        )
    if not (model.clicked_in_input or model.ignored_in_input or has_context):
        raise InputError(
            "--model.no-clicked-in-input and --model.no-ignored-in-input are both given, and the log has no other kind "
            "of exposure: nothing would enter the model; leave one of them out"
        )


def rows_of_batch(config: Config, prepared: Prepared) -> int:
    """Returns the default of `data.rows`: the largest power of two, at most 32, with which one pass over the training
    sessions takes at least 64 steps; 1 where the log is too small for that. A step that draws its sessions has 2,048.

    It does not depend on the devices, so that a run may go on on others. Nothing is packed: the windows fill at least
    as many rows as their sessions and their items need. `data.items_per_row` of `config` is filled in.
    """
    if config.data.fresh != "no":
        return max(1, _FRESH_SESSIONS // (config.data.slots - 1))
    windows, data = train_windows(config, prepared), config.data
    rows = max(windows.sessions_W.sum() // data.sessions_per_row, windows.items_W.sum() // data.items_per_row)
    return min(_MOST_ROWS, 1 << max(0, int(rows // _STEPS_OF_EPOCH).bit_length() - 1))


def with_rows(config: Config, rows: int) -> Config:
    """Returns `config` with a value of `data.rows` that comes from the log."""
    return replace(config, {"data.rows": rows, "data.rows_auto": True})


def without_facts_of_log(config: Config) -> Config:
    """Returns `config` without what a run took from its log, so that another log can fill it in."""
    rows = 0 if config.data.rows_auto else config.data.rows
    eval_users = AUTO if config.data.eval_users_auto else config.data.eval_users
    taken = {"data.fingerprint": "", "data.items_per_row": 0, "data.rows": rows, "data.rows_auto": False,
             "data.eval_users": eval_users, "data.eval_users_auto": False}  # fmt: skip
    return replace(config, taken)
