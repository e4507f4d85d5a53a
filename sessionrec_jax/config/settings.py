"""Every setting of a run: frozen dataclasses, one home each, with units in the names. No jax in this file.

A Config is a value: `config_rules.check` refuses what cannot run, `train.resolve` fills in what the prepared log
decides, `config_values` replaces, stores and names it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro

CONFIG_VERSION = 3
"""Raised when a field changes its meaning; a run folder of another version is refused."""


@dataclass(frozen=True)
class Data:
    """Which log, how much of it, and the shape of a packed batch (contract 2)."""

    path: tyro.conf.Suppress[str] = ""
    """Folder that `sessionrec prepare` wrote. It does not enter the run's id: the fingerprint does."""
    fingerprint: tyro.conf.Suppress[str] = ""
    """Hash of the prepared log. Empty: taken from the folder; a run refuses a folder with another one."""
    users: int = 0
    """Train on the first n training users in the log's fixed random order (nested subsets). 0: all."""
    eval_users: int = 0
    """Score at most the first n users that have a held-out session. 0: all."""
    eval_seen: Literal["kept", "masked"] = "kept"
    """Items that a user was shown before, in the ranking metrics.
    kept: candidates and targets like any other
    masked: neither, as for a service that never shows an item twice"""
    eval_candidates: Literal["catalogue", "shown"] = "catalogue"
    """What held-out sessions are scored among.
    catalogue: all items: likelihood of the clicked items, recall and the like; costs clicks x items
    shown: each session's own exposures: the rank loss and AUC alone, at no such cost"""
    rows: int = 32
    """Rows of a batch over all devices together; a multiple of the number of devices."""
    sessions_per_row: int = 64
    """Slots of a row: sessions (nspp) or items (nipp, nipp_plus)."""
    window: int = 0
    """Most slots of one user that are seen at once, the target among them. 0: a whole row."""
    side_columns: tuple[str, ...] = ()
    """Columns of side information that the model sees. None named: all."""
    session_context: tuple[str, ...] = ()
    """Columns of session context that the model sees. None named: all; `none`: not one."""
    items_per_row: int = 0
    """Item slots of a row. 0: sessions_per_row x the log's mean exposures a session x 1.06; an item-level paradigm has
    one a slot."""

    @property
    def slots(self) -> int:
        """`window` with 0 decided."""
        return self.window or self.sessions_per_row


