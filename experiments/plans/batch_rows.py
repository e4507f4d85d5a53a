"""One value of `data.rows` and one of `data.eval_users` for all runs of a plan: runs of one law or one comparison share
one batch size, and are measured on the same users."""

from __future__ import annotations

from collections.abc import Iterable

from doors.terminal import say
from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.store import Prepared


def resolved(configs: Iterable[Config], prepared: Prepared) -> list[Config]:
    """Returns the configs, resolved. Where they leave `data.rows` to the log, all get the value of the smallest data
    among them, so that no run is short of steps. The largest data then take more steps than they would alone: give
    `--data.rows` where that is too slow."""
    from sessionrec_jax.data.resolve import resolve, with_rows  # starts jax, which --help need not wait for

    configs = list(configs)
    rows = fewest(configs, prepared)
    return [resolve(config if config.data.rows else with_rows(config, rows), prepared) for config in configs]


def laid_out(configs: Iterable[Config], prepared: Prepared) -> list[Config]:
    """Returns the configs of a whole plan, resolved, with one number of held-out users; says if that is not all."""
    from sessionrec_jax.evaluation.eval_users import with_eval_users  # starts jax, which --help need not wait for

    chosen = with_eval_users(resolved(configs, prepared), prepared)
    if chosen.sentence:
        say(chosen.sentence)
    return chosen.configs


def fewest(configs: Iterable[Config], prepared: Prepared) -> int:
    """Returns the smallest `data.rows` that the log gives to the configs that leave it open; 0 if all have one."""
    from sessionrec_jax.data.resolve import resolve

    open_ones = {(config.data, config.paradigm): config for config in configs if not config.data.rows}
    return min((resolve(config, prepared).data.rows for config in open_ones.values()), default=0)
