"""One pass of a model over held-out sessions, against the whole catalogue: likelihoods, their baselines, ranking.

    metrics = measure(model, TEST)
    metrics.mean("ndcg_at_50"), metrics.stderr("ndcg_at_50"), metrics.by_user()

Letters: G shards, T item slots, S session slots, N clicked items that are scored against the catalogue, B their
sessions, E exposures, V ids, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sessionrec_jax.config.settings import Config, Loss
from sessionrec_jax.data.batches import Batch, eval_batches
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.data.store import FlatLog, Prepared
from sessionrec_jax.data.synthetic.known import anchors, known_truth, published_ids
from sessionrec_jax.data.synthetic.truth import Truth
from sessionrec_jax.devices.gathered_rows import encode
from sessionrec_jax.devices.mesh import shards_here
from sessionrec_jax.devices.placement import ShardedInputs, held_shards, put_batch, put_side
from sessionrec_jax.devices.processes import gather, is_multiprocess
from sessionrec_jax.evaluation import baselines
from sessionrec_jax.evaluation.catalogue_ranks import CatalogueQueue, ClickedSessions
from sessionrec_jax.evaluation.metrics import (
    ClickedItems,
    Exposures,
    Metrics,
    add_clicked_items,
    add_within_session,
)
from sessionrec_jax.evaluation.scoring import HeldRows, ItemTable, item_table, over_rows, pair_scores
from sessionrec_jax.evaluation.seen import holds, seen_items
from sessionrec_jax.evaluation.segments import Segments
from sessionrec_jax.evaluation.trained_model import TrainedModel
from sessionrec_jax.loss.calibration import uncalibrated
from sessionrec_jax.loss.rank import rank_logits, rank_loss_sums
from sessionrec_jax.loss.targets import Targets, targets
from sessionrec_jax.model.embedding import Side
from sessionrec_jax.model.spec import Params, Spec
from sessionrec_jax.row_columns import RANK_LOSS

_VALIDATION = ("loss_nats_per_item", "rank_nats_per_exposure", "ndcg_at_50", "rank_auc")


def evaluate(model: TrainedModel, role: int, by: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the metrics of `measure` as plain numbers, NAME and NAME_stderr, `seen_items`: kept or masked, and what
    they are measured on (`counted`). With names of segments in `by` also `by`: `Segments.result`."""
    segments = Segments(by, model, role) if by else None
    metrics = measure(model, role, segments)
    found = {"seen_items": model.config.data.eval_seen, **counted(metrics, model.log), **metrics.result()}
    return found if segments is None else found | {"by": segments.result()}


def counted(metrics: Metrics, log: Prepared) -> dict[str, str | int]:
    """Returns the split of the log, and over how many sessions and clicks the metrics are means."""
    return {
        "split": log.manifest["settings"]["split"],
        "scored_clicks": metrics.terms("loss_nats_per_item"),
        "ranked_sessions": metrics.terms("mrr"),
        "ordered_sessions": metrics.terms("retrieval_auc"),
    }


def measure(model: TrainedModel, role: int, segments: Segments | None = None) -> Metrics:
    """Returns the metrics of the model on the held-out sessions of `role`, as sums by user of the log. `segments` get
    the terms of the model's own metrics, except rank_loss.

    - loss_nats_per_item; recall, ndcg, hit and mrr of a session's clicked items in the whole catalogue (`add_ranking`).
    - retrieval_auc, _gauc, _ndcg: the retrieval score among the exposures of a session (`add_within_session`), so that
      models without a rank loss can be compared.
    - rank_auc, _gauc, _ndcg: the rank score there; missing if it was not trained.
    - rank_nats_per_exposure: missing too if the rank loss is not pointwise, because only then are scores log odds.
    - rank_loss: the configured rank loss, nats per term, without a standard error.
    - the nats of popularity on the same exposures, and of the Bayes predictor if the log's truth is known.

    With `data.eval_seen` masked, items that the user was exposed to in an earlier session of the log are neither
    targets nor candidates of recall, ndcg, hit and mrr. With `data.eval_candidates` shown, metrics that need the
    catalogue (nats per item, recall, ndcg, hit, mrr) have no term. Nothing here trains or tunes.
    """
    config, mesh, params, spec = model.config, model.mesh, model.params, model.spec.in_float32
    side = put_side(model.catalogue.side, spec.rows, mesh)
    table = item_table(spec, mesh, params, side)
    log = model.log.arrays()
    truth = known_truth(model.log)
    if truth is not None:
        published_V, anchor_S = published_ids(model.log), anchors(log)
    metrics, counted_G = Metrics(log.users), shards_here(mesh)[1]

    def record(terms: ClickedItems) -> None:
        add_clicked_items(metrics, terms)
        if segments is not None:
            segments.add(terms, add_clicked_items, of_items=True)

    def record_exposures(terms: ScoredExposures) -> None:
        add_exposures = functools.partial(_add_exposures, config)
        add_exposures(metrics, terms)
        if segments is not None:
            segments.add(terms, add_exposures, of_items=False)

    queue = CatalogueQueue(mesh, table, record)
    for batch in eval_batches(config, model.log, model.shape, role):
        found = _score(spec, config.loss.rank, mesh, params, table=table, side=side, inputs=put_batch(batch, mesh))
        score_columns, rank_sums = held_shards(found, mesh)
        scores_G = [Scores._make(of_shard) for of_shard in zip(*score_columns, strict=True)]
        terms = [_Terms(batch, shard, config.data.eval_candidates, metrics) for shard in range(len(scores_G))]
        if config.loss.alpha:
            metrics.add_total("rank_loss", *(float(sum_G[counted_G].sum()) for sum_G in rank_sums))
        for term, scores, counted in zip(terms, scores_G, counted_G, strict=True):
            if not counted:
                continue
            record_exposures(term.scored_exposures(scores))
            term.add_popularity_nats(model.catalogue)
            if truth is not None:
                term.add_bayes(truth, published_V, anchor_S)
        masked = log if config.data.eval_seen == "masked" else None
        queue.add(
            [term.clicked_sessions(scores, masked, spec.ids) for term, scores in zip(terms, scores_G, strict=True)]
        )
    queue.score()
    if is_multiprocess():
        metrics = _added_up(metrics)
        if segments is not None:
            segments.metrics = _added_up(segments.metrics)
    return metrics