@dataclass(frozen=True)
class Model:
    """Sizes and variants. The paper gives none of them: every default here is our choice."""

    session_encoder: Literal["mean", "sum", "max", "typed_mean", "attention", "transformer"] = "typed_mean"
    """ISE: how the items of a session become its vector.
    mean: over its items, the paper's
    sum: over its items
    max: over its items, feature by feature
    typed_mean: one mean per feedback kind, each projected, added
    attention: learned softmax weights, head by head
    transformer: one layer over the items of the session, then their mean"""
    sequence_encoder: Literal["transformer", "hstu", "gru"] = "transformer"
    """SSE: how the sessions of a history become its state.
    transformer: pre-norm, causal softmax attention, as SASRec
    hstu: pointwise SiLU attention with gating (Zhai et al. 2402.17152)
    gru: recurrent baseline"""
    positions: Literal["auto", "learned", "rotary", "relative_time"] = "auto"
    """Place and time in attention; the GRU has none of them.
    auto: learned for the Transformer, relative_time for HSTU
    learned: an embedding of the place, added to the session
    rotary: queries and keys turned by the place
    relative_time: a learned bias by the distance in places and in time"""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP of the Transformers.
    gelu: two matrices
    swiglu: three, gated (Shazeer 2002.05202)"""
    width: int = 64
    """Width of item embeddings, session vectors and the sequence encoder."""
    layers: int = 2
    """Layers of the sequence encoder."""
    heads: int = 2
    """Attention heads; divides width."""
    mlp_ratio: int = 4
    """Hidden width of the MLPs over width."""
    dropout: float = 0.0
    """Share of the session vectors, and of each residual branch of the sequence encoder, that a step leaves out."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations and of the matrix products. Parameters, their gradients, the optimizer, norms, softmaxes
    and losses are float32 either way, and so is evaluation.
    float32: multiplied as the device does by default (TF32 on NVIDIA, bfloat16 passes on a TPU)
    bfloat16: half the memory, and several times the speed where the device has units for it; a CPU has none"""
    remat: bool = True
    """Compute each layer's activations again in the backward pass rather than keep them."""
    clicked_in_input: bool = True
    """Clicked exposures of the history enter the session vector. Without them and the ignored ones the model reads the
    context alone, such as queries: what a learner that counts by query sees."""
    ignored_in_input: bool = True
    """Ignored exposures of the history enter the session vector; either way they are negatives of the rank loss."""
    id_width: int = 32
    """Width of the item-ID embedding before the item MLP. 0: no ID table, side information only."""
    id_init_std: float = 0.02
    """Standard deviation of the ID table's initial values. 0: an item that training never shows is known by its side
    information alone, where otherwise its vector is noise."""
    id_dropout: float = 0.0
    """Share of the sessions of a step whose items enter without their ID, so that the model learns what to say of items
    that training never shows."""
    side_width: int = 16
    """Width of each side-information embedding before the item MLP."""
    scored_by: tuple[str, ...] = ()
    """What tells items apart when they are scored: columns of side information, and item_id for the ID. What is not
    named is known of the items of the history alone; popularity always counts. None named: all that the model sees."""
    score: Literal["dot", "cosine"] = "dot"
    """How a query meets an item.
    dot: inner product
    cosine: both of length one in the retrieval score, the item in the rank score too"""
    temperature: float = 1.0
    """Divides the retrieval score before the item's bias is added; with cosine about 0.05."""
    temperature_learned: bool = False
    """Train the temperature from this start."""
    parametrization: Literal["standard", "mup"] = "standard"
    """How initial values and learning rates follow the size (parametrization.py).
    standard: they do not, so the best learning rate falls as the model grows
    mup: so that the best learning rate of the base model is that of all sizes (2203.03466, 2505.01618)"""
    base_width: int = 64
    """Width of the base model of mup, the one that is tuned; there mup and standard are the same. id_width, side_width
    and mlp_ratio have no base: they stay as they were tuned."""
    base_layers: int = 2
    """Layers of the sequence encoder of the base model."""
    base_heads: int = 2
    """Attention heads of the base model; divides base_width."""

    @property
    def places(self) -> Literal["none", "learned", "rotary", "relative_time"]:
        """`positions` with `auto` decided."""
        if self.sequence_encoder == "gru":
            return "none"
        if self.positions == "auto":
            return "relative_time" if self.sequence_encoder == "hstu" else "learned"
        return self.positions


@dataclass(frozen=True)
class Loss:
    """L = L_retrieval + alpha * L_rank (paper). The forms, alpha and the negatives are our choice."""

    retrieval: Literal["sampled_softmax", "full_softmax", "bce"] = "sampled_softmax"
    """L_retrieval, nats per clicked item.
    sampled_softmax: against sampled negatives
    full_softmax: against the whole catalogue, chunk by chunk
    bce: a logistic loss against each sampled negative (NCE with log-q, otherwise SASRec's)"""
    rank: Literal["pointwise", "pairwise", "listwise"] = "pointwise"
    """L_rank, over the exposures of the target session.
    pointwise: logistic loss of each, nats per exposure
    pairwise: RankNet over the clicked x ignored pairs, nats per pair
    listwise: softmax of each click against the ignored, nats per click"""
    alpha: float = 1.0
    """Weight of the rank loss beside the retrieval loss (nats per clicked item). 0: no rank loss."""
    negatives: int = 512
    """Sampled negatives a step, shared by all sessions of the batch on all devices."""
    negatives_from: Literal["mixed", "uniform", "log_uniform", "in_batch"] = "mixed"
    """Where negatives are drawn from.
    mixed: a share uniformly from the catalogue, the rest by training clicks
    uniform: all items alike
    log_uniform: by the logarithm of the popularity rank
    in_batch: the clicked items of the batch's target sessions"""
    negatives_uniform: float = 0.5
    """Share of the mixed proposal that is uniform."""
    log_q: bool = True
    """Correct the score of sampled items for their chance to be drawn, so that the true distribution is the optimum."""
    other_clicks: Literal["masked", "counted"] = "masked"
    """The other clicked items of the target session.
    masked: never negatives
    counted: drawn like any item; only so the optimum is the true distribution, which a known floor asks for"""


