"""muP in width and CompleteP in depth: scales that keep the best learning rate the same for all sizes.

`standard` changes nothing. `mup` takes the initial variances and learning rates of muP for Adam (Yang et al.
2203.03466, table 8) and, in depth, the residual branches of CompleteP with alpha = 1 (Dey et al. 2505.01618, table 1).
Both are ratios to a base model, for which mup and standard are the same. With m = width / base width:

| part | fan-in | initial variance | learning rate | in the forward pass |
|---|---|---|---|---|
| inputs (side, context, feedback, positions, item MLP's first matrices); biases, norms | fixed | fixed | 1 | |
| matrices that sum over the width | ~ m | 1 / fan-in | 1 / m | |
| attention logits, head width H | | | | sqrt(H0) / H, HSTU H0 / H |
| residual branches of the sequence encoder | | as at the base depth | | base layers / layers |
| score, an inner product over the width | | | | 1 / m |
| ID table, item bias | none | fixed | 1 | |

The ID table keeps its rate under `table_rule` adagrad and adam, dense and sparse. Its width `id_width` does not grow
with the model's, and both rules remove the size of the gradient, so a step moves each number of a row by the rate in
any width. mlp_in and linear read the row and sum over id_width and the side columns, a fixed number with fixed
variance. Each coordinate of e then moves equally in any width, as muP requires of an input table. If id_width grew, the
table would still keep its rate, but mlp_in and linear would need theirs divided by the same factor; so keep id_width,
side_width and mlp_ratio as they were tuned.

The score's readout is the item embedding e, whose coordinates keep their size. The heads q and r sum over the width
like any hidden matrix, and start at zero. A cosine score is bounded. Next to it the rank score r . e, with e of length
one, has coordinates of size 1 / sqrt(m) on one side, so its scale is 1 / sqrt(m).

The base also sets how fast the scores move compared with the features; under standard this shifts towards the scores as
the width grows. So tune the widest base that you can afford.

Depth: alpha is 1 and not 1/2 (Yang et al. 2310.02244), because the branches here are several matrices deep. There 1/2
lets them linearize and did not transfer (Dey et al.). With 1 no learning rate depends on the depth.

Weight decay is not scaled: in each step a matrix loses the share learning rate x weight decay for any learning rate of
its own, so AdamW averages over the same time in all sizes (Wang & Aitchison 2405.13698). Adam's epsilon is treated as
zero: at width 256 and 16 layers the gradients are still 500 times as large. No jax in this file. The fan-ins are
`sums_over_width` in each module's parameter table (facts.py).
"""

from __future__ import annotations

from sessionrec_jax.config.settings import Model


def width_ratio(model: Model) -> float:
    """Returns m = width / base width; 1 under standard."""
    return _under_mup(model, model.width / model.base_width)


def head_width_ratio(model: Model) -> float:
    """Returns H / H0. Softmax attention, scaled by H**-0.5, divides its logits by the root of it as well; HSTU divides
    by all of it."""
    return _under_mup(model, (model.width / model.heads) / (model.base_width / model.base_heads))


def branch_scale(model: Model) -> float:
    """Returns the factor of each residual branch of the sequence encoder."""
    return _under_mup(model, model.base_layers / model.layers)


def initial_layers(model: Model) -> int:
    """Returns the depth for which the initial values of the branches' last matrices are scaled down."""
    return model.base_layers if model.parametrization == "mup" else model.layers


def readout_scales(model: Model) -> tuple[float, float]:
    """Returns the factors of the retrieval score and of the rank score."""
    m = width_ratio(model)
    return (1.0, m**-0.5) if model.score == "cosine" else (1 / m, 1 / m)


def _under_mup(model: Model, ratio: float) -> float:
    return ratio if model.parametrization == "mup" else 1.0
