"""Says whether the nats of a run are those of a calibrated likelihood: its loss has the true distribution as optimum.

Only then can a column of nats be compared with a baseline or an exact floor, and carry a law. Ranks need no
calibration.
"""

from __future__ import annotations

from collections.abc import Iterator

from sessionrec_jax.config.settings import Config, Loss
from sessionrec_jax.registry import RANK_LOSSES


def uncalibrated(config: Config, column: str) -> str | None:
    """Returns why the nats in `column` of the run's row are not calibrated, with the flags to change; None if they are,
    or if the column is not of nats."""
    if "_nats_" not in column:
        return None
    reasons = _of_rank(config.loss) if column.startswith("rank_") else _of_retrieval(config)
    return "; ".join(reasons) or None


def _of_retrieval(config: Config) -> Iterator[str]:
    loss = config.loss
    if loss.retrieval == "none":
        yield "--loss.retrieval none trains no retrieval score; wanted another --loss.retrieval"
        return
    has_other_clicks = config.paradigm == "nspp" or loss.retrieval != "full_softmax"  # draws may equal the target too
    if loss.other_clicks == "masked" and has_other_clicks:
        yield (
            "--loss.other-clicks is masked, so clicked items of one session do not compete; wanted --loss.other-clicks "
            "counted"
        )
    if loss.negatives_from == "in_batch" and loss.retrieval != "full_softmax":
        yield (
            "--loss.negatives-from in_batch draws clicks of the batch, those of the target's own user among them, more "
            "often than the correction for popularity says; wanted --loss.negatives-from mixed"
        )
    if loss.retrieval != "full_softmax" and not loss.log_q and not _draws_uniformly(loss):
        yield (
            f"--loss.no-log-q leaves the scores of {loss.retrieval} without their correction for popularity; wanted "
            "--loss.log-q"
        )


def _draws_uniformly(loss: Loss) -> bool:
    return loss.negatives_from == "uniform" or (loss.negatives_from == "mixed" and loss.negatives_uniform == 1)


def _of_rank(loss: Loss) -> Iterator[str]:
    if not loss.alpha:
        yield "--loss.alpha is 0, so nothing trains the rank score; wanted --loss.alpha above 0"
    elif not RANK_LOSSES.find(loss.rank).is_calibrated:
        calibrated = [name for name in RANK_LOSSES if RANK_LOSSES.find(name).is_calibrated]
        wanted = f"wanted --loss.rank {' or '.join(calibrated)}"
        yield f"--loss.rank {loss.rank} does not fit the log odds of a click; {wanted}"