def _added_up(own: Metrics) -> Metrics:
    """Returns the terms of all processes, on each process and equal to the last bit."""
    metrics = Metrics(own.users)
    for part in gather(own.to_bytes()):
        metrics.add_bytes(part)
    return metrics


def validated(metrics: Metrics, config: Config) -> dict[str, float | None]:
    """Returns the numbers of a validation for metrics.jsonl and the row.

    Runs and steps are chosen by the lowest `validation_objective`: the retrieval loss against the whole catalogue +
    alpha x the configured rank loss; the rank loss alone if the catalogue is not scored.
    """
    retrieval, rank = metrics.mean("loss_nats_per_item"), metrics.mean("rank_loss")
    objective = rank if config.data.eval_candidates == "shown" else retrieval
    if config.loss.alpha and retrieval is not None:
        objective = None if rank is None else retrieval + config.loss.alpha * rank
    return {f"validation_{name}": metrics.mean(name) for name in _VALIDATION} | {"validation_objective": objective}


class Scores(NamedTuple):
    """The model's scores on one shard."""

    retrieval_T: Float[Array | np.ndarray, " T"]
    tie_T: Float[Array | np.ndarray, " T"]
    """Distance within which another item's retrieval score counts as equal."""
    rank_logit_T: Float[Array | np.ndarray, " T"]
    query_SD: Float[Array | np.ndarray, "S D"]
    """The query for the items of the session after each slot's."""


class ScoredExposures(NamedTuple):
    """The labelled exposures of target sessions with their scores."""

    clicked_N: Bool[np.ndarray, " N"]
    retrieval_N: Float[np.ndarray, " N"]
    logit_N: Float[np.ndarray, " N"]
    """The rank score: log odds of a click, if the rank loss is pointwise."""
    item_N: Int[np.ndarray, " N"]
    session_N: Int[np.ndarray, " N"]
    user_N: Int[np.ndarray, " N"]


def _add_exposures(config: Config, metrics: Metrics, terms: ScoredExposures, *, prefix: str = "") -> None:
    """Adds how both scores order the exposures of a session, and the nats of the rank score."""
    clicked_N, logit_N = terms.clicked_N, terms.logit_N
    exposures = Exposures(clicked_N, terms.session_N, terms.user_N)
    add_within_session(metrics, f"{prefix}retrieval", terms.retrieval_N, exposures)
    nats_N = np.logaddexp(0, np.where(clicked_N, -logit_N, logit_N))
    trained = slice(None if config.loss.alpha else 0)  # metrics of a head that was not trained get no term
    of_trained = Exposures(*(x_N[trained] for x_N in exposures))
    add_within_session(metrics, f"{prefix}rank", logit_N[trained], of_trained)
    calibrated = slice(None if uncalibrated(config, RANK_LOSS) is None else 0)
    metrics.add(f"{prefix}{RANK_LOSS}", nats_N[calibrated], terms.user_N[calibrated])


