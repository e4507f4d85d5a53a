"""SessionRec's training step in PyTorch: the mean encoder, the Transformer, sampled softmax, Adam and lazy Adam.

It uses what PyTorch is good at and XLA is not. Shapes may change from step to step, so an item embedding is computed
once for each distinct item, and only what is scored is gathered. The loader (`Batch.of`, not timed) finds those
places. Letters as in the model: T items, S session slots, M distinct items of a step, N negatives, C scored clicks, X
scored exposures, D width, E ID width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from sessionrec_jax.config.settings import Model, Optim
from sessionrec_jax.data.codes import CLICKED
from sessionrec_jax.model.spec import Inputs


class Batch(NamedTuple):
    item_T: Tensor
    feedback_T: Tensor
    starts_S: Tensor
    """First item of each session."""
    position_RL: Tensor
    mask_R1LL: Tensor
    user_starts_U1: Tensor
    """First session of each user, and one past the last session. Flash attention takes these in place of the mask."""
    exposed_X: Tensor
    """Places in T of the items that are scored."""
    query_X: Tensor
    """The session before each of these."""
    clicked_X: Tensor
    click_C: Tensor
    """Places in T of the clicked among them."""
    query_C: Tensor

    @classmethod
    def of(cls, inputs: Inputs, target_S: np.ndarray) -> Batch:
        """Makes the batch of one shard. All its slots must hold a session, and all its sessions items."""
        session_T = inputs.session_of_item_T
        exposed_X = np.flatnonzero(target_S[session_T])
        clicked_X = inputs.feedback_T[exposed_X] == CLICKED
        query_X = session_T[exposed_X] - 1
        user_RL = inputs.user_of_session_RL
        mask_RLL = (user_RL[:, :, None] == user_RL[:, None, :]) & np.tri(user_RL.shape[1], dtype=bool)
        user_starts_U1 = np.append(np.flatnonzero(inputs.position_RL.reshape(-1) == 0), user_RL.size).astype(np.int32)
        arrays = (inputs.item_T, inputs.feedback_T, np.searchsorted(session_T, np.arange(user_RL.size)),
                  inputs.position_RL, mask_RLL[:, None], user_starts_U1, exposed_X, query_X, clicked_X,
                  exposed_X[clicked_X], query_X[clicked_X])  # fmt: skip
        kept = (bool, user_starts_U1.dtype)
        return cls(*(torch.tensor(x if x.dtype in kept else x.astype(np.int64)) for x in arrays))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_in, self.mlp_out = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x_RLD: Tensor, batch: Batch) -> Tensor:
        slots = x_RLD.shape[1]
        # by head first, as in our side's matrix
        qkv_RLN3H = self.qkv(self.norm_attention(x_RLD)).unflatten(-1, (self.heads, 3, -1))
        if qkv_RLN3H.is_cuda and qkv_RLN3H.dtype == torch.bfloat16:
            starts = (batch.user_starts_U1, batch.user_starts_U1, slots, slots)
            # a window of nothing ahead: causal
            a_RLNH = varlen_attn(*qkv_RLN3H.flatten(0, 1).unbind(2), *starts, window_size=(-1, 0))
        else:
            q_RNLH, k_RNLH, v_RNLH = qkv_RLN3H.permute(3, 0, 2, 1, 4).unbind(0)
            a_RNLH = F.scaled_dot_product_attention(q_RNLH, k_RNLH, v_RNLH, attn_mask=batch.mask_R1LL)
            a_RLNH = a_RNLH.transpose(1, 2)
        x_RLD = x_RLD + self.attention_out(a_RLNH.reshape(x_RLD.shape))
        return x_RLD + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(x_RLD)), approximate="tanh"))


class Net(nn.Module):
    """The model without the item tables."""

    def __init__(self, model: Model, positions: int, feedback_kinds: int):
        super().__init__()
        width = model.width
        self.mlp_in = nn.Linear(model.id_width, width)
        self.mlp_out, self.linear = nn.Linear(width, width, bias=False), nn.Linear(model.id_width, width, bias=False)
        self.feedback = nn.Parameter(torch.empty(feedback_kinds, width))
        self.project = nn.Linear(width, width, bias=False)
        self.position = nn.Parameter(torch.empty(positions, width))
        self.norm_in, self.norm_out = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        blocks = (Block(width, model.heads, model.mlp_ratio * width) for _ in range(model.layers))
        self.blocks = nn.ModuleList(blocks)
        self.retrieval, self.rank = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.rank_bias = nn.Parameter(torch.empty(()))

    def forward(
        self,
        x_ME: Tensor,
        bias_M: Tensor,
        batch: Batch,
        place_T: Tensor,
        place_N: Tensor,
        log_weight_N: Tensor,
        log_q_C: Tensor,
        own: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Returns retrieval nats per click and rank nats per exposure.

        `x_ME` and `bias_M` are rows of the tables. `own` are (session, negative) pairs to leave out, because the next
        session clicked the item.
        """
        e_MD = self.mlp_out(F.silu(self.mlp_in(x_ME))) + self.linear(x_ME)
        # the mean of sums is the sum of means: no array of T rows is made
        s_SD = F.embedding_bag(place_T, e_MD, batch.starts_S, mode="mean")
        s_SD = s_SD + F.embedding_bag(batch.feedback_T, self.feedback, batch.starts_S, mode="mean")
        s_RLD = self.project(s_SD).view(*batch.position_RL.shape, -1)
        x_RLD = self.norm_in(s_RLD) + F.embedding(batch.position_RL, self.position)
        for block in self.blocks:
            x_RLD = block(x_RLD, batch)
        o_SD = self.norm_out(x_RLD).view(s_SD.shape)

        q_SD, r_SD = self.retrieval(o_SD), self.rank(o_SD)
        score_SN = torch.addmm(bias_M[place_N] + log_weight_N, q_SD, F.embedding(place_N, e_MD).T)
        score_SN = score_SN.index_put(own, score_SN.new_tensor(-torch.inf))
        place_C = place_T[batch.click_C]
        positive_C = (F.embedding(batch.query_C, q_SD) * F.embedding(place_C, e_MD)).sum(1) + bias_M[place_C] - log_q_C
        nats_C = torch.logaddexp(positive_C, score_SN.logsumexp(1)[batch.query_C]) - positive_C
        e_XD = F.embedding(place_T[batch.exposed_X], e_MD)
        logit_X = (F.embedding(batch.query_X, r_SD) * e_XD).sum(1) + self.rank_bias
        return nats_C.mean(), F.binary_cross_entropy_with_logits(logit_X, batch.clicked_X.float())


