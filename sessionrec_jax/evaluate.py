"""One pass over held-out sessions against the whole catalogue: likelihoods, ranking metrics, and their baselines."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sessionrec_jax import baselines
from sessionrec_jax.config import Config
from sessionrec_jax.data.batches import CLICKED, Batch, Shape, eval_batches
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.data.synthetic import ZipfIntent
from sessionrec_jax.data.truth import Truth
from sessionrec_jax.loss import rank_logits, targets
from sessionrec_jax.metrics import Metrics, add_auc, add_ranking
from sessionrec_jax.model import sessionrec
from sessionrec_jax.model.sessionrec import Spec
from sessionrec_jax.partition import put_batch, put_replicated

_CHUNK = 256
"""Scored items whose scores over the whole catalogue are held at once, per shard."""


def evaluate(
    config: Config,
    prepared: Prepared,
    catalogue: Catalogue,
    spec: Spec,
    params: sessionrec.Params,
    mesh: jax.sharding.Mesh,
    shape: Shape,
    role: int,
    *,
    rank_baselines: bool = False,
) -> dict[str, float | None]:
    """Metrics of the held-out sessions of `role`, each with its standard error over users.

    The popularity baseline's nats are computed on the same exposures, and so are the Bayes predictor's where the log's
    truth is known; `rank_baselines` adds the ranking metrics of popularity and of the last session repeated. Nothing
    here trains or tunes.
    """
    side = put_replicated(catalogue.side, mesh)
    e_VD = _embed_all(spec, params, side)
    popularity_rank_V = baselines.popularity_rank(catalogue)
    truth = known_truth(prepared.path, prepared.fingerprint)
    published_V = np.append(-1, prepared.item_ids().to_numpy()) if truth is not None else None
    metrics = Metrics()
    for batch in eval_batches(config, prepared, shape, role):
        scored_GN = _scored_items(batch)
        scores = _score(spec, params, e_VD, side, *put_batch(batch, mesh), put_replicated(scored_GN, mesh))
        log_prob_GN, rank_GN, logit_GT = jax.device_get(scores)
        for shard in range(shape.shards):
            scored_N = scored_GN[shard][scored_GN[shard] < batch.item_GT.shape[1]]
            terms = _Terms(batch, shard, scored_N, metrics)
            terms.add_model(log_prob_GN[shard][: len(scored_N)], rank_GN[shard][: len(scored_N)], logit_GT[shard])
            terms.add_popularity_nats(catalogue)
            if rank_baselines:
                terms.add_rank_baselines(popularity_rank_V)
            if truth is not None:
                terms.add_bayes(truth, published_V)
    return _finish(metrics)


class _Terms:
    """Adds the terms of one shard to the metrics; sessions are told apart by slot, users by packed window."""

    def __init__(self, batch: Batch, shard: int, scored_N: np.ndarray, metrics: Metrics):
        self.batch, self.shard, self.metrics, self.scored_N = batch, shard, metrics, scored_N
        self.item_T, self.session_T = batch.item_GT[shard], batch.session_of_item_GT[shard]
        rows, slots = batch.user_of_session_GRL.shape[1:]
        row_S = np.repeat(np.arange(rows), slots)
        self.cluster_S = row_S * (slots + 1) + batch.user_of_session_GRL[shard].reshape(-1)
        self.first_N = _first_of_session(self.session_T[scored_N], self.item_T[scored_N])
        target_S = np.append(batch.target_GRL[shard].reshape(-1), False)
        self.exposed_E = np.flatnonzero(target_S[self.session_T] & (batch.feedback_GT[shard] <= CLICKED))
        self.clicked_E = batch.feedback_GT[shard][self.exposed_E] == CLICKED

    def _per_item(self, name: str, nats_N: np.ndarray) -> None:
        self.metrics.add(name, nats_N, self.cluster_S[self.session_T[self.scored_N]])

    def _per_exposure(self, name: str, nats_E: np.ndarray) -> None:
        self.metrics.add(name, nats_E, self.cluster_S[self.session_T[self.exposed_E]])

    def _ranking(self, rank_N: np.ndarray, prefix: str = "") -> None:
        own = Metrics()
        first = self.first_N
        add_ranking(own, rank_N[first], self.session_T[self.scored_N][first], self.cluster_S)
        for name, ratio in own.ratios.items():
            self.metrics.ratios[prefix + name] = self.metrics.ratios.get(prefix + name, type(ratio)()) + ratio

    def add_model(self, log_prob_N: np.ndarray, rank_N: np.ndarray, logit_T: np.ndarray) -> None:
        self._per_item("loss_nats_per_item", -log_prob_N.astype(np.float64))
        self._ranking(rank_N)
        logit_E = logit_T[self.exposed_E].astype(np.float64)
        self._per_exposure("rank_nats_per_exposure", np.logaddexp(0, np.where(self.clicked_E, -logit_E, logit_E)))
        add_auc(self.metrics, logit_E, self.clicked_E, self.session_T[self.exposed_E], self.cluster_S)

    def add_popularity_nats(self, catalogue: Catalogue) -> None:
        item_N, item_E = self.item_T[self.scored_N], self.item_T[self.exposed_E]
        self._per_item("loss_baseline_nats_per_item", -catalogue.log_popularity_V[item_N].astype(np.float64))
        nats_E = baselines.popularity_rank_nats(catalogue, item_E, self.clicked_E)
        self._per_exposure("rank_baseline_nats_per_exposure", nats_E)

    def add_rank_baselines(self, popularity_rank_V: np.ndarray) -> None:
        self._ranking(popularity_rank_V[self.item_T[self.scored_N]], "popularity_")
        self._ranking(baselines.repeat_rank(self.batch, self.shard, self.scored_N, popularity_rank_V), "repeat_last_")

    def add_bayes(self, truth: Truth, published_V: np.ndarray) -> None:
        """The Bayes predictor knows the interest that the anchor of the previous session shows."""
        anchor_S = np.zeros(len(self.cluster_S) + 1, np.int64)
        is_anchor_T = self.batch.feedback_GT[self.shard] > CLICKED
        anchor_S[self.session_T[is_anchor_T]] = self.item_T[is_anchor_T]

        def anchor_and_item(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return published_V[anchor_S[self.session_T[places] - 1]], published_V[self.item_T[places]]

        self._per_item("loss_bayes_nats_per_item", truth.retrieval_nats(*anchor_and_item(self.scored_N)))
        nats_E = truth.rank_nats(*anchor_and_item(self.exposed_E), self.clicked_E)
        self._per_exposure("rank_bayes_nats_per_exposure", nats_E)


@functools.lru_cache(maxsize=4)
def known_truth(path: Path, fingerprint: str) -> Truth | None:
    """The truth of a synthetic log; None for any other."""
    del fingerprint  # part of the key: a folder that was prepared anew may hold another process
    if not (path / "truth.json").exists():
        return None
    return Truth(ZipfIntent(**json.loads((path / "truth.json").read_text())))


def _finish(metrics: Metrics) -> dict[str, float | None]:
    result: dict[str, float | None] = {}
    for name in sorted(metrics.ratios):
        result[name] = metrics.mean(name)
        result[f"{name}_stderr"] = metrics.stderr(name)
    return result


def _scored_items(batch: Batch) -> np.ndarray:
    """Places of the clicked items of target sessions, [G, N], filled up with T to a multiple of the chunk."""
    capacity = batch.item_GT.shape[1]
    target_GS = np.pad(batch.target_GRL.reshape(len(batch.item_GT), -1), ((0, 0), (0, 1)))
    clicked_GT = np.take_along_axis(target_GS, batch.session_of_item_GT, axis=1) & (batch.feedback_GT == CLICKED)
    longest = max(1, int(clicked_GT.sum(axis=1).max()))
    scored_GN = np.full((len(clicked_GT), -(-longest // (4 * _CHUNK)) * 4 * _CHUNK), capacity, np.int32)
    for shard, clicked_T in enumerate(clicked_GT):
        places = np.flatnonzero(clicked_T)
        scored_GN[shard, : len(places)] = places
    return scored_GN


def _first_of_session(session_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    """Indices of each item's first click in its session: ranking metrics count distinct items."""
    _, first = np.unique(session_N.astype(np.int64) << 32 | item_N, return_index=True)
    return np.sort(first)


