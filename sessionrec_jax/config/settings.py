"""Every setting of a run, in frozen dataclasses, with units in the names. The docstring of a field is its line of
--help.

A Config is a value: rules.py refuses a Config that cannot run, `data.resolve` fills in what the prepared log decides,
values.py replaces, stores and names a Config. No jax in this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from doors.bounds import SEED, Between
from sessionrec_jax.registry import RANK_LOSSES, SEQUENCE_ENCODERS, SESSION_ENCODERS

CONFIG_VERSION = 4
"""It grows when a field changes its meaning, or parameters their order. A run folder of another version is refused."""

AUTO: Literal["auto"] = "auto"

_MANY, _STEPS = 10**15, 2**31 - 1  # more than any log has, and the most that a step counter of 32 bits holds

# A name in a registry: a file of this package, or what a plugin registered. rules.py refuses an unknown name.
SessionEncoderName = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME", help=SESSION_ENCODERS.help("Session encoder (ISE): makes one vector from a session's items.")
    ),
]
SequenceEncoderName = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME",
        help=SEQUENCE_ENCODERS.help("Sequence encoder (SSE): makes a state from the sessions of a history."),
    ),
]
RankLossName = Annotated[
    str, tyro.conf.arg(metavar="NAME", help=RANK_LOSSES.help("L_rank, over the exposures of the target session."))
]


@dataclass(frozen=True)
class Data:
    """The log, how much of it is used, and the shape of a packed batch (contract 2)."""

    path: tyro.conf.Suppress[str] = ""
    """Folder that `sessionrec prepare` wrote. Not part of the run's id, because the fingerprint is."""
    fingerprint: tyro.conf.Suppress[str] = ""
    """Hash of the prepared log. Empty: taken from the folder. A run refuses a folder with another fingerprint."""
    users: Annotated[int, Between(0, _MANY)] = 0
    """Train on the first n training users in the log's fixed random order (nested subsets). 0: all."""
    eval_users: Annotated[int | Literal["auto"], Between(0, _MANY)] = AUTO
    """Score at most the first n users that have a held-out session. 0: all. auto: all, or as many as cost about a fifth
    of the training's FLOPs, but at least 500. All runs of a plan score the same users."""
    eval_users_auto: tyro.conf.Suppress[bool] = False
    """True where `eval_users` was auto and has its number. Not part of the run's id."""
    eval_seen: Literal["kept", "masked"] = "kept"
    """Items that the user was shown before, in the ranking metrics.
    kept: they are candidates and targets like any other item
    masked: they are neither, as for a service that never shows an item twice"""
    eval_candidates: Literal["catalogue", "shown"] = "catalogue"
    """Candidates of held-out sessions.
    catalogue: all items; gives the likelihood of clicked items, recall and the like; costs clicks x items
    shown: the session's own exposures; gives only the rank loss and AUC, and costs little"""
    rows: Annotated[int, Between(0, 2**24)] = 0
    """Rows of a batch, all devices together. A multiple of the number of devices. 0: from the log, so that an epoch has
    at least 64 steps: a power of two, at most 32. All runs of a plan have the value of its smallest data."""
    rows_auto: tyro.conf.Suppress[bool] = False
    """True where `rows` was 0 and is filled in from the log. Not part of the run's id."""
    sessions_per_row: Annotated[int, Between(2, 65_536)] = 64
    """Slots of a row. A slot holds one session (nspp) or one item (nipp, nipp_plus)."""
    window: Annotated[int, Between(0, 65_536)] = 0
    """Slots of one user that the model sees at most, with the target. 0: a whole row."""
    side_columns: tuple[str, ...] = ()
    """Columns of side information and of content vectors that the model sees. Without names: all."""
    session_context: tuple[str, ...] = ()
    """Columns of session context that the model sees. Without names: all. `none`: no column."""
    items_per_row: Annotated[int, Between(0, 2**24)] = 0
    """Item slots of a row. 0: sessions_per_row x the log's mean exposures per session x 1.06; for an item-level
    paradigm sessions_per_row."""

    fresh: Literal["no", "sampled", "expected"] = "no"
    """Training sessions drawn on the device in each step, by the process that made the log (synthetic logs only). The
    log then only has the evaluation users. A session is its anchor; its exposures are scored by category.
    no: the sessions of the log
    sampled: new sessions, whose exposures and clicks are drawn
    expected: new sessions with the exact click probability as the label: the limit of endless data"""
    fresh_sessions: Annotated[int, Between(0, _MANY)] = 0
    """Target sessions that a run with data.fresh trains on, each seen once."""

    @property
    def slots(self) -> int:
        """Slots of one user at most: `window`, or a whole row."""
        return self.window or self.sessions_per_row

    @property
    def fresh_steps(self) -> int:
        """Steps of a run with data.fresh, to the nearest; each row has a user whose sessions but the last are read."""
        return max(1, round(self.fresh_sessions / (self.rows * (self.slots - 1))))


