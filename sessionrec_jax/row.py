"""Makes the row of a run from its Config: trains, evaluates on validation and test sessions, counts, writes row.json.

row_columns.py documents the columns. A run that fails or diverges has a row too, with its status and without a loss.
"""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import polars as pl

from doors.address import shown
from doors.files import open_own, replacing
from doors.state import Damaged, read_object
from doors.storage import copies
from doors.terminal import say
from sessionrec_jax.config.settings import Config, Optim
from sessionrec_jax.config.values import run_id
from sessionrec_jax.data.batches import train_users
from sessionrec_jax.data.codes import TEST, VALIDATION
from sessionrec_jax.data.counts import target_counts
from sessionrec_jax.data.resolve import resolve
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.data.synthetic.known import known_truth
from sessionrec_jax.devices.matmul_peak import peak_flops_per_second
from sessionrec_jax.devices.processes import is_process_zero, on_process_zero
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.eval_users import with_eval_users
from sessionrec_jax.evaluation.exact import exact_rank_nats
from sessionrec_jax.evaluation.history_spread import history_spread_nats, stuck
from sessionrec_jax.evaluation.measure import counted, measure, validated
from sessionrec_jax.evaluation.segments import Segments, check_segments, segment_columns
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.model import count
from sessionrec_jax.model.spec import Spec
from sessionrec_jax.row_columns import LOSS, METRICS, REFERENCES
from sessionrec_jax.runfolder.files import PER_USER, VALIDATED, claim, read_row, write_json
from sessionrec_jax.runfolder.lock import lock
from sessionrec_jax.runfolder.stopping import NEVER, Stop
from sessionrec_jax.training.checkpoint import steps_in
from sessionrec_jax.training.loop import Diverged, train_together

Row = dict[str, Any]

_METRICS = tuple(column.name for column in METRICS)


class Job(NamedTuple):
    """A run to do."""

    config: Config
    run_dir: Path
    write: Callable[[Path, Row], None] = write_json
    """Writes row.json, or raises if this process may no longer do so."""
    part: float = 1.0
    """Part of the steps after which the run stops. Below 1 it gets no row: RUN/halving.json gets its validation."""


def run(
    config: Config,
    run_dir: Path,
    plan: str,
    *,
    quiet: bool = False,
    stop: Stop = NEVER,
    write: Callable[[Path, Row], None] = write_json,
    part: float = 1.0,
) -> Row:
    """Returns the row of `config`, trained in `run_dir`. Resumes a run that has a checkpoint there; reads the row of a
    run that is done. A run whose loss is no longer a number gets a row with status diverged, and one that never learned
    (evaluation/history_spread.py) status stuck, with its metrics. With a `part` below 1 the
    run stops there, and the result is its validation.

    Raises InputError for settings that cannot run, and Stopped if `stop` asked, after the checkpoint is written.
    """
    (row,) = run_together([Job(config, run_dir, write, part)], plan, quiet=quiet, stop=stop)
    return row


