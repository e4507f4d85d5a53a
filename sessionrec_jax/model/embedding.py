"""The Embedding Module (paper, figure 2): item ID and side information, concatenated, one MLP, the item embedding e.

Letters: N items, V ids (0 = padding), W values of a side column or numbers of a content vector, E concatenated
width, D model width.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from sessionrec_jax.config.settings import Model
from sessionrec_jax.data.catalogue import ITEM_ID
from sessionrec_jax.model.facts import Parameter, matrix_out, vector
from sessionrec_jax.model.linear import linear

Side = dict[str, Shaped[Array, "V W"]]
"""Codes of each column of side information, and the numbers of each column of content vectors, by item."""
PARAMETERS = (
    Parameter("side_.*"),
    Parameter("vector_.*"),
    Parameter("mlp_in", ("fsdp", "model")),
    Parameter("linear", ("fsdp", None)),
    vector("mlp_bias"),
    matrix_out("mlp_out"),
)


class ItemEmbedding(nn.Module):
    """e = W2 silu(W1 x + b1) + W3 x for the concatenation x.

    The linear path is our choice: an ID can pass through it unchanged. A list column enters as the mean of its values.
    A missing value enters as zero, and so does a value out of the vocabulary: a row of its own would learn from
    negatives only, and would push the scores of new items far off (LOG.md). A content vector is not trained: it enters
    through one linear map to the side width. An item without a vector has zeros there."""

    config: Model
    rows: int
    """Rows of the ID table."""
    side_values: tuple[tuple[str, int], ...]
    """Side columns and their number of values; the code above them is out of the vocabulary."""
    vector_widths: tuple[tuple[str, int], ...] = ()
    """Columns of content vectors and their number of floats."""

    @nn.compact
    def __call__(
        self, item_N: Int[Array, " N"], side: Side, has_id_N: Bool[Array, " N"] | None = None, *, scored: bool = False
    ) -> Float[Array, "N D"]:
        """Returns the embeddings of any items. `has_id_N`: the items that enter with their ID; None: all. `scored`: for
        scoring, so that columns that `scored_by` does not name are zero."""
        config, parts = self.config, []
        seen = {ITEM_ID, *dict(self.side_values), *dict(self.vector_widths)}
        left_out = seen.difference(config.scored_by) if scored and config.scored_by else set()
        if ITEM_ID in left_out:
            parts.append(jnp.zeros((len(item_N), config.id_width)))
        elif config.id_width:
            table_VE = self.param(
                "item_table", nn.initializers.normal(config.id_init_std), (self.rows, config.id_width)
            )
            id_NE = table_VE[item_N]
            parts.append(id_NE if has_id_N is None else jnp.where(has_id_N[:, None], id_NE, 0))
        for name, values in self.side_values:
            if name in left_out:
                parts.append(jnp.zeros((len(item_N), config.side_width)))
                continue
            table_CE = self.param(f"side_{name}", nn.initializers.normal(0.1), (values + 1, config.side_width))
            code_NW = side[name][item_N]
            is_known_NW = (code_NW > 0) & (code_NW <= values)
            known_NW = is_known_NW.astype(jnp.float32)
            mean_NE = jnp.einsum("NWE,NW->NE", table_CE[jnp.where(is_known_NW, code_NW, 0)], known_NW)
            parts.append(mean_NE / jnp.maximum(known_NW.sum(axis=1, keepdims=True), 1.0))
        for name, _ in self.vector_widths:
            if name in left_out:
                parts.append(jnp.zeros((len(item_N), config.side_width)))
                continue
            vector_NW = side[name][item_N].astype(config.compute)
            parts.append(linear(self, f"vector_{name}", vector_NW, config.side_width))
        # Rounded after the lookup, so that the gradients of an item that occurs several times add up in float32.
        x_NE = jnp.concatenate(parts, axis=1).astype(config.compute)
        width = config.width
        h_ND = linear(self, "mlp_in", x_NE, width)
        h_ND += self.param("mlp_bias", nn.initializers.zeros, (width,)).astype(x_NE.dtype)
        return linear(self, "mlp_out", jax.nn.silu(h_ND), width) + linear(self, "linear", x_NE, width)