@dataclass(frozen=True)
class Model:
    """Sizes and variants of the model. The paper gives none of them: every default is our choice."""

    session_encoder: SessionEncoderName = "typed_mean"
    sequence_encoder: SequenceEncoderName = "transformer"
    positions: Literal["auto", "learned", "rotary", "relative_time"] = "auto"
    """Position and time in the sequence encoder's attention.
    auto: the sequence encoder's own choice
    learned: an embedding of the position is added to the session's vector
    rotary: queries and keys are turned by the position
    relative_time: a learned bias by the distance in positions and in time"""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """MLP of the Transformers.
    gelu: two matrices
    swiglu: three matrices, gated (Shazeer 2002.05202)"""
    width: Annotated[int, Between(1, 65_536)] = 64
    """Width of item embeddings, session vectors and the sequence encoder."""
    layers: Annotated[int, Between(0, 1_024)] = 2
    """Layers of the sequence encoder."""
    heads: Annotated[int, Between(1, 1_024)] = 2
    """Attention heads. A divisor of the width."""
    mlp_ratio: Annotated[int, Between(1, 256)] = 4
    """Hidden width of the MLPs over the model's width."""
    dropout: Annotated[float, Between(0, 1, below=True)] = 0.0
    """Share of the numbers that a training step sets to zero in the session vectors and in each residual branch of the
    sequence encoder."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Type of the activations and of the matrix products. Parameters, optimizer, norms, softmaxes, losses and
    evaluation are always float32, and so are gradients unless optim.gradient_sum is bfloat16.
    float32: products as the device makes them by default (TF32 on NVIDIA, bfloat16 passes on a TPU)
    bfloat16: half the memory, and several times the speed on a device with units for it (not on a CPU)"""
    remat: bool = True
    """Compute each layer's activations again in the backward pass instead of keeping them in memory."""
    attention: Literal["auto", "reference", "fused"] = "auto"
    """Computation of the attention of transformer and hstu. Equal up to rounding. Not part of the run's id.
    auto: fused on an accelerator for rows of at least 512 slots, otherwise reference
    reference: the logits of all pairs of slots of a row are in memory together
    fused: they never are; a kernel on a TPU, otherwise blocks of queries"""
    clicked_in_input: bool = True
    """Clicked exposures of the history enter the session vector. Without clicked and ignored ones the model reads only
    the context, such as queries."""
    ignored_in_input: bool = True
    """Ignored exposures of the history enter the session vector. They are always negatives of the rank loss."""
    id_width: Annotated[int, Between(0, 65_536)] = 32
    """Width of the item-ID embedding before the item MLP. 0: no ID table, side information only."""
    id_init_std: Annotated[float, Between(0, 1_000)] = 0.02
    """Standard deviation of the ID table's initial values. 0: an item that training never shows is described by its
    side information alone; otherwise its ID vector is noise."""
    id_dropout: Annotated[float, Between(0, 1, below=True)] = 0.0
    """Share of the sessions in a step whose items enter without their ID, so that the model learns to handle items that
    training never shows."""
    side_width: Annotated[int, Between(1, 65_536)] = 16
    """Width of each side-information embedding before the item MLP, and of the map of each content vector."""
    scored_by: tuple[str, ...] = ()
    """Columns that describe items when they are scored: side information, and item_id for the ID. The other columns
    describe only items of the history; popularity always counts. Without names: all that the model sees."""
    score: Literal["dot", "cosine"] = "dot"
    """Score of a query and an item.
    dot: inner product
    cosine: query and item have length one in the retrieval score; the item also in the rank score"""
    temperature: Annotated[float, Between(1e-4, 1e4)] = 1.0
    """Divides the retrieval score before the item's bias is added. About 0.05 with cosine."""
    temperature_learned: bool = False
    """Train the temperature, with `temperature` as its initial value."""
    parametrization: Literal["standard", "mup"] = "standard"
    """Dependence of initial values and learning rates on the size (parametrization.py).
    standard: no dependence, so the best learning rate falls as the model grows
    mup: scaled so that the best learning rate of the base model is best for all sizes (2203.03466, 2505.01618)"""
    base_width: Annotated[int, Between(1, 65_536)] = 64
    """Width of mup's base model, the model that is tuned; for it mup and standard are the same. id_width, side_width
    and mlp_ratio have no base value: keep them as tuned."""
    base_layers: Annotated[int, Between(1, 1_024)] = 2
    """Layers of the sequence encoder of the base model."""
    base_heads: Annotated[int, Between(1, 1_024)] = 2
    """Attention heads of the base model. A divisor of base_width."""

    @property
    def places(self) -> Literal["none", "learned", "rotary", "relative_time"]:
        """`positions`, with `auto` replaced by the sequence encoder's own choice. Raises InputError for an unknown
        encoder."""
        usable = SEQUENCE_ENCODERS.find(self.sequence_encoder).positions
        if self.positions == "auto" or not usable:
            return usable[0] if usable else "none"
        return self.positions


