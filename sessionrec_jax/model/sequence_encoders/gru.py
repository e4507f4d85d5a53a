"""The layer of a gated recurrent unit (Cho et al. 1406.1078): the recurrent baseline (GRU4Rec's family, 1511.06939).

Letters: R rows, L session slots, D width, G three gates' widths.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Key

from sessionrec_jax.config.settings import Model
from sessionrec_jax.model.dropout import drop
from sessionrec_jax.model.linear import linear
from sessionrec_jax.model.norm import rms_norm
from sessionrec_jax.model.parametrization import branch_scale


def first_of_user(user_RL: Int[Array, "R L"]) -> Bool[Array, "R L"]:
    """True at the first slot of each packed user, and of the padding."""
    differs_RL = user_RL[:, 1:] != user_RL[:, :-1]
    return jnp.pad(differs_RL, ((0, 0), (1, 0)), constant_values=True)


class GruBlock(nn.Module):
    """x + h, where h runs over x' = norm(x) from zero at the first session of each user:

        r  = sigmoid(W_r x' + U_r h + b_r)
        z  = sigmoid(W_z x' + U_z h + b_z)
        h~ = tanh(W_h x' + b_h + r * (U_h h))
        h  = z * h + (1 - z) * h~

    The reset gate acts after the product with U_h (Cho et al. put it before), so that a slot costs one product of the
    state with U, and W x' of all slots is one product outside the recurrence. The state is float32.
    """

    config: Model
    positions: int

    @nn.compact
    def __call__(
        self, x_RLD: Float[Array, "R L D"], first_RL: Bool[Array, "R L"], key_R: Key[Array, " R"] | None
    ) -> tuple[Float[Array, "R L D"], None]:
        width, matrix = self.config.width, nn.initializers.lecun_normal()
        h_RLD = rms_norm(self, "norm", x_RLD)
        input_RLG = linear(self, "gates_in", matrix, h_RLD, 3 * width)
        input_RLG += self.param("gates_bias", nn.initializers.zeros, (3 * width,)).astype(x_RLD.dtype)
        state_DG = self.param("gates_state", matrix, (width, 3 * width)).astype(x_RLD.dtype)

        def slot(
            h_RD: Float32[Array, "R D"], of_slot: tuple[Float[Array, "R G"], Bool[Array, " R"]]
        ) -> tuple[Float32[Array, "R D"], Float[Array, "R D"]]:
            input_RG, first_R = of_slot
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
