"""What training costs in FLOPs, before a run and after it: the means to compare models at equal compute."""

from __future__ import annotations

from sessionrec_jax import count
from sessionrec_jax.config import Config
from sessionrec_jax.config_values import replace
from sessionrec_jax.data.batches import Packer, shape_of, train_catalogue, train_windows
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.model.sessionrec import Spec
from sessionrec_jax.train import spec_of


def flops_train(config: Config, spec: Spec, items: int, sessions: int, steps: int) -> float:
    """Training FLOPs (count.FLOPS_CONVENTION) of `steps` steps that saw so many packed items and sessions."""
    kinds = (len(spec.side_values), spec.feedback_kinds, spec.positions, spec.session_items, spec.ids)
    return count.flops_train(config.model, config.loss, *kinds, items=items, sessions=sessions, steps=steps)


def flops_per_epoch(config: Config, prepared: Prepared) -> float:
    """Of one epoch of a resolved `config`: what its row will count."""
    config = replace(config, {"train.parts": 1})  # they cost nothing
    cut = train_windows(config, prepared)
    return flops_train(
        config,
        spec_of(config, prepared, train_catalogue(config, prepared)),
        items=int(cut.items_W.sum()),
        sessions=int((cut.last_W - cut.first_W).sum()),
        steps=len(Packer(cut, shape_of(config, 1), 1.0, config.train.seed)),
    )


def at_equal_compute(config: Config, reference: Config, prepared: Prepared) -> Config:
    """`config` for as many epochs as spend the FLOPs of `reference`. Both resolved; epochs to four digits."""
    ratio = flops_per_epoch(reference, prepared) / flops_per_epoch(config, prepared)
    return replace(config, {"train.epochs": float(f"{reference.train.epochs * ratio:.4g}")})