class Stepper:
    """A model with its optimizers. SparseAdam reads and updates the tables row by row."""

    def __init__(self, model: Model, optimizer: Optim, alpha: float, rate: float, params: dict[str, Any],
                 log_q_V: np.ndarray, compiled: bool):  # fmt: skip
        sequence, session = params["sequence_encoder"], params["session_encoder"]
        self.net = Net(model, len(sequence["position"]), len(session["feedback"]))
        self.table, self.bias = (
            nn.Parameter(torch.tensor(x))
            for x in (params["item_embedding"]["item_table"], params["heads"]["item_bias"])
        )
        self.net.load_state_dict({name: torch.tensor(x) for name, x in of_params(params).items()})
        self.loss = torch.compile(self.net, dynamic=True) if compiled else self.net
        matrices = {name for name, x in self.net.named_parameters() if x.ndim == 2}
        groups = [
            {"params": [x for name, x in self.net.named_parameters() if (name in matrices) == decays],
             "weight_decay": optimizer.weight_decay * decays}
            for decays in (True, False)
        ]  # fmt: skip
        betas = (optimizer.beta1, optimizer.beta2)
        self.body = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)
        self.tables = torch.optim.SparseAdam([self.table, self.bias], rate * optimizer.table_rate_ratio, betas)
        self.clip_norm, self.alpha, self.is_bfloat16 = optimizer.clip_norm, alpha, model.compute == "bfloat16"
        self.log_q_V = torch.tensor(log_q_V)
        self.cumulative_V = self.log_q_V.double().exp().cumsum(0)

    def draw(self, negatives: int) -> Tensor:
        drawn_N = torch.searchsorted(self.cumulative_V, torch.rand(negatives, dtype=torch.float64), right=True)
        return drawn_N.clamp_(1, len(self.log_q_V) - 1)

    def __call__(self, batch: Batch, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Takes a step against the drawn negatives. Returns the nats per click and per exposure before it."""
        negative_N, times_N = torch.unique(draw, return_counts=True)
        item_M, place_X = torch.unique(torch.cat([batch.item_T, negative_N]), return_inverse=True)
        place_T, place_N = place_X.split([len(batch.item_T), len(negative_N)])
        negative_of_M = torch.full((len(item_M),), -1)
        negative_of_M[place_N] = torch.arange(len(place_N))
        negative_C = negative_of_M[place_T[batch.click_C]]
        own = negative_C >= 0

        x_ME = self.table.detach()[item_M].requires_grad_()
        bias_M = self.bias.detach()[item_M].requires_grad_()
        log_weight_N = times_N.log() - self.log_q_V[negative_N]
        log_q_C = self.log_q_V[batch.item_T[batch.click_C]]
        pairs = (batch.query_C[own], negative_C[own])
        with torch.autocast(x_ME.device.type, torch.bfloat16, enabled=self.is_bfloat16):
            retrieval, rank = self.loss(x_ME, bias_M, batch, place_T, place_N, log_weight_N, log_q_C, pairs)
        (retrieval + self.alpha * rank).backward()

        rows = {self.table: x_ME.grad, self.bias: bias_M.grad}
        gradients = [*rows.values(), *(x.grad for x in self.net.parameters())]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, (self.clip_norm / norm).clamp(max=1.0))
        for table, gradient in rows.items():
            table.grad = torch.sparse_coo_tensor(item_M[None], gradient, table.shape, is_coalesced=True)
        self.body.step()
        self.tables.step()
        self.body.zero_grad()
        return retrieval.detach(), rank.detach()

    def moments(self) -> dict[str, np.ndarray]:
        """Returns first moments by the names of `of_params`. After one step they are gradient x (1 - beta1)."""
        of_body = {name: self.body.state[x]["exp_avg"] for name, x in self.net.named_parameters()}
        of_tables = {"item_table": self.tables.state[self.table], "item_bias": self.tables.state[self.bias]}
        return {name: x.cpu().numpy() for name, x in of_body.items()} | {
            name: state["exp_avg"].cpu().numpy() for name, state in of_tables.items()
        }


def of_params(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Renames our parameters to the names of Net. Matrices are transposed and layers are unstacked."""
    embedding, session, sequence, heads = (
        params[name] for name in ("item_embedding", "session_encoder", "sequence_encoder", "heads")
    )
    matrices = {
        **{name: embedding[name] for name in ("mlp_in", "mlp_out", "linear")},
        "project": session["project"],
        **{name: heads[name] for name in ("retrieval", "rank")},
    }
    plain = {"mlp_in.bias": embedding["mlp_bias"], "feedback": session["feedback"], "position": sequence["position"],
             "norm_in.weight": sequence["norm_in"], "norm_out.weight": sequence["norm_out"],
             "rank_bias": heads["rank_bias"]}  # fmt: skip
    for name, stacked in sequence["blocks"].items():
        into = plain if name.startswith("norm") else matrices
        into |= {f"blocks.{layer}.{name}": x for layer, x in enumerate(np.asarray(stacked))}
    plain = {
        name if "norm" not in name or name.endswith(".weight") else f"{name}.weight": x for name, x in plain.items()
    }
    return {name: np.asarray(x) for name, x in plain.items()} | {
        f"{name}.weight": np.ascontiguousarray(np.asarray(x).T) for name, x in matrices.items()
    }