@dataclass(frozen=True)
class Loss:
    """L = L_retrieval + alpha * L_rank (paper). The forms, alpha and the negatives are our choice."""

    retrieval: Literal["sampled_softmax", "full_softmax", "bce", "none"] = "sampled_softmax"
    """L_retrieval, in nats per clicked item.
    sampled_softmax: a softmax over the clicked item and sampled negatives
    full_softmax: a softmax over the whole catalogue, computed in chunks
    bce: a logistic loss of the clicked item and of each sampled negative (NCE with log-q, otherwise SASRec's)
    none: no retrieval loss; the rank loss is trained alone"""
    rank: RankLossName = "pointwise"
    rank_labels: Literal["clicks", "probability"] = "clicks"
    """Labels of the rank loss in training; evaluation always uses the clicks.
    clicks: clicked or ignored
    probability: the log's column click_probability, a number from 0 to 1 (pointwise only)"""
    alpha: Annotated[float, Between(0, 1e6)] = 1.0
    """Weight of the rank loss; the retrieval loss (nats per clicked item) has weight 1. 0: no rank loss."""
    negatives: Annotated[int, Between(1, 2**24)] = 512
    """Sampled negatives in each step, shared by all sessions of the batch on all devices."""
    negatives_from: Literal["mixed", "uniform", "log_uniform", "in_batch"] = "mixed"
    """Distribution of the negatives.
    mixed: a share uniformly from the catalogue, the rest in proportion to training clicks
    uniform: every item with the same probability
    log_uniform: by the logarithm of the popularity rank
    in_batch: the clicked items of the batch's target sessions"""
    negatives_uniform: Annotated[float, Between(0, 1, above=True)] = 0.5
    """Share of `mixed` that is uniform."""
    log_q: bool = True
    """Correct the score of sampled items for their probability of being drawn, so that the true distribution is the
    optimum."""
    other_clicks: Literal["masked", "counted"] = "counted"
    """The other clicked items of the target session.
    masked: never negatives; ranks as well, but the nats are not calibrated (loss/calibration.py)
    counted: drawn like any item, so that the true distribution is the optimum, as a law or a known floor requires"""