def run_together(jobs: Sequence[Job], plan: str, *, quiet: bool = False, stop: Stop = NEVER) -> list[Row]:
    """Does what `run` does for several runs of one log that can share a program (`train_together`). They are evaluated
    one after the other. A run that diverged gets its row at once. Any other error of a run ends all of them."""
    prepared = open_log(jobs[0].config.data.path)
    jobs = [_resolved(job, prepared, quiet) for job in jobs]
    new = [job.run_dir for job in jobs if not job.run_dir.exists()]
    for job in jobs:
        on_process_zero(functools.partial(claim, job.run_dir, job.config))
    with ExitStack() as alone:
        for job in jobs:
            alone.enter_context(_alone_in(job.run_dir, quiet=quiet))
        rows = {job.run_dir: on_process_zero(functools.partial(read_row, job.run_dir)) for job in jobs}
        left = [job for job in jobs if rows[job.run_dir] is None]

        def end(job: Job, columns: Row) -> None:
            rows[job.run_dir] = row = identity(job.config, plan) | columns
            on_process_zero(lambda: job.write(job.run_dir / "row.json", row))
            copies.push(job.run_dir)

        def diverged(place: int, error: Diverged) -> None:
            end(left[place], {"status": "diverged", "reason": str(error)})

        try:
            trained = left and train_together(
                [(job.config, job.run_dir) for job in left],
                prepared,
                quiet=quiet,
                stop=stop,
                diverged=diverged,
                parts=[job.part for job in left],
            )
        except InputError:
            for run_dir in new:  # else the corrected settings would find the folder taken
                if is_process_zero() and not steps_in(run_dir / "checkpoints"):
                    shutil.rmtree(run_dir)
            raise
        for job, model in zip(left, trained, strict=True):
            if model is None:
                continue
            if job.part < 1:
                rows[job.run_dir] = _validated_so_far(model)
                on_process_zero(functools.partial(_add_validation, job, rows[job.run_dir]))
            else:
                end(job, _measured(model, job.run_dir))
        return [rows[job.run_dir] for job in jobs]


def _resolved(job: Job, prepared: Prepared, quiet: bool) -> Job:
    check_segments("--train.evaluate-by", job.config.train.evaluate_by, prepared, job.config)
    chosen = with_eval_users([resolve(job.config, prepared)], prepared)
    if chosen.sentence and not quiet and is_process_zero():
        say(chosen.sentence)
    return job._replace(config=chosen.configs[0])


def _validated_so_far(model: TrainedModel) -> Row:
    """Returns the validation of a run that stopped after a part of its steps, and what it cost so far."""
    flops = _flops(model, model.step)
    validation = validated(measure(model, VALIDATION), model.config)
    return {"step": model.step, "steps": model.history.steps, "flops_spent": flops, **validation}


def _add_validation(job: Job, found: Row) -> None:
    path = job.run_dir / VALIDATED
    try:
        before = read_object(path, {})
    except (Damaged, FileNotFoundError):
        before = {}  # the parts before this one were validated already, or are validated again
    job.write(path, before | {str(job.part): found})
    copies.push(job.run_dir)


def identity(config: Config, plan: str) -> Row:
    """Returns the columns that are known before a run starts: EVERY_ROW without `status`."""
    model, loss, optim = config.model, config.loss, config.optim
    draws_negatives = loss.retrieval not in ("full_softmax", "none")
    return {
        "run_id": run_id(config),
        "plan": plan,
        "commit": _commit(),
        "seed": config.train.seed,
        "paradigm": config.paradigm,
        "fresh": None if config.data.fresh == "no" else config.data.fresh,
        "session_encoder": model.session_encoder,
        "sequence_encoder": model.sequence_encoder,
        "positions": model.places,
        "width": model.width,
        "layers": model.layers,
        "users_trained": config.data.users or None,
        "window_slots": config.data.slots,
        "batch_sessions": config.data.rows * config.data.sessions_per_row,
        "batch_rows": config.data.rows,
        "epochs_planned": config.train.epochs,
        "learning_rate_peak": optim.learning_rate_peak,
        "learning_rate_rule": _learning_rate_rule(config),
        "learning_rate_schedule": _learning_rate_schedule(optim),
        "table_prior": optim.table_prior,
        "retrieval_loss": loss.retrieval,
        "negatives": loss.negatives if draws_negatives else None,
        "negatives_from": loss.negatives_from if draws_negatives else None,
        "other_clicks": loss.other_clicks,
        "rank_loss": loss.rank if loss.alpha else None,
        "rank_labels": None if loss.rank_labels == "clicks" else loss.rank_labels,
        "alpha": loss.alpha,
        "dataset_fingerprint": config.data.fingerprint,
        "eval_users": config.data.eval_users,
    }