@functools.partial(jax.jit, static_argnums=0)
def _embed_all(spec: Spec, params: sessionrec.Params, side: sessionrec.Side) -> jax.Array:
    return sessionrec.embed(spec, params, jnp.arange(spec.ids), side)


@functools.partial(jax.jit, static_argnums=0)
def _score(
    spec: Spec,
    params: sessionrec.Params,
    e_VD: jax.Array,
    side: sessionrec.Side,
    inputs: sessionrec.Inputs,
    target_GS: jax.Array,
    scored_GN: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Full-softmax log probability and catalogue rank of the scored items, rank logit of every item slot. Ties count
    against the model."""
    bias_V = params["heads"]["item_bias"].at[0].set(-jnp.inf)

    def shard(inputs: sessionrec.Inputs, target_S: jax.Array, scored_N: jax.Array) -> tuple[jax.Array, ...]:
        e_TD, queries = sessionrec.apply(spec, params, inputs, side)
        wanted = targets(inputs.feedback_T, inputs.session_of_item_T, target_S)

        def chunk(place_C: jax.Array) -> tuple[jax.Array, jax.Array]:
            score_CV = queries.retrieval_SD[wanted.query_T[place_C]] @ e_VD.T + bias_V
            own_C1 = jnp.take_along_axis(score_CV, inputs.item_T[place_C][:, None], axis=1)
            log_prob_C = own_C1[:, 0] - jax.nn.logsumexp(score_CV, axis=1)
            return log_prob_C, jnp.sum(score_CV >= own_C1, axis=1) - 1

        log_prob, rank = jax.lax.map(chunk, scored_N.reshape(-1, _CHUNK))
        logit_T = rank_logits(queries.rank_SD, e_TD, wanted, params["heads"]["rank_bias"])
        return log_prob.reshape(-1), rank.reshape(-1), logit_T

    return jax.vmap(shard)(inputs, target_GS, scored_GN)
