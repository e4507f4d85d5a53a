"""What changes with the size of the model so that the best learning rate does not: muP in width, CompleteP in depth.

`standard` changes nothing. `mup` takes the initial variances and learning rates of muP for Adam (Yang et al.
2203.03466, table 8) and, in depth, the residual branches of CompleteP with alpha = 1 (Dey et al. 2505.01618, table 1).
Both are written as ratios to a base model, for which mup and standard are the same. With m = width / base width:

| part | fan-in | initial variance | learning rate | in the forward pass |
|---|---|---|---|---|
| what comes in: side, context, feedback, positions, item MLP's first matrices; biases, norms | fixed | fixed | 1 | |
| matrices that sum over the width | ~ m | 1 / fan-in | 1 / m | |
| attention logits, head width H | | | | sqrt(H0) / H, HSTU H0 / H |
| residual branches of the sequence encoder | | as at the base depth | | base layers / layers |
| score, an inner product over the width | | | | 1 / m |
| ID table, item bias | none | fixed | 1 | |

The ID table keeps its rate under `table_rule` adagrad and adam, dense and sparse. Its width is `id_width`, which does
not grow with the model's, and both rules take the size of the gradient out, so that a step moves each number of a row
by the rate in any width. What reads the row, mlp_in and linear, sums over id_width and the side columns, a fixed number
with fixed variance: each coordinate of e then moves as much in any width, which is what muP asks of an input's table.
If id_width grew too, the table would still keep its rate, and mlp_in and linear would need theirs divided by as much;
hold it, side_width and mlp_ratio as they were tuned.

The score's readout is the item embedding e, whose coordinates keep their size; the heads q and r that meet it sum over
the width like any hidden matrix, from zero. A cosine score is bounded by itself; the rank score beside it, r . e with e
of length one, has coordinates of size 1 / sqrt(m) on one side and so takes 1 / sqrt(m).

The base also sets how fast the scores move beside the features, which standard shifts towards the scores as the width
grows: tune the widest base that can be paid for, not the narrowest.

Depth: alpha = 1 and not 1/2 (Yang et al. 2310.02244), since the branches here are several matrices deep, where 1/2
lets them linearize and did not transfer (Dey et al.); and with 1 no learning rate depends on the depth.

Weight decay is not scaled: a matrix forgets the share learning rate x weight decay a step, whatever its own learning
rate, so that the time over which AdamW averages is the same in all sizes (Wang & Aitchison 2405.13698). Adam's epsilon
is taken for zero: at width 256 and 16 layers the gradients are still 500 times as large. No jax in this file.
"""

from __future__ import annotations

import re

from sessionrec_jax.config.settings import Model

_FIXED, _WIDTH = "fixed", "width"

_FAN_IN: tuple[tuple[str, str], ...] = (
    (r"item_embedding/(side_.*|mlp_in|linear|mlp_bias)", _FIXED),
    (r"item_embedding/mlp_out", _WIDTH),
    (r"session_context/context_.*", _FIXED),
    (r"session_encoder/(feedback|bias|block/norm_\w+)", _FIXED),
    (r"session_encoder/(project|attention|block/(qkv|attention_out|mlp_in|mlp_gate|mlp_out))", _WIDTH),
    (r"sequence_encoder/(position|norm_in|norm_out|blocks/(norm\w*|place_bias|time_bias|gates_bias))", _FIXED),
    (r"sequence_encoder/blocks/(qkv|attention_out|mlp_in|mlp_gate|mlp_out)", _WIDTH),
    (r"sequence_encoder/blocks/(uvqk|out|gates_in|gates_state)", _WIDTH),
    (r"heads/(retrieval|rank)", _WIDTH),
    (r"heads/(rank_bias|log_temperature)", _FIXED),
)
"""Path of a body parameter -> what it sums over. Each path matches one row."""


def learning_rate_multiplier(model: Model, path: str) -> float:
    """Of the body parameter at `path`, such as sequence_encoder/blocks/qkv: its learning rate over that of the run.
    Raises ValueError where the table does not have the path exactly once."""
    found = [fan_in for pattern, fan_in in _FAN_IN if re.fullmatch(pattern, path)]
    if len(found) != 1:
        raise ValueError(f"parameter {path!r} matches {len(found)} rows of _FAN_IN; give it exactly one")
    return 1 / width_ratio(model) if found[0] == _WIDTH else 1.0


def width_ratio(model: Model) -> float:
    """m."""
    return _under_mup(model, model.width / model.base_width)


def head_width_ratio(model: Model) -> float:
    """H / H0. The logits of softmax attention, scaled by H**-0.5, take its root besides; those of HSTU all of it."""
    return _under_mup(model, (model.width / model.heads) / (model.base_width / model.base_heads))


def branch_scale(model: Model) -> float:
    """Factor of each residual branch of the sequence encoder."""
    return _under_mup(model, model.base_layers / model.layers)


def initial_layers(model: Model) -> int:
    """The depth for which the branches' last matrices start small."""
    return model.base_layers if model.parametrization == "mup" else model.layers


def readout_scales(model: Model) -> tuple[float, float]:
    """Factors of the retrieval and of the rank score."""
    m = width_ratio(model)
    return (1.0, m**-0.5) if model.score == "cosine" else (1 / m, 1 / m)


def _under_mup(model: Model, ratio: float) -> float:
    return ratio if model.parametrization == "mup" else 1.0
