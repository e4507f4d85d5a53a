"""Learning-rate schedule and the AdamW chain. Our choice throughout: the paper names no optimizer."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sessionrec_jax.config.settings import Model, Optim
from sessionrec_jax.devices.sharding import is_table
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.parameters import learning_rate_multiplier, parameter


def learning_rate(config: Optim, step: int, steps: int) -> float:
    """Returns the learning rate of a step: linear warm-up, then the schedule's way to zero at the end of `steps`. It is
    computed on the host, so that runs of different length, rate or schedule share one program."""
    warmup_steps = _warmup_steps(config, steps)
    if step < warmup_steps:
        return config.learning_rate_peak * (step + 1) / warmup_steps
    if config.schedule == "cooldown":
        start = cooldown_start(config, steps)
        return config.learning_rate_peak * (1 - math.sqrt(max(0, step - start) / (steps - start)))
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return config.learning_rate_peak * 0.5 * (1 + math.cos(math.pi * done))


def cooldown_start(config: Optim, steps: int) -> int:
    """Returns the first step of the cooldown of a run of `steps` steps. The steps before it do not depend on the
    length of the run if its warm-up does not."""
    return steps - max(1, round(config.cooldown_fraction * steps))


def check_length(config: Optim, steps: int) -> None:
    """Raises InputError if warm-up and cooldown together are longer than the run."""
    warmup_steps = _warmup_steps(config, steps)
    cooldown_steps = steps - cooldown_start(config, steps) if config.schedule == "cooldown" else 0
    if warmup_steps + cooldown_steps > steps:
        cooldown = f" and a cooldown of {cooldown_steps}" if cooldown_steps else ""
        lower = "--optim.warmup-steps" + (" or --optim.cooldown-fraction" if cooldown_steps else "")
        raise InputError(
            f"a warm-up of {warmup_steps} steps{cooldown} {'do' if cooldown else 'does'} not fit into a run of {steps} "
            f"steps; lower {lower}, or raise --train.epochs"
        )


def _warmup_steps(config: Optim, steps: int) -> int:
    return config.warmup_steps or max(1, round(config.warmup_fraction * steps))


def chain(config: Optim, model: Model) -> optax.GradientTransformation:
    """Returns the optimizer: clipping, then AdamW for the body and `table_rule` for the item tables. Its update is a
    direction, which the caller multiplies by -learning_rate. Under `mup` Adam's part of the body's update has a scale
    for each matrix (parametrization.py).

    A rare row gets a gradient once in hundreds of steps. Adam forgets the gradient's scale in between, so the row jumps
    by the full rate each time; Adagrad does not forget.
    """
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2)
    if model.parametrization == "mup":
        adam = optax.chain(adam, _scale_by_path(model))
    body = optax.chain(adam, optax.add_decayed_weights(config.weight_decay, mask=functools.partial(_decays, model)))
    rule = _scale_by_row_rss() if config.table_rule == "adagrad" else optax.scale_by_adam(config.beta1, config.beta2)
    tables = optax.chain(rule, optax.scale(config.table_rate_ratio))
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.partition({"body": body, "tables": tables}, _groups)
    )


def _groups(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "tables" if is_table(path) else "body", params)


def _decays(model: Model, params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: parameter(model, _name(path)).decays, params)


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(part.key for part in path)


def _scale_by_path(model: Model) -> optax.GradientTransformation:
    def scaled(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf * learning_rate_multiplier(model, _name(path))

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))


def _scale_by_row_rss() -> optax.GradientTransformation:
    """Row-wise Adagrad: divides each row by the root of the summed mean squares of its past gradients (Duchi et al.
    2011; one accumulator for each row as in Naumov et al. 1906.00091)."""

    def init(params: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[:1], jnp.float32), params)

    def update(updates: Any, sums: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        sums = jax.tree.map(lambda g, s: s + jnp.mean(g.reshape(len(g), -1) ** 2, axis=1), updates, sums)
        scale = jax.tree.map(lambda s: jnp.where(s > 0, jax.lax.rsqrt(jnp.where(s > 0, s, 1.0)), 0.0), sums)
        return jax.tree.map(lambda g, r: g * r.reshape(-1, *(1,) * (g.ndim - 1)), updates, scale), sums

    return optax.GradientTransformation(init, update)
