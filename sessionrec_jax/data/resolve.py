"""A Config and a prepared log meet: the settings that only the log can decide are filled in."""

from __future__ import annotations

from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.batches import items_per_row, train_users
from sessionrec_jax.data.columns import session_context, side_columns
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.errors import InputError


def resolve(config: Config, log: Prepared) -> Config:
    """Returns `config` with `data.path`, `data.fingerprint` and `data.items_per_row` filled in from the prepared log.

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
    side_columns(config, log)
    session_context(config, log)
    if not (config.model.clicked_in_input or config.model.ignored_in_input or len(log.feedback_names) > 2):
        raise InputError(
            "--model.no-clicked-in-input and --model.no-ignored-in-input are both given, and the log has no other kind "
            "of exposure: nothing would enter the model; leave one of them out"
        )
    items = config.data.items_per_row or items_per_row(config, log.arrays(), log.manifest["items_per_session_mean"])
    path = str(log.path.resolve())
    return replace(config, {"data.path": path, "data.fingerprint": log.fingerprint, "data.items_per_row": items})
