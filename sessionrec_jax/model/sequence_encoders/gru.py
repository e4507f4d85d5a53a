"""gru: a gated recurrent unit, the recurrent baseline, without positions.

The unit is by Cho et al. (1406.1078); as a recommender it is GRU4Rec's family (1511.06939).

Letters: R rows, L session slots, D width, G three gates' widths.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.dropout import drop
from sessionrec_jax.model.facts import matrix_in, vector
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.parametrization import branch_scale
from sessionrec_jax.model.sequence_encoder import LayerCost, SequenceEncoder


def first_of_user(
    config: Model, user_RL: Int[Array, "R L"], position_RL: Int[Array, "R L"], seconds_RL: Int[Array, "R L"]
) -> Bool[Array, "R L"]:
    """Returns True at the first slot of each user of a row, and at the first slot of the padding."""
    del config, position_RL, seconds_RL
    differs_RL = user_RL[:, 1:] != user_RL[:, :-1]
    return jnp.pad(differs_RL, ((0, 0), (1, 0)), constant_values=True)


class GruBlock(nn.Module):
    """x + h. The state h runs over x' = norm(x) and starts from zero at the first session of each user:

        r  = sigmoid(W_r x' + U_r h + b_r)
        z  = sigmoid(W_z x' + U_z h + b_z)
        h~ = tanh(W_h x' + b_h + r * (U_h h))
        h  = z * h + (1 - z) * h~

    The reset gate acts after the product with U_h (Cho et al. put it before). A slot then costs one product of the
    state with U, and W x' of all slots is one product outside the recurrence. The state is float32.
    """

    config: Model
    max_positions: int

    @nn.compact
    def __call__(
        self, x_RLD: Float[Array, "R L D"], first_RL: Bool[Array, "R L"], key_R: Key[Array, " R"] | None
    ) -> tuple[Float[Array, "R L D"], None]:
        width = self.config.width
        h_RLD = rms_norm(self, "norm", x_RLD)
        input_RLG = linear(self, "gates_in", h_RLD, 3 * width)
        input_RLG += self.param("gates_bias", nn.initializers.zeros, (3 * width,)).astype(x_RLD.dtype)
        state_DG = self.param("gates_state", nn.initializers.lecun_normal(), (width, 3 * width)).astype(x_RLD.dtype)

        def slot(
            h_RD: Float32[Array, "R D"], inputs: tuple[Float[Array, "R G"], Bool[Array, " R"]]
        ) -> tuple[Float32[Array, "R D"], Float[Array, "R D"]]:
            input_RG, first_R = inputs
            h_RD = jnp.where(first_R[:, None], 0, h_RD)
            from_state_RG = (h_RD.astype(x_RLD.dtype) @ state_DG).astype(jnp.float32)
            input_r, input_z, input_h = jnp.split(input_RG.astype(jnp.float32), 3, axis=1)
            state_r, state_z, state_h = jnp.split(from_state_RG, 3, axis=1)
            z_RD = jax.nn.sigmoid(input_z + state_z)
            new_RD = jnp.tanh(input_h + jax.nn.sigmoid(input_r + state_r) * state_h)
            h_RD = z_RD * h_RD + (1 - z_RD) * new_RD
            return h_RD, h_RD.astype(x_RLD.dtype)

        start_RD = jnp.zeros((x_RLD.shape[0], width), jnp.float32)
        _, out_LRD = jax.lax.scan(slot, start_RD, (input_RLG.swapaxes(0, 1), first_RL.swapaxes(0, 1)))
        out_RLD = out_LRD.swapaxes(0, 1) * branch_scale(self.config)
        return x_RLD + drop(out_RLD, self.config.dropout, key_R), None


def _layer_cost(model: Model, max_positions: int) -> LayerCost:
    matrices, biases_and_norm = 6 * model.width**2, 4 * model.width
    return LayerCost(parameters=matrices + biases_and_norm, multiplications=matrices)


ENCODER = SequenceEncoder(
    GruBlock,
    parameters=(matrix_in("gates_in|gates_state"), vector("gates_bias|norm")),
    layer_cost=_layer_cost,
    positions=(),
    prepare_slots=first_of_user,
)