@dataclass(frozen=True)
class Optim:
    """AdamW for the body and `table_rule` for the item tables, with linear warm-up and a decay to zero. All of it is
    our choice."""

    learning_rate_peak: Annotated[float, Between(0, 1_000, above=True)] = 3e-3
    """Learning rate of the body after the warm-up."""
    learning_rate_rule: Literal["fixed", "tuned", "halving"] = "fixed"
    """Origin of the peak, a note for readers of the row. Not part of the run's id.
    fixed: the same for all sizes
    tuned: chosen for this size
    halving: the same, where a sweep drops the worse rates after a quarter and a half of the steps"""
    schedule: Literal["cosine", "cooldown"] = "cosine"
    """Learning rate after the warm-up.
    cosine: falls to zero along a cosine, so that every step depends on the length of the run
    cooldown: stays at the peak, then falls to zero as 1 - sqrt over the last part (2405.18392), so that runs of
    different length may share their first steps"""
    warmup_fraction: Annotated[float, Between(0, 1, below=True)] = 0.05
    """Share of all steps in the linear warm-up."""
    warmup_steps: Annotated[int, Between(0, _STEPS)] = 0
    """Steps in the linear warm-up, whatever the length of the run. 0: by warmup_fraction."""
    cooldown_fraction: Annotated[float, Between(0, 1, above=True)] = 0.2
    """Share of all steps in the cooldown."""
    weight_decay: Annotated[float, Between(0, 1_000)] = 0.01
    """Decoupled decay (times the learning rate) of the body's matrices and embeddings."""
    table_rate_ratio: Annotated[float, Between(0, 1e6)] = 10.0
    """Learning rate of the item tables over that of the body."""
    table_rule: Literal["adagrad", "adam"] = "adagrad"
    """Optimizer of the item tables.
    adagrad: row-wise, with one accumulator for each row
    adam: with two moments for each number, without weight decay"""
    table_update: Literal["dense", "sparse"] = "dense"
    """Rows of the item tables that a step updates.
    dense: every row
    sparse: the rows that the step reads, at a cost that does not grow with the catalogue. With adagrad and no prior the
    numbers are those of dense. With adam a row's moments do not change while it is not read (lazy Adam). The prior acts
    on the rows that are read."""
    table_prior: Annotated[float, Between(0, 1e12)] = 0.0
    """Precision of a Gaussian prior on the ID table: adds table_prior / (2 target sessions) x squared norm to the loss,
    so that the same value suits every amount of data. Its strength grows with the heads, which start at zero; a prior
    of full strength from the first step would shrink the table before they can learn."""
    clip_norm: Annotated[float, Between(0, 1e12, above=True)] = 1.0
    """Global norm above which the gradient is scaled down."""
    beta1: Annotated[float, Between(0, 0.999999)] = 0.9
    """Decay of Adam's mean of gradients."""
    beta2: Annotated[float, Between(0, 0.999999)] = 0.98
    """Decay of Adam's mean of squared gradients."""
    gradient_sum: Literal["float32", "bfloat16"] = "float32"
    """Type in which devices add up the gradients of the body's matrices.
    float32: exact up to the last bit of the products
    bfloat16: half the bytes between devices, and two or three digits; only with model.compute bfloat16"""


@dataclass(frozen=True)
class Mesh:
    """Devices and how they share the work. One device runs the same code."""

    data: Annotated[int, Between(0, 2**20)] = 0
    """Devices on the `data` axis, which shards the batch. 0: all devices that the other axes leave."""
    fsdp: Annotated[int, Between(1, 2**20)] = 1
    """Devices on the `fsdp` axis, which shards the batch too, and the body's matrices."""
    model: Annotated[int, Between(1, 2**20)] = 1
    """Devices on the `model` axis, which shards the hidden widths of the body. Item tables are spread over the devices
    of all three axes."""