@dataclass(frozen=True)
class Optim:
    """AdamW (body) and `table_rule` (item tables) under linear warm-up and cosine decay to zero. All our choice."""

    learning_rate_peak: float = 3e-3
    learning_rate_rule: Literal["fixed", "tuned"] = "fixed"
    """Where the peak is from, for those who read the row. It does not enter the run's id.
    fixed: one for all sizes
    tuned: chosen for this size"""
    warmup_fraction: float = 0.05
    """Share of all steps spent on the linear warm-up."""
    weight_decay: float = 0.01
    """Decoupled decay (times the learning rate) of the body's matrices."""
    table_rate_ratio: float = 10.0
    """Learning rate of the item tables over that of the body."""
    table_rule: Literal["adagrad", "adam"] = "adagrad"
    """How the rows of the item tables move.
    adagrad: row-wise, one accumulator a row
    adam: two moments a number, without decay"""
    table_update: Literal["dense", "sparse"] = "dense"
    """Which of their rows a step updates.
    dense: every row
    sparse: the rows that the step reads; its cost does not grow with the catalogue. Under adagrad without a prior the
    same numbers; under adam the lazy variant: a row's moments stand still while it is not read. The prior acts on the
    rows that are read."""
    table_prior: float = 0.0
    """Precision of a Gaussian prior on the ID table: adds table_prior / (2 target sessions) x squared norm to the loss,
    so that the same value suits every amount of data."""
    clip_norm: float = 1.0
    """Global gradient norm above which the gradient is scaled down."""
    beta1: float = 0.9
    beta2: float = 0.98


@dataclass(frozen=True)
class Mesh:
    """Devices. One device is the same code."""

    data: int = 0
    """Devices on the `data` axis, over which the batch is shared out. 0: all that the other axes leave."""
    fsdp: int = 1
    """Devices on the `fsdp` axis: the batch is shared out over it too, and so are the body's matrices."""
    model: int = 1
    """Devices on the `model` axis: the rows of the item tables and the body's hidden widths are shared out over it."""


@dataclass(frozen=True)
class Hosts:
    """Processes that train one model together, usually one a machine. No part of a Config: a run may go on in another
    number of them. All need the same settings, and one file system with the log and the run folder."""

    coordinator: str = ""
    """HOST:PORT where process 0 listens; `auto`: this and the next two from the launcher, which is srun, mpirun (Open
    MPI), a Kubernetes Job or JobSet, or a TPU pod. Empty: one process."""
    count: int = 0
    """Processes."""
    index: int = -1
    """Number of this one, from 0."""
    timeout_seconds: float = 300.0
    """How long they wait for each other: to meet, with their parts of a checkpoint, and at the end."""
    lost_after_seconds: float = 100.0
    """A process that is silent for so long counts as lost, and all others end."""


@dataclass(frozen=True)
class Train:
    """Length, randomness and upkeep of a run."""

    seed: int = 0
    """Root of all randomness: parameters, negatives and data order."""
    epochs: float = 8.0
    """Passes over the training sessions; the number of steps follows from it and the batch shape."""
    microbatches: int = 1
    """Parts that the batch of a step is computed in, one after the other, for the memory of one and the same update:
    the losses are ratios of sums over the whole batch. It does not enter the run's id."""
    checkpoint_every_seconds: float = 120.0
    """Wall time between checkpoints. It does not enter the run's id."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay, besides the best by validation. It does not enter the run's id."""
    validations: int = 0
    """Passes over the validation sessions during training, evenly spread, the last one at its end; the checkpoint with
    the lowest objective there stays. data.eval_users bounds what a pass costs. 0: none."""
    evaluated: Literal["last", "best"] = "last"
    """Parameters that the row, `evaluate` and `recommend` take.
    last: of the last step
    best: of the best validation; what was seen is counted to the last step all the same"""
    log_every_steps: int = 50
    """Steps between lines of metrics.jsonl. It does not enter the run's id."""
    profile_steps: int = 0
    """Steps to trace into RUN/profile for XProf or TensorBoard, after ten others. 0: none. It does not enter the run's
    id."""


@dataclass(frozen=True)
class Config:
    paradigm: Literal["nspp", "nipp", "nipp_plus"] = "nspp"
    """What a slot of the sequence is, and predicts; all are scored at the borders of sessions, on the same targets.
    nspp: a session; all clicks of the next
    nipp: a clicked item; the next click
    nipp_plus: an exposure with its feedback; the next exposure"""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    mesh: Mesh = field(default_factory=Mesh)
    train: Train = field(default_factory=Train)
