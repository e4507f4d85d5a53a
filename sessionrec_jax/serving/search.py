"""Approximate search for the best items: an index of the catalogue, and the recall that it was measured to have.

    index, recall = measured(item vectors, biases, queries of real histories)   # at export; refused below .99
    item_BK, score_BK = index.best(query_BD, k, left_out_M)

The index is an inverted file of Faiss (extra `search`): items in lists of near ones, of which a query reads the most
promising. An item's vector gets its bias as one more dimension, and a query a 1 for it, so that their product is the
score. The lists have four bits for each number of an item, its difference from the mean of its list. So a query asks
them for some times as many items as it wants, and these are scored again with the model's own vectors. No jax in this
file.

Letters: B histories of a batch, N items, D width, X D + 1, C candidates, K best items, M pairs of a history and an item
that it must not get, Q queries of real histories.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from sessionrec_jax.errors import InputError

Search = Literal["exact", "approximate"]
DEPTH = 50
"""The recall is that of the best 50 items."""
LEAST_RECALL = 0.99
_AIM = 0.995
"""The recall on those histories that choose the number of lists to read; other ones give the recall of the card."""
_MOST_READ = 4
"""At most one in this number of lists is read; a search that needs more costs as much as an exact one."""
_CANDIDATES = 4
"""Items that are scored again, for each item that is asked for."""
_BITS = 4
_SAMPLE_A_LIST = (8, 40)
"""Items for each list that k-means sees: those with the largest biases, which are many among the best, and others."""
_ROUNDS = 10


@dataclass(frozen=True, eq=False)
class Index:
    """An index of one catalogue. Row r of the vectors is dense item r; rows whose bias is -inf are no items."""

    vector_RD: Float[np.ndarray, "R D"]
    bias_R: Float[np.ndarray, " R"]
    lists: Any
    """The inverted file of Faiss, with dense ids."""

    @classmethod
    def build(cls, vector_RD: Float[np.ndarray, "R D"], bias_R: Float[np.ndarray, " R"]) -> Index:
        """Forms about sqrt(N) lists by k-means. The same catalogue gives the same lists."""
        import faiss

        item_N = np.flatnonzero(bias_R > -np.inf)
        x_NX = np.column_stack([vector_RD[item_N], bias_R[item_N]]).astype(np.float32)
        count, width = max(1, round(len(item_N) ** 0.5)), x_NX.shape[1]
        near = faiss.IndexFlatL2(width)
        # A product quantizer with one part for each number: its levels follow the numbers' own distribution.
        lists = faiss.IndexIVFPQFastScan(near, width, count, width, _BITS, faiss.METRIC_INNER_PRODUCT)
        lists.by_residual = True
        # Items belong to the list of the nearest mean; by inner products nearly all would join the few longest means.
        lists.cp.spherical, lists.cp.seed, lists.cp.niter = False, 0, _ROUNDS
        lists.cp.min_points_per_centroid, lists.cp.max_points_per_centroid = 1, sum(_SAMPLE_A_LIST)
        sample = _sample(bias_R[item_N], count)
        lists.train(x_NX[np.resize(sample, max(len(sample), 2**_BITS))])  # as many points as levels, at least
        lists.add_with_ids(x_NX, item_N)
        # A query reads the lists whose means have the best scores.
        best = faiss.IndexFlatIP(width)
        best.add(near.reconstruct_n(0, count))
        lists.quantizer = best
        return cls(vector_RD, bias_R, faiss.deserialize_index(faiss.serialize_index(lists)))  # a copy owns its parts

    @classmethod
    def read(cls, path: Path, vector_RD: np.ndarray, bias_R: np.ndarray, read_lists: int) -> Index:
        """Reads what `write` wrote. A query reads `read_lists` lists."""
        import faiss

        lists = faiss.read_index(str(path))
        lists.nprobe = read_lists
        return cls(vector_RD, bias_R, lists)

    def write(self, path: Path) -> None:
        import faiss

        faiss.write_index(self.lists, str(path))

    def best(
        self,
        query_BD: Float[np.ndarray, "B D"],
        k: int,
        left_out_M: tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]] | None = None,
    ) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
        """Returns the best `k` items that the lists have for each query, and their scores: nats without the normaliser
        of a log probability. Of equal scores the lower id is first. The items of the pairs are left out; pairs of
        history B are padding. Places without an item have a score of -inf."""
        import faiss

        faiss.omp_set_num_threads(1)  # of this thread: a search is short, and threads that wait for it would spin
        histories = len(query_BD)
        left_out = np.zeros((0, 2), int) if left_out_M is None else np.column_stack(left_out_M)
        left_out = left_out[left_out[:, 0] < histories]
        most = np.bincount(left_out[:, 0], minlength=1).max()  # as many more are asked for
        query_BX = np.column_stack([query_BD, np.ones(histories)]).astype(np.float32)
        candidates = min(_CANDIDATES * (k + most), self.lists.ntotal)
        _, item_BC = self.lists.search(query_BX, int(candidates))
        score_BC = np.einsum("bd,bcd->bc", query_BD, self.vector_RD[item_BC]) + self.bias_R[item_BC]
        score_BC[item_BC < 0] = -np.inf  # fewer items than were asked for
        score_BC[_is_pair(item_BC, left_out, len(self.bias_R))] = -np.inf
        order_BK = np.lexsort((item_BC, -score_BC))[:, :k]
        item_BK, score_BK = (np.take_along_axis(x_BC, order_BK, axis=1) for x_BC in (item_BC, score_BC))
        return item_BK.astype(np.int32), score_BK


def _sample(bias_N: np.ndarray, lists: int) -> np.ndarray:
    """Returns the places of the items that k-means sees, in ascending order."""
    popular, others = (min(share * lists, len(bias_N)) for share in _SAMPLE_A_LIST)
    drawn = np.random.default_rng(0).choice(len(bias_N), others, replace=False)
    return np.union1d(np.argsort(-bias_N, kind="stable")[:popular], drawn)


def _is_pair(item_BC: np.ndarray, pair_M2: np.ndarray, ids: int) -> np.ndarray:
    """Returns where (history, item) is one of the pairs."""
    key_BC = np.arange(len(item_BC))[:, None] * ids + item_BC
    return np.isin(key_BC, pair_M2[:, 0] * ids + pair_M2[:, 1])


def measured(
    vector_RD: Float[np.ndarray, "R D"],
    bias_R: Float[np.ndarray, " R"],
    query_QD: Float[np.ndarray, "Q D"],
    exact_QK: Int[np.ndarray, "Q K"],
) -> tuple[Index, dict[str, Any]]:
    """Returns an index and its lines of the model card. `exact_QK` has the exact best items of real histories.

    Even histories choose how many lists a query reads: 1, 2, 4, ..., until it finds .995 of their best items, a quarter
    of the lists at most. Odd ones give the recall of the card. Raises InputError if it is below .99.
    """
    begin = time.process_time()
    index = Index.build(vector_RD, bias_R)
    seconds = time.process_time() - begin
    total, reads = index.lists.nlist, 1
    most = max(1, total // _MOST_READ)
    while True:
        index.lists.nprobe = reads
        if reads == most or _recall(index, query_QD[::2], exact_QK[::2]).mean() >= _AIM:
            break
        reads = min(2 * reads, most)
    recall_Q = _recall(index, query_QD[1::2], exact_QK[1::2])
    recall = float(recall_Q.mean())
    if recall < LEAST_RECALL:
        raise InputError(
            f"approximate search finds {recall:.3f} of the exact best {exact_QK.shape[1]} items of {len(recall_Q)} "
            f"histories when it reads {reads} of {total} lists; wanted at least {LEAST_RECALL}. Export with --search "
            "exact: the service then scores the whole catalogue"
        )
    return index, {
        "library": f"faiss-cpu {metadata.version('faiss-cpu')}",
        "lists": total,
        "lists_read": reads,
        "depth": exact_QK.shape[1],
        "recall": recall,
        "recall_least": float(recall_Q.min()),
        "histories": len(recall_Q),
        "build_cpu_seconds": round(seconds, 1),
    }


def _recall(index: Index, query_QD: np.ndarray, exact_QK: np.ndarray) -> Float[np.ndarray, " Q"]:
    """Returns the share of the exact best items that the index finds, for each history."""
    found_QK, _ = index.best(query_QD, exact_QK.shape[1])
    return np.array([np.isin(exact_K, found_K).mean() for exact_K, found_K in zip(exact_QK, found_QK, strict=True)])


def recall_line(found: dict[str, Any]) -> str:
    """Returns the measurement of an index, as `measured` gave it, as one line."""
    return (
        f"approximate search finds {found['recall']:.4f} of the exact best {found['depth']} items (least of a history "
        f"{found['recall_least']:.2f}; {found['histories']} histories of the log), reading {found['lists_read']} of "
        f"{found['lists']} lists; building the index took {found['build_cpu_seconds']} s of CPU"
    )