class _Terms:
    """Adds the terms of one shard to the metrics; sessions and users are known by their index in the log."""

    def __init__(self, batch: Batch, shard: int, candidates: str, metrics: Metrics):
        self.metrics = metrics
        self.item_T, self.feedback_T = batch.item_GT[shard], batch.feedback_GT[shard]
        self.slot_T = batch.session_of_item_GT[shard]
        self.session_T, self.user_T, target_T = (
            np.append(by_slot_GRL[shard].reshape(-1), 0)[self.slot_T]
            for by_slot_GRL in (batch.log_session_GRL, batch.log_user_GRL, batch.target_GRL)
        )
        self.exposed_E = np.flatnonzero((target_T > 0) & (self.feedback_T <= CLICKED))
        self.clicked_E = self.feedback_T[self.exposed_E] == CLICKED
        # Items that are scored against the catalogue.
        self.scored_N = self.exposed_E[self.clicked_E][: None if candidates == "catalogue" else 0]

    def clicked_sessions(self, scores: Scores, masked: FlatLog | None, ids: int) -> ClickedSessions:
        """Returns the clicked items that are scored against the catalogue.

        With `masked`, items that the user was shown before in this log are neither targets nor candidates.
        """
        slot_B, row_N = np.unique(self.slot_T[self.scored_N], return_inverse=True)
        session_N, item_N = self.session_T[self.scored_N], self.item_T[self.scored_N]
        # Ranking metrics count an item that is clicked twice in a session once.
        key_N = session_N.astype(np.int64) << 32 | item_N
        ranked_N = np.zeros(len(key_N), bool)
        ranked_N[np.unique(key_N, return_index=True)[1]] = True
        seen_BV = None
        if masked is not None:
            session_B = np.zeros(len(slot_B), np.int64)
            session_B[row_N] = session_N
            seen_BV = seen_items(masked, session_B, ids)
            ranked_N &= ~holds(seen_BV, row_N, item_N)
        return ClickedSessions(
            query_BD=scores.query_SD[slot_B - 1], row_N=row_N, item_N=item_N,
            score_N=scores.retrieval_T[self.scored_N], tie_N=scores.tie_T[self.scored_N],
            session_N=session_N, user_N=self.user_T[self.scored_N], ranked_N=ranked_N, seen_BV=seen_BV,
        )  # fmt: skip

    def _per_item(self, name: str, nats_N: np.ndarray) -> None:
        self.metrics.add(name, nats_N, self.user_T[self.scored_N])

    def _per_exposure(self, name: str, nats_E: np.ndarray) -> None:
        self.metrics.add(name, nats_E, self.user_T[self.exposed_E])

    def scored_exposures(self, scores: Scores) -> ScoredExposures:
        exposed = self.exposed_E
        session_E, item_E, user_E = (x_T[exposed] for x_T in (self.session_T, self.item_T, self.user_T))
        retrieval_E, logit_E = scores.retrieval_T[exposed], scores.rank_logit_T[exposed].astype(np.float64)
        return ScoredExposures(self.clicked_E, retrieval_E, logit_E, item_E, session_E, user_E)

    def add_popularity_nats(self, catalogue: Catalogue) -> None:
        item_N, item_E = self.item_T[self.scored_N], self.item_T[self.exposed_E]
        self._per_item("loss_baseline_nats_per_item", -catalogue.log_popularity_V[item_N].astype(np.float64))
        nats_E = baselines.popularity_rank_nats(catalogue, item_E, self.clicked_E)
        self._per_exposure("rank_baseline_nats_per_exposure", nats_E)

    def add_bayes(self, truth: Truth, published_V: np.ndarray, anchor_S: np.ndarray) -> None:
        """Adds the nats of the Bayes predictor, which knows the interest that the anchor of the previous session shows;
        `anchor_S` has the anchors of the log's sessions."""

        def anchor_and_item(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return published_V[anchor_S[self.session_T[places] - 1]], published_V[self.item_T[places]]

        self._per_item("loss_bayes_nats_per_item", truth.retrieval_nats(*anchor_and_item(self.scored_N)))
        nats_E = truth.rank_nats(*anchor_and_item(self.exposed_E), self.clicked_E)
        self._per_exposure("rank_bayes_nats_per_exposure", nats_E)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    spec: Spec,
    rank: str,
    mesh: jax.sharding.Mesh,
    params: Params,
    *,
    table: ItemTable,
    side: Side,
    inputs: ShardedInputs,
) -> tuple[Scores, tuple[Array, Array]]:
    """Returns the scores of every shard, with a leading G, and the sums of the `rank` loss."""
    e_GTD, queries_G = encode(spec, mesh, params, inputs=inputs, side=side)
    targets_G = jax.vmap(targets)(inputs.feedback_GT, inputs.session_of_item_GT, inputs.target_GS)

    def retrieved(rows: HeldRows, query_SD: Array, slot_T: Array, item_T: Array) -> tuple[Array, Array]:
        return pair_scores(rows, query_SD[slot_T], item_T)

    def ranked(rank_SD: Array, e_TD: Array, targets: Targets, session_T: Array) -> tuple[Array, tuple[Array, Array]]:
        logit_T = rank_logits(rank_SD, e_TD, targets, params["heads"]["rank_bias"])
        return logit_T, rank_loss_sums(Loss(rank=rank), logit_T, targets, session_T)

    batch_G = (queries_G.retrieval_SD, targets_G.query_T, inputs.item_GT)
    retrieval_GT, tie_GT = over_rows(mesh, retrieved, table, batch_G)
    logit_GT, rank_sums = jax.vmap(ranked)(queries_G.rank_SD, e_GTD, targets_G, inputs.session_of_item_GT)
    return Scores(retrieval_GT, tie_GT, logit_GT, queries_G.retrieval_SD), rank_sums
