"""The columns of a run's row, and which of them a fit reads: the only file that names them (contract 3).

A run ends as one JSON object, runs/RUN_ID/row.json. With `train.evaluate_by` it also has METRIC__KIND__SEGMENT columns
(evaluation/segments.py). Every row has the columns of EVERY_ROW. A row with status done has
the columns of DONE too; one with status diverged has `reason`; one with status failed has `reason` and `log_tail`; one
with status dropped has `reason` and the columns of DROPPED.
N, D and C are counted by the code that trained the run, so that no reader derives them again. This file imports nothing
heavy: `sessionrec fit` and `report` work without jax.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple


class Column(NamedTuple):
    """One column of a row."""

    name: str
    type: str
    """str, int or float."""
    unit: str
    """Empty for a text, a flag or a ratio without a unit."""
    meaning: str
    optional: bool = False
    """True if the value may be null: the run has no such number. A missing number is never 0."""


EVERY_ROW = (
    Column("run_id", "str", "", "hash of all settings that change the result; the name of the run's folder"),
    Column("plan", "str", "", "plan of the sweep; `train` for a run of `sessionrec train`"),
    Column("commit", "str", "", "commit of the checkout that ran", optional=True),
    Column("seed", "int", "", "seed of parameters, data order and sampled negatives"),
    Column("paradigm", "str", "", "nspp, nipp or nipp_plus"),
    Column("fresh", "str", "", "labels of sessions drawn in the step; null: sessions of the log", optional=True),
    Column("session_encoder", "str", "", "name of the session encoder"),
    Column("sequence_encoder", "str", "", "name of the sequence encoder"),
    Column("positions", "str", "", "how the sequence encoder knows the order of sessions"),
    Column("width", "int", "", "width of the model"),
    Column("layers", "int", "", "layers of the sequence encoder"),
    Column("users_trained", "int", "users", "training users asked for; null: all of the log", optional=True),
    Column("window_slots", "int", "sessions", "sessions of a user that are seen at once, the target among them"),
    Column("batch_sessions", "int", "sessions", "session slots of a batch"),
    Column("batch_rows", "int", "rows", "rows of a batch, given or chosen from the log"),
    Column("epochs_planned", "float", "epochs", "passes over the training sessions that were asked for"),
    Column("learning_rate_peak", "float", "", "peak learning rate"),
    Column(
        "learning_rate_rule",
        "str",
        "",
        "tuned at this size, halving (tuned, worse rates were dropped early), mup, fixed",
    ),
    Column("learning_rate_schedule", "str", "", "warm-up and decay"),
    Column("table_prior", "float", "", "precision of the Gaussian prior on the ID table"),
    Column("retrieval_loss", "str", "", "name of the retrieval loss"),
    Column("negatives", "int", "items", "negatives of a step; null if none are drawn", optional=True),
    Column("negatives_from", "str", "", "distribution of the negatives; null if none are drawn", optional=True),
    Column("other_clicks", "str", "", "the other clicked items of a session: masked or counted"),
    Column("rank_loss", "str", "", "name of the rank loss; null where alpha is 0", optional=True),
    Column("rank_labels", "str", "", "labels of the rank loss in training, if other than the clicks", optional=True),
    Column("alpha", "float", "", "weight of the rank loss"),
    Column("dataset_fingerprint", "str", "", "hash of the prepared log"),
    Column("eval_users", "int", "users", "held-out users that are scored; 0: all"),
    Column("status", "str", "", "done, diverged, failed, dropped by halving, or stuck: it never learned"),
)

DROPPED = (
    Column("steps", "int", "steps", "optimizer steps of the whole run"),
    Column("steps_taken", "int", "steps", "steps after which it was dropped"),
    Column("flops_spent", "float", "FLOPs", "training FLOPs of the steps that were taken"),
    Column("flops_saved", "float", "FLOPs", "training FLOPs of the steps that were not taken"),
    Column("validation_objective", "float", "nats", "what plans choose by, when it was dropped", optional=True),
)

FAILURE = (
    Column("reason", "str", "", "why the run has no loss"),
    Column("log_tail", "str", "", "last lines of the run's log.txt; only in rows with status failed"),
)

METRICS = (
    Column("loss_nats_per_item", "float", "nats", "full-softmax loss of a clicked item", optional=True),
    Column("rank_nats_per_exposure", "float", "nats", "loss of an exposure's click; pointwise only", optional=True),
    *(
        Column(f"{score}_{metric}", "float", "", f"{meaning}, by the {score} score", optional=True)
        for score in ("rank", "retrieval")
        for metric, meaning in (
            ("auc", "clicked above ignored exposures of a session, mean over sessions"),
            ("gauc", "the same, sessions weighted by their exposures"),
            ("ndcg", "NDCG within a session's exposures"),
        )
    ),
    *(
        Column(f"{metric}_at_{k}", "float", "", f"{meaning} {k} items of the catalogue", optional=True)
        for metric, meaning in (
            ("recall", "share of a session's clicked items within the top"),
            ("ndcg", "NDCG of a session's clicked items within the top"),
            ("hit", "share of sessions with a clicked item within the top"),
        )
        for k in (10, 50, 100, 500)
    ),
    Column("mrr", "float", "", "mean of 1 / rank of a session's best clicked item", optional=True),
)
"""Measured on the test sessions. Each has a column NAME_stderr after it: its standard error over users."""

REFERENCES = (
    Column("loss_baseline_nats_per_item", "float", "nats", "the same loss of popularity", optional=True),
    Column("loss_bayes_nats_per_item", "float", "nats", "the same loss of the Bayes predictor", optional=True),
    Column("rank_baseline_nats_per_exposure", "float", "nats", "rank loss of popularity", optional=True),
    Column("rank_bayes_nats_per_exposure", "float", "nats", "rank loss of the Bayes predictor", optional=True),
)
"""Losses of other predictors on the same test sessions. The Bayes predictor needs a log whose truth is known."""

DONE = (
    Column("seen_items", "str", "", "items the user saw before are candidates (kept) or not (masked)"),
    Column("eval_candidates", "str", "", "candidates of held-out sessions: catalogue or shown"),
    Column("split", "str", "", "rule that chose the test sessions"),
    Column("scored_clicks", "int", "clicks", "clicks of the test sessions that the loss is a mean over"),
    Column("ranked_sessions", "int", "sessions", "test sessions with a click that recall, NDCG, hit and MRR count"),
    Column("ordered_sessions", "int", "sessions", "test sessions with clicked and ignored exposures, which AUC counts"),
    *(
        column
        for metric in METRICS
        for column in (metric, metric._replace(name=f"{metric.name}_stderr", meaning="standard error over users"))
    ),
    Column("loss_stderr", "float", "nats", "the same number as loss_nats_per_item_stderr", optional=True),
    *REFERENCES,
    *(
        Column(f"validation_{name}", "float", unit, "the same metric on the validation sessions", optional=True)
        for name, unit in (
            ("loss_nats_per_item", "nats"),
            ("rank_nats_per_exposure", "nats"),
            ("ndcg_at_50", ""),
            ("rank_auc", ""),
        )
    ),
    Column("validation_objective", "float", "nats", "objective on validation; runs are chosen by it", optional=True),
    Column(
        "history_spread_nats",
        "float",
        "nats",
        "deviation of a score over histories; 0: popularity",
        optional=True,
    ),
    Column("best_step", "int", "steps", "step of the best validation; null: validated at the end only", optional=True),
    Column("parameters_step", "int", "steps", "step whose parameters were evaluated"),
    Column("schedule_fraction", "float", "", "parameters_step over steps; below 1: the schedule had not ended"),
    Column("loss_floor_nats_per_item", "float", "nats", "exact lowest loss, where the truth is known", optional=True),
    Column("rank_floor_nats_per_exposure", "float", "nats", "exact lowest rank loss, likewise", optional=True),
    Column("loss_paired_nats_per_item", "float", "nats", "loss_floor + loss - loss_bayes, likewise", optional=True),
    Column("rank_paired_nats_per_exposure", "float", "nats", "rank_floor + rank - rank_bayes", optional=True),
    Column("rank_exact_nats_per_exposure", "float", "nats", "exact rank loss of a model of one anchor", optional=True),
    Column("params_item_table", "int", "parameters", "ID table and item biases"),
    Column("params_body", "int", "parameters", "N: all others, tables of side information among them"),
    Column("params_total", "int", "parameters", "both together"),
    Column("params_frozen", "int", "numbers", "content vectors that are read and not trained; not in params_total"),
    Column("flops_train", "float", "FLOPs", "C: training FLOPs by flops_convention"),
    Column("flops_spent", "float", "FLOPs", "flops_train without those of the shared steps: what this run cost"),
    Column("flops_convention", "str", "", "what the FLOPs count"),
    Column("sessions_seen", "int", "sessions", "target sessions that were trained on, with repeats"),
    Column("sessions_unique", "int", "sessions", "D: distinct target sessions among them"),
    Column(
        "exposures_unique",
        "int",
        "exposures",
        "labelled exposures of the distinct target sessions; null: drawn",
        optional=True,
    ),
    Column("target_items_seen", "int", "items", "clicked items of the target sessions seen, with repeats"),
    Column("epochs", "float", "epochs", "passes over the training sessions that were made"),
    Column("users", "int", "users", "users that were trained on; null: drawn in the step", optional=True),
    Column("items", "int", "items", "items of the catalogue"),
    Column("steps", "int", "steps", "training steps"),
    Column("steps_shared", "int", "steps", "first steps that a longer run of the same settings took: its trunk"),
    Column("trunk", "str", "", "run_id of the trunk; null: the run took all steps itself", optional=True),
    Column("runs_together", "int", "runs", "runs that trained side by side in one program, this one among them"),
    Column("wall_seconds", "float", "seconds", "time of the training loop, with compiling, checkpoints, shared steps"),
    Column("compile_seconds", "float", "seconds", "time of compiling within it"),
    Column("sessions_per_second", "float", "sessions/s", "packed sessions a second, without compiling"),
    Column("items_per_second", "float", "items/s", "packed items a second, without compiling"),
    Column("item_slots_padding", "float", "", "share of item slots that were empty"),
    Column("session_slots_padding", "float", "", "share of session slots that were empty"),
    Column("model_flops_utilization", "float", "", "flops_train over what the peak gives in the seconds of training"),
    Column("peak_flops_per_second_measured", "float", "FLOP/s", "measured peak in the model's compute type"),
    Column("peak_flops_per_second_measured_bfloat16", "float", "FLOP/s", "measured peak in bfloat16"),
    Column("device_kind", "str", "", "kind of the devices"),
    Column("device_count", "int", "devices", "devices of the mesh"),
    Column("jax_version", "str", "", "version of jax"),
)

_TYPES = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
KINDS = {
    column.name: (*_TYPES[column.type], *((type(None),) if column.optional else ()))
    for column in (*EVERY_ROW, *DROPPED, *FAILURE, *DONE)
}
"""The types that the value of each column may have in JSON."""

# Columns that plans, fits and displays read.
PARAMS, FLOPS, FLOPS_SPENT = "params_body", "flops_train", "flops_spent"
SCHEDULE_FRACTION = "schedule_fraction"
SESSIONS, SESSIONS_SEEN, WINDOW, ITEMS = "sessions_unique", "sessions_seen", "window_slots", "items"
LOSS, RANK_LOSS, RANK_LOSS_PAIRED = "loss_nats_per_item", "rank_nats_per_exposure", "rank_paired_nats_per_exposure"
RANK_LOSS_EXACT = "rank_exact_nats_per_exposure"
OBJECTIVE, VALIDATION_NDCG = "validation_objective", "validation_ndcg_at_50"

RECIPE = (
    "dataset_fingerprint", "dataset", "eval_users", "paradigm", "fresh", "session_encoder", "sequence_encoder",
    "positions",
    "optimizer", "schedule", "learning_rate_rule", "learning_rate_schedule",
    "retrieval_loss", "negatives", "negatives_from", "other_clicks", "rank_loss", "rank_labels",
    "alpha",
    "seen_items", "eval_candidates", "flops_convention",
)  # fmt: skip
"""Columns of a row that must not vary in one fit, because a law describes one recipe. They do not include what a plan
tunes or climbs: learning rate, epochs, batch, width, layers."""


def baseline_of(loss: str) -> str:
    """The column with the popularity baseline of a loss column."""
    return loss.replace("_nats", "_baseline_nats")


def floor_of(loss: str) -> str:
    """The column with the exact lowest value of a loss column."""
    return loss.replace("_nats", "_floor_nats")


FIT_RANK = {"loss": RANK_LOSS, "baseline": baseline_of(RANK_LOSS), "floor_column": floor_of(RANK_LOSS)}
"""Columns that a fit of the rank loss reads, by the keys of report.json."""
FIT = {"n": PARAMS, "d": SESSIONS, "loss": LOSS, "baseline": baseline_of(LOSS), "floor_column": floor_of(LOSS)}
"""Columns that a fit reads by default, by the keys of report.json."""


def with_defaults(chosen: dict[str, Any], present: Collection[str]) -> dict[str, Any]:
    """`chosen` columns of a sweep's table, and the default ones for what it does not name, if they are `present`."""
    loss = chosen.get("loss", None if "metric" in chosen else LOSS)
    optional = {"n": PARAMS}
    if "n" in chosen or PARAMS in present:
        optional["flops"] = FLOPS
    if loss is not None and "_nats" in loss:
        optional |= {"baseline": baseline_of(loss), "floor_column": floor_of(loss)}
    found = {key: name for key, name in optional.items() if name in present}
    return {"loss": loss, "d": None if "flops" in chosen else SESSIONS} | found | chosen
