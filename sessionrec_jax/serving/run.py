"""A trained run as a handle: `train` or `load` gives a `Run`, which evaluates, recommends and hands out embeddings."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import polars as pl
from jaxtyping import Float32

from doors.storage import copies
from sessionrec_jax.config.rules import check
from sessionrec_jax.config.settings import Config, Mesh
from sessionrec_jax.config.settings_file import read_settings
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.codes import TEST, VALIDATION
from sessionrec_jax.data.resolve import without_facts_of_log
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.devices.placement import put_side
from sessionrec_jax.devices.processes import is_multiprocess
from sessionrec_jax.errors import InputError
from sessionrec_jax.evaluation.baselines import evaluate_baselines
from sessionrec_jax.evaluation.measure import evaluate
from sessionrec_jax.evaluation.scoring import item_table
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.row import run as train_and_measure
from sessionrec_jax.runfolder.files import read_row
from sessionrec_jax.runfolder.stopping import NEVER, StopSignals
from sessionrec_jax.serving.answers import Seen
from sessionrec_jax.serving.export import check_target, export
from sessionrec_jax.serving.frames import is_frame, users_of_frame
from sessionrec_jax.serving.histories import Histories, histories_of, log_histories, read_histories
from sessionrec_jax.serving.load import restore
from sessionrec_jax.serving.recommend import recommend
from sessionrec_jax.serving.search import Search
from sessionrec_jax.serving.vocabulary import Vocabulary

Split = Literal["validation", "test"]


class TrainingFailed(RuntimeError):
    """A run that ended without a model: its row has the reason. The command line prints it and exits with 1."""

    exit_code = 1


class ItemEmbeddings(NamedTuple):
    """The vectors of all N items."""

    ids: pl.Series
    """The publisher's ids."""
    vectors_ND: Float32[np.ndarray, "N D"]
    """Row k is the vector of item ids[k], of width D = model.width."""


def train(
    log: Prepared | str | Path,
    out: str | Path,
    settings: Config | dict[str, Any] | str | Path | None = None,
    *,
    quiet: bool = False,
) -> Run:
    """Trains a model on a prepared log in the run folder `out`, measures it and returns the run.

    `log` is what `prepare` or `open_log` returned, or the folder. It and `out` may be in a bucket (`s3://`, `gs://`).
    `settings` is a dict of dotted names (as `sessionrec train --help-all` lists them, with _ for -), a Config, the path
    of a file of settings (TOML, YAML, JSON, a run's config.json), or None for the defaults.

    The folder gets config.json, metrics.jsonl, checkpoints and row.json. A call
    that was stopped or killed resumes when it is made again; one that finished only reads the run. Ctrl-C and SIGTERM
    save first and raise Stopped.

    >>> run = train("DATA", "RUN", {"model.width": 8, "data.rows": 8, "train.epochs": 4}, quiet=True)
    >>> run.config.model.width, run.row["status"]
    (8, 'done')
    >>> train("DATA", "RUN", {"model.widht": 8})
    Traceback (most recent call last):
    doors.errors.InputError: unknown field of config section 'model': 'widht'; did you mean 'width'?

    Raises InputError for settings that cannot run or do not fit the log, and if `out` has a run of other settings;
    TrainingFailed if the loss stopped being a number; NotSaved if a checkpoint could not be written.
    """
    config = check(_config(settings))
    prepared = log if isinstance(log, Prepared) else open_log(Path(log))
    config = replace(config, {"data.path": prepared.address or str(prepared.path)})
    if isinstance(settings, str | Path) and config.data.fingerprint != prepared.fingerprint:
        config = without_facts_of_log(config)
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may handle signals
    folder = copies.for_writing(out)
    if copies.copy_of(folder) and is_multiprocess():
        raise InputError(
            f"{out} is in a bucket, and a run of several processes writes its checkpoints into one folder; wanted a "
            "folder that all of them mount, which is copied to the bucket later"
        )
    row = train_and_measure(config, folder, "train", quiet=quiet, stop=StopSignals() if is_main else NEVER)
    if row["status"] == "stuck" and not quiet:
        print(f"warning: {row['reason']}", file=sys.stderr, flush=True)
    elif row["status"] not in ("done", "stuck"):
        raise TrainingFailed(f"{out}: {row['reason']}")
    return Run(folder, prepared)


def _config(settings: Config | dict[str, Any] | str | Path | None) -> Config:
    if settings is None or isinstance(settings, Config):
        return settings or Config()
    if isinstance(settings, dict):
        return replace(Config(), settings)
    return read_settings(Path(settings))