def _learning_rate_schedule(optim: Optim) -> str:
    warmup = f"warm-up {f'{optim.warmup_steps} steps' if optim.warmup_steps else f'{optim.warmup_fraction:g}'}"
    if optim.schedule == "cosine":
        return f"{warmup}, cosine to 0"
    return f"{warmup}, constant, 1 - sqrt to 0 over the last {optim.cooldown_fraction:g}"


def _learning_rate_rule(config: Config) -> str:
    """Returns tuned or halving (at this size), or mup (transferred by it), or fixed."""
    if config.optim.learning_rate_rule != "fixed" or config.model.parametrization != "mup":
        return config.optim.learning_rate_rule
    return "mup"


def _measured(model: TrainedModel, run_dir: Path) -> Row:
    config, history = model.config, model.history
    segments = Segments(config.train.evaluate_by, model, TEST)
    validation, on_test = measure(model, VALIDATION), measure(model, TEST, segments)
    on_process_zero(lambda: _write_per_user(on_test.by_user(), run_dir))
    test = on_test.result()
    row: Row = {"seen_items": config.data.eval_seen, "eval_candidates": config.data.eval_candidates}
    row |= counted(on_test, model.log)
    row |= {f"{name}{part}": test.get(f"{name}{part}") for name in _METRICS for part in ("", "_stderr")}
    row["loss_stderr"] = row[f"{LOSS}_stderr"]
    row |= {column.name: test.get(column.name) for column in REFERENCES}
    row |= validated(validation, config)
    row |= {"best_step": history.best and history.best.step, "parameters_step": model.step}
    row["schedule_fraction"] = model.step / history.steps
    truth = known_truth(model.log)
    row["loss_floor_nats_per_item"] = truth and truth.retrieval_floor_nats_per_item
    row["rank_floor_nats_per_exposure"] = truth and truth.rank_floor_nats_per_exposure
    row["loss_paired_nats_per_item"] = _paired(row, "loss_{}nats_per_item")
    row["rank_paired_nats_per_exposure"] = _paired(row, "rank_{}nats_per_exposure")
    row["rank_exact_nats_per_exposure"] = exact_rank_nats(model)
    row["history_spread_nats"] = spread = history_spread_nats(model)
    why = stuck(history.steps, spread)
    outcome = {"status": "done"} if why is None else {"status": "stuck", "reason": why}
    return outcome | row | _counted(model) | segment_columns(segments.result())


def _paired(row: Row, name: str) -> float | None:
    """Returns the exact floor + the mean difference to the Bayes predictor on the same exposures: the same expectation
    as the plain loss, without the noise of the test sessions' own draws. None if the truth is not known."""
    floor, bayes, loss = (row[name.format(part)] for part in ("floor_", "bayes_", ""))
    return None if floor is None or bayes is None or loss is None else floor + loss - bayes


def _write_per_user(by_user: pl.DataFrame, run_dir: Path) -> None:
    """Writes the model's own metrics by user, for paired comparisons of runs."""
    own = by_user.filter(pl.col("metric").is_in(_METRICS)).with_columns(pl.col("x", "n").cast(pl.Float32))
    with replacing(run_dir / PER_USER) as partial:
        own.write_parquet(partial)


def _counted(model: TrainedModel) -> Row:
    """Returns N, D, C, times and speeds."""
    config, history, seen = model.config, model.history, model.history.counters
    flops = _flops(model, history.steps)
    epochs = seen.target_sessions / history.target_slots
    devices = tuple(model.mesh.devices.flat)
    peak = peak_flops_per_second(devices, config.model.compute)
    return {
        **parameters(model.spec),
        "flops_train": flops,
        "flops_spent": flops - _flops_shared(model),
        "flops_convention": count.FLOPS_CONVENTION,
        **sessions_seen(config, unique(config, model.log), epochs),
        "target_items_seen": seen.target_items,
        "epochs": epochs,
        "users": None if config.data.fresh != "no" else len(train_users(config, model.log)),
        "items": model.catalogue.items,
        "steps": history.steps,
        "steps_shared": seen.steps_shared,
        "trunk": seen.trunk or None,
        "runs_together": seen.runs_together,
        "wall_seconds": seen.wall_seconds,
        "compile_seconds": seen.compile_seconds,
        **seen.speed(),
        "model_flops_utilization": flops / (seen.wall_seconds - seen.compile_seconds) / peak,
        "peak_flops_per_second_measured": peak,
        "peak_flops_per_second_measured_bfloat16": peak_flops_per_second(devices, "bfloat16"),
        "device_kind": devices[0].device_kind,
        "device_count": model.mesh.size,
        "jax_version": jax.__version__,
    }