@dataclass(frozen=True)
class Hosts:
    """Processes that train one model together, usually one on each machine. Not part of a Config, because a run may
    resume with another number of processes. All need the same settings, and one file system with the log and the run
    folder."""

    coordinator: str = ""
    """HOST:PORT where process 0 listens. `auto`: this, count and index come from the launcher: srun, mpirun (Open
    MPI), a Kubernetes Job or JobSet, or a TPU pod. Empty: one process."""
    count: int = 0
    """Number of processes."""
    index: int = -1
    """Number of this process, from 0."""
    timeout_seconds: float = 300.0
    """Longest wait of the processes for each other: at the start, for their parts of a checkpoint, and at the end."""
    lost_after_seconds: float = 100.0
    """A process that is silent for this time counts as lost, and all others end."""
    stuck_after_seconds: float = 3600.0
    """A process that takes no step for this time writes the stacks of its threads and ends."""


@dataclass(frozen=True)
class Train:
    """Length, randomness, checkpoints and logs of a run."""

    seed: Annotated[int, SEED] = 0
    """Root of all randomness: parameters, negatives and data order."""
    epochs: Annotated[float, Between(0, 10_000, above=True)] = 8.0
    """Passes over the training sessions. The number of steps follows from it and from the shape of a batch."""
    microbatches: Annotated[int, Between(1, 65_536)] = 1
    """Microbatches of a step: its batch is computed in this number of parts, one after the other, in the memory of one
    part. The update is the same, because the losses are ratios of sums over the whole batch. Not part of the run's
    id."""
    checkpoint_every_seconds: Annotated[float, Between(0, 1e9, above=True)] = 120.0
    """Wall time between checkpoints. Not part of the run's id."""
    checkpoints_kept: Annotated[int, Between(1, _MANY)] = 2
    """Newest checkpoints that are kept, in addition to the best by validation. Not part of the run's id."""
    checkpoints_at: Annotated[tuple[int, ...], Between(0, _STEPS)] = ()
    """Steps whose checkpoints are saved and kept, so that other runs may begin from them. Not part of the run's id."""
    begins_from: str = ""
    """Checkpoint of a longer run that this one begins from, as RUN/checkpoints/STEP, where RUN is next to the folder of
    this run. Under optim.schedule cooldown with equal optim.warmup_steps the steps up to there are the same, bit for
    bit. If it does not exist, this run takes those steps itself. Not part of the run's id."""
    validations: Annotated[int, Between(0, 1_000_000)] = 0
    """Passes over the validation sessions, evenly spread over training, the last one at its end. The checkpoint with
    the lowest objective is kept. data.eval_users limits the cost of a pass. 0: no pass."""
    evaluated: Literal["last", "best"] = "last"
    """Parameters that the row, `evaluate` and `recommend` use.
    last: those of the last step
    best: those of the best validation; the data seen is still counted up to the last step"""
    evaluate_by: tuple[str, ...] = ()
    """Segments whose metrics the row has too, as columns METRIC__KIND__SEGMENT: item_popularity, new_item,
    history_length, session_items, or a column of session context. Not part of the run's id, so a run that is done keeps
    its row."""
    log_every_steps: Annotated[int, Between(1, _STEPS)] = 50
    """Steps between two lines of metrics.jsonl. Not part of the run's id."""
    profile_steps: Annotated[int, Between(0, 1_000_000)] = 0
    """Steps to trace into RUN/profile for XProf or TensorBoard, after the first ten. 0: no trace. Not part of the run's
    id."""

    @property
    def steps_shared(self) -> int:
        """The step of the checkpoint `begins_from`; 0 without one."""
        return int(self.begins_from.rpartition("/")[2] or 0)


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    paradigm: Literal["nspp", "nipp", "nipp_plus"] = "nspp"
    """Content of a sequence slot, and its target. All three are scored at the ends of sessions, on the same targets.
    nspp: a slot is a session; it predicts all clicks of the next session
    nipp: a slot is a clicked item; it predicts the next click
    nipp_plus: a slot is an exposure with its feedback; it predicts the next exposure"""
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    mesh: Mesh = field(default_factory=Mesh)
    train: Train = field(default_factory=Train)