def load(
    run_dir: str | Path, log: Prepared | str | Path | None = None, mesh: Mesh | dict[str, int] | None = None
) -> Run:
    """Loads a run from its folder or a bucket: its newest whole checkpoint, or the best if train.evaluated is best.

    `log` is the prepared log, or its folder, if it has moved since training. `mesh` is the number of devices by axis,
    such as {"data": 2, "model": 4}; by default as many as the run had, or as there are.

    >>> run = load("RUN")
    >>> run.log.items
    60

    Raises InputError if the folder has no run or no whole checkpoint, if the log is missing or another one, and if
    there are too few devices.
    """
    run = Run(copies.for_reading(run_dir), log, Mesh(**mesh) if isinstance(mesh, dict) else mesh)
    _ = run.model  # so that a folder that cannot be read is refused here
    return run


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run in its folder. `train` and `load` make one; the model is read when it is first needed."""

    path: Path
    _log: Prepared | str | Path | None = None
    _mesh: Mesh | None = None

    @functools.cached_property
    def model(self) -> TrainedModel:
        return restore(self.path, self._log, self._mesh)

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def log(self) -> Prepared:
        return self.model.log

    @property
    def vocabulary(self) -> Vocabulary:
        """The names by which histories call items, feedback and session context."""
        return Vocabulary.of_log(self.log, self.config)

    @property
    def row(self) -> dict[str, Any] | None:
        """The columns of the run (sizes, data, FLOPs, test metrics) for `scaling.fit`; None if it has not ended."""
        return read_row(self.path)

    def __repr__(self) -> str:
        model = self.config.model
        return f"Run({str(self.path)!r}, {model.sequence_encoder}, width {model.width}, step {self.model.step})"

    def evaluate(self, split: Split = "test", seen: Seen | None = None, by: Sequence[str] = ()) -> dict[str, Any]:
        """Measures the model on the held-out sessions of `split`, against the whole catalogue, next to the baselines.

        `seen="masked"` takes items that the user was shown before out of the candidates and the targets of the ranking
        metrics; None does as the run's data.eval_seen. Losses are nats; NAME_stderr is the standard error over users.
        `by` names kinds of segments (item_popularity, new_item, history_length, session_items, or a column of session
        context): the result then has by[KIND][SEGMENT], the same metrics for each segment (evaluation/segments.py).

        >>> metrics = load("RUN").evaluate()
        >>> sorted(name for name in metrics if name.endswith("recall_at_50"))  # doctest: +NORMALIZE_WHITESPACE
        ['popularity_recall_at_50', 'recall_at_50', 'recent_popularity_recall_at_50', 'repeat_last_recall_at_50',
         'session_knn_recall_at_50']
        """
        roles = {"validation": VALIDATION, "test": TEST}
        if split not in roles:
            raise InputError(f"the split is {split!r}; expected 'validation' or 'test'")
        asked = {"data.eval_candidates": "catalogue", "data.eval_seen": seen or self.config.data.eval_seen}
        model = dataclasses.replace(self.model, config=replace(self.config, asked))
        role = roles[split]
        return evaluate(model, role, by) | evaluate_baselines(model.config, model.log, model.catalogue, role)

    def recommend(
        self, histories: Any, k: int = 50, seen: Seen = "kept", *, users: int = 0, quiet: bool = True, **columns: Any
    ) -> list[dict[str, Any]]:
        """Returns the `k` likeliest next items for each history, best first, as one dict a user.

        `histories` is a Polars or pandas frame of exposures, one row each, whose columns `columns` names (see
        `frames.users_of_frame`); a list of dicts, or the path of JSON lines (see `histories.histories_of`); or "log"
        for the first `users` users of the run's log (0: all). `seen="masked"` leaves out the items that the history
        shows. An answer has user, items, scores (log probabilities, nats), seen_items, unknown_items and sessions_used.

        >>> run = load("RUN")
        >>> [answer] = run.recommend([{"user": 7, "sessions": [[{"item": "i3", "clicked": True}]]}], k=3)
        >>> len(answer["items"])
        3
        >>> answers = run.recommend(pl.read_csv("log.csv"), k=3, user="user", item="item", time="ts", clicked="label")
        >>> answers == [answer | {"user": answer["user"]} for answer in answers]
        True

        Raises InputError for a history that cannot be read and a `k` above the number of items.
        """
        return list(self.answers(histories, k, seen, users=users, quiet=quiet, **columns))

    def answers(
        self, histories: Any, k: int = 50, seen: Seen = "kept", *, users: int = 0, quiet: bool = True, **columns: Any
    ) -> Iterator[dict[str, Any]]:
        """Yields what `recommend` returns, one user at a time, so that answers to a long log need no memory."""
        found = self._histories(histories, users, columns)
        return recommend(self.model, found, k, seen, quiet=quiet)

    def _histories(self, histories: Any, users: int, columns: dict[str, Any]) -> Histories:
        if is_frame(histories):
            return histories_of(users_of_frame(histories, self.log, **columns), self.vocabulary)
        if columns:
            raise InputError(f"only a frame has columns; leave out {', '.join(columns)}")
        if isinstance(histories, str) and histories == "log":
            return log_histories(self.log, users)
        if isinstance(histories, str | Path):
            return read_histories(Path(histories), self.vocabulary)
        if isinstance(histories, list):
            return histories_of(histories, self.vocabulary)
        raise InputError(
            f"histories is a {type(histories).__name__}; expected a Polars or pandas frame, a list of dicts, a path, "
            'or "log"'
        )

    def export(self, to: str | Path, k: int = 100, search: Search = "exact") -> None:
        """Writes the model to the new folder `to`, to be used without this package: weights, item vectors, the program
        of `recommend` for its best `k` items, a model card. docs/serving.md shows how to load it. `search` approximate
        adds an index for the service, and its recall on histories of the log.

        >>> load("RUN").export("MODEL", k=10)
        >>> load("RUN").export("MODEL")
        Traceback (most recent call last):
        doors.errors.InputError: MODEL exists already; name another folder, or delete it first

        Raises InputError if `to` exists already or cannot be written, or if the recall is below .99; ImportError if
        Faiss is not installed (extra `search`); and NotSaved on a full disk.
        """
        check_target(Path(to))  # before the model is read
        export(self.model, self.row, Path(to), k, search)

    def item_embeddings(self) -> ItemEmbeddings:
        """Returns the publisher's ids and the vectors of all items, as retrieval scores them.

        >>> ids, vectors_ND = load("RUN").item_embeddings()
        >>> len(ids), vectors_ND.shape, vectors_ND.dtype
        (60, (60, 8), dtype('float32'))
        """
        model = self.model
        spec = model.spec.in_float32
        table = item_table(spec, model.mesh, model.params, put_side(model.catalogue.side, spec.rows, model.mesh))
        return ItemEmbeddings(self.log.item_ids(), jax.device_get(table.e_RD)[1 : model.catalogue.items + 1])