def _flops(model: TrainedModel, steps: int) -> float:
    """Returns the training FLOPs of the first `steps` steps, which saw what the counters say."""
    seen = model.history.counters
    return flops_train(
        model.config, model.spec, items=seen.items, sessions=seen.sessions, steps=steps, categories=_categories(model)
    )


def _flops_shared(model: TrainedModel) -> float:
    """Returns the training FLOPs of the steps that another run took."""
    seen = model.history.counters
    counts = {"items": seen.items_shared, "sessions": seen.sessions_shared, "steps": seen.steps_shared}
    return flops_train(model.config, model.spec, **counts, categories=_categories(model))


def _categories(model: TrainedModel) -> int | None:
    return None if model.config.data.fresh == "no" else known_truth(model.log).process.categories


def flops_train(
    config: Config, spec: Spec, *, items: int, sessions: int, steps: int, categories: int | None = None
) -> float:
    """Training FLOPs (count.FLOPS_CONVENTION) of `steps` steps that saw these packed items and sessions. `categories`:
    of the process that drew the sessions in the step, if one did."""
    if categories is not None:
        return count.flops_train_fresh(spec, sessions=sessions, steps=steps, categories=categories)
    return count.flops_train(spec, config.loss, items=items, sessions=sessions, steps=steps)


def parameters(spec: Spec) -> dict[str, int]:
    """Returns the row's columns of N."""
    counted = count.parameters(spec)
    return {
        "params_item_table": counted.item_table,
        "params_body": counted.body,
        "params_total": counted.total,
        "params_frozen": counted.frozen,
    }


def unique(config: Config, prepared: Prepared) -> dict[str, int | None]:
    """Returns the row's columns of distinct data, for a whole pass: target sessions and their labelled exposures.

    Sessions drawn in the step are all distinct, and their exposures are not counted.
    """
    if config.data.fresh != "no":
        sessions = config.data.fresh_steps * config.data.rows * (config.data.slots - 1)
        return {"sessions_unique": sessions, "exposures_unique": None}
    sessions, exposures = target_counts(prepared.arrays(), train_users(config, prepared))
    return {"sessions_unique": sessions, "exposures_unique": exposures}


def sessions_seen(config: Config, distinct: dict[str, Any], epochs: float) -> dict[str, int | None]:
    """Returns the row's columns of the data that `epochs` passes have seen; less than one pass has seen a part of the
    `distinct` data of the training users."""
    part = epochs if config.train.epochs < 1 else 1.0
    seen = {"sessions_seen": round(distinct["sessions_unique"] * epochs)}
    return seen | {name: None if count is None else round(count * part) for name, count in distinct.items()}


@functools.cache
def _commit() -> str | None:
    """Returns the commit of the checkout that runs; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@contextmanager
def _alone_in(run_dir: Path, *, quiet: bool) -> Iterator[None]:
    """Waits until no other process of this machine trains in the folder, and says so unless `quiet`; a killed process
    frees its lock. If a run has several processes, the first one holds the lock for all. Does not wait if the file
    system has no locks."""
    if not is_process_zero():
        yield
        return
    with open_own(run_dir / ".lock", "w") as file:
        if lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB) is False:
            if not quiet:
                say(f"another process trains in {shown(run_dir)}; waiting until it ends")
            lock(file, fcntl.LOCK_EX)
        yield
