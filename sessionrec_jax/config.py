"""Every setting of a run: frozen dataclasses, one home each, with units in the names. No jax in this file.

A Config is a value: `check` refuses what cannot run, `resolve` fills in what the prepared log decides, `run_id` names
the run by everything that can change its numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import tyro

from sessionrec_jax.errors import InputError, near_miss

CONFIG_VERSION = 2
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
    rows: int = 32
    """Rows of a batch over all devices together; a multiple of the number of devices."""
    sessions_per_row: int = 64
    """Slots of a row: sessions (nspp) or items (nipp, nipp_plus)."""
    window: int = 0
    """Most slots of one user that are seen at once, the target among them. 0: a whole row."""
    side_columns: tuple[str, ...] = ()
    """Columns of side information that the model sees. None named: all."""
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
    remat: bool = True
    """Compute each layer's activations again in the backward pass rather than keep them."""
    ignored_in_input: bool = True
    """Ignored exposures of the history enter the session vector; either way they are negatives of the rank loss."""
    id_width: int = 32
    """Width of the item-ID embedding before the item MLP. 0: no ID table, side information only."""
    side_width: int = 16
    """Width of each side-information embedding before the item MLP."""
    score: Literal["dot", "cosine"] = "dot"
    """How a query meets an item.
    dot: inner product
    cosine: both of length one in the retrieval score, the item in the rank score too"""
    temperature: float = 1.0
    """Divides the retrieval score before the item's bias is added; with cosine about 0.05."""
    temperature_learned: bool = False
    """Train the temperature from this start."""

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
    """AdamW (body) and row-wise Adagrad (item tables) under linear warm-up and cosine decay to zero. All our choice."""

    learning_rate_peak: float = 3e-3
    warmup_fraction: float = 0.05
    """Share of all steps spent on the linear warm-up."""
    weight_decay: float = 0.01
    """Decoupled decay (times the learning rate) of the body's matrices."""
    table_rate_ratio: float = 10.0
    """Learning rate of the item tables (row-wise Adagrad) over that of the body (AdamW)."""
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
    """Devices on the `data` axis, over which the batch is sharded. 0: all there are."""


@dataclass(frozen=True)
class Train:
    """Length, randomness and upkeep of a run."""

    seed: int = 0
    """Root of all randomness: parameters, negatives and data order."""
    epochs: float = 8.0
    """Passes over the training sessions; the number of steps follows from it and the batch shape."""
    checkpoint_every_seconds: float = 120.0
    """Wall time between checkpoints. It does not enter the run's id."""
    log_every_steps: int = 50
    """Steps between lines of metrics.jsonl. It does not enter the run's id."""


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


# Where a run lies, how it is watched and on how many devices it runs cannot change its result.
_NOT_IN_RUN_ID = (
    ("data", "path"),
    ("mesh", "data"),
    ("train", "checkpoint_every_seconds"),
    ("train", "log_every_steps"),
)


def check(config: Config) -> Config:
    """Returns `config`, or raises InputError naming every field that cannot work and what it should be."""
    data, model, loss, optim, train = config.data, config.model, config.loss, config.optim, config.train
    rules = [
        ("data.users", data.users >= 0, "0 (all) or more"),
        ("data.eval_users", data.eval_users >= 0, "0 (all) or more"),
        ("data.rows", data.rows >= 1, "at least 1"),
        ("data.sessions_per_row", data.sessions_per_row >= 2, "at least 2: a history and a target"),
        ("data.window", data.window == 0 or 2 <= data.window <= data.sessions_per_row,
         f"0 (a whole row), or from 2 to data.sessions_per_row {data.sessions_per_row}"),
        ("data.items_per_row", data.items_per_row >= 0, "0 (from the log) or more"),
        ("model.width", model.width >= 1, "at least 1"),
        ("model.layers", model.layers >= 0, "0 or more"),
        ("model.heads", model.heads >= 1 and model.width % model.heads == 0, f"a divisor of model.width {model.width}"),
        ("model.mlp_ratio", model.mlp_ratio >= 1, "at least 1"),
        ("model.id_width", model.id_width >= 0, "0 (no ID table) or more"),
        ("model.side_width", model.side_width >= 1, "at least 1"),
        ("model.dropout", 0 <= model.dropout < 1, "at least 0 and below 1"),
        ("model.temperature", model.temperature > 0, "above 0"),
        ("loss.alpha", loss.alpha >= 0, "0 or more"),
        ("loss.negatives", loss.negatives >= 1, "at least 1"),
        ("loss.negatives_uniform", 0 < loss.negatives_uniform <= 1,
         "above 0, so that every item can be a negative, and at most 1"),
        ("optim.learning_rate_peak", optim.learning_rate_peak > 0, "above 0"),
        ("optim.warmup_fraction", 0 <= optim.warmup_fraction < 1, "at least 0 and below 1"),
        ("optim.weight_decay", optim.weight_decay >= 0, "0 or more"),
        ("optim.table_rate_ratio", optim.table_rate_ratio >= 0, "0 or more"),
        ("optim.table_prior", optim.table_prior >= 0, "0 or more"),
        ("optim.clip_norm", optim.clip_norm > 0, "above 0"),
        ("optim.beta1", 0 <= optim.beta1 < 1, "at least 0 and below 1"),
        ("optim.beta2", 0 <= optim.beta2 < 1, "at least 0 and below 1"),
        ("mesh.data", config.mesh.data >= 0, "0 (all devices) or more"),
        ("train.epochs", train.epochs > 0, "above 0"),
        ("train.seed", train.seed >= 0, "0 or more"),
        ("train.checkpoint_every_seconds", train.checkpoint_every_seconds > 0, "above 0"),
        ("train.log_every_steps", train.log_every_steps >= 1, "at least 1"),
    ]  # fmt: skip
    wrong = list(_contradictions(config))
    for path, holds, wanted in rules:
        room, _, name = path.partition(".")
        came = getattr(getattr(config, room), name)
        if not (holds and math.isfinite(came)):
            finite = "" if math.isfinite(came) else ", and finite"
            wrong.append(f"--{path.replace('_', '-')} is {came}; wanted {wanted}{finite}")
    if wrong:
        raise InputError("this configuration cannot run: " + "; ".join(wrong))
    return config


def _contradictions(config: Config) -> Iterator[str]:
    """Choices that exclude each other."""
    model, loss = config.model, config.loss
    if config.paradigm == "nipp" and loss.alpha:
        yield (
            f"--loss.alpha is {loss.alpha}, but --paradigm nipp sees clicked items only and has nothing to rank them "
            "against; wanted --loss.alpha 0"
        )
    if config.paradigm == "nipp_plus" and loss.alpha and loss.rank != "pointwise":
        yield (
            f"--loss.rank is {loss.rank}, but --paradigm nipp_plus has one exposure a slot and so no pairs; wanted "
            "--loss.rank pointwise, or --loss.alpha 0"
        )
    if model.places == "rotary" and model.heads >= 1 and model.width // model.heads % 2:
        yield (
            f"--model.positions is rotary, which turns pairs of features, but a head has width "
            f"{model.width // model.heads}; wanted an even --model.width / --model.heads"
        )
    if model.sequence_encoder == "gru" and model.positions != "auto":
        yield f"--model.positions is {model.positions}, but the GRU has no attention; wanted auto"


def replace(config: Config, overrides: dict[str, Any]) -> Config:
    """`config` with dotted fields replaced, e.g. {"model.width": 128}. Unknown names and values of another type
    raise InputError."""
    for path, value in overrides.items():
        room, _, name = path.partition(".")
        _known(room, _names(Config), "config section")
        part = getattr(config, room)
        if not name:
            wanted = typing.get_type_hints(Config)[room]
            if dataclasses.is_dataclass(wanted):
                raise InputError(
                    f"{room!r} is a config section; wanted one of its fields, such as {room}.{_names(wanted)[0]}"
                )
            config = dataclasses.replace(config, **{room: _typed(wanted, value, path)})
            continue
        if not dataclasses.is_dataclass(part):
            raise InputError(f"{path!r}: {room!r} is a field of its own, not a config section")
        types_ = typing.get_type_hints(type(part))
        _known(name, types_, f"field of config section {room!r}")
        part = dataclasses.replace(part, **{name: _typed(types_[name], value, path)})
        config = dataclasses.replace(config, **{room: part})
    return config


def to_dict(config: Config) -> dict[str, Any]:
    return {"config_version": CONFIG_VERSION, **dataclasses.asdict(config)}


def from_dict(values: Any, where: str = "config") -> Config:
    """The Config that `to_dict` wrote. Raises InputError on another version, unknown fields and wrong types."""
    if not isinstance(values, dict):
        raise InputError(
            f"{where}: wanted a JSON object with the sections {_names(Config)}, got {type(values).__name__}"
        )
    values = dict(values)
    version = values.pop("config_version", None)
    if version != CONFIG_VERSION:
        raise InputError(
            f"{where} has config_version {version!r}; this release reads {CONFIG_VERSION}. "
            "Run it again into a new folder, or use the release that wrote it."
        )
    return _build(Config, values, where)


T = TypeVar("T")


def _build(kind: type[T], values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise InputError(f"{where}: wanted an object with the fields {_names(kind)}, got {values!r}")
    types_ = typing.get_type_hints(kind)
    built = {}
    for name, value in values.items():
        _known(name, types_, f"field in {where}")
        wanted = types_[name]
        if dataclasses.is_dataclass(wanted):
            built[name] = _build(wanted, value, f"{where}: {name}")
        else:
            built[name] = _typed(wanted, value, f"{where}: {name}")
    return kind(**built)


def _typed(wanted: Any, value: Any, where: str) -> Any:
    if typing.get_origin(wanted) is Literal:
        choices = typing.get_args(wanted)
        if value not in choices:
            raise InputError(f"{where} is {value!r}; wanted one of {', '.join(map(repr, choices))}")
        return value
    if typing.get_origin(wanted) is tuple:  # JSON has only lists
        if not isinstance(value, (list, tuple)) or not all(isinstance(x, typing.get_args(wanted)[0]) for x in value):
            raise InputError(f"{where} is {value!r}; wanted a list of {typing.get_args(wanted)[0].__name__}")
        return tuple(value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise InputError(f"{where} is {value!r}; wanted {wanted.__name__}")
    return value


def _names(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _known(name: str, known: Any, what: str) -> None:
    if name not in known:
        raise InputError(f"unknown {what}: {name!r}; {near_miss(name, known)}")


def run_id(config: Config) -> str:
    """Twelve hex digits that name everything that can change the run's numbers."""
    values = to_dict(config)
    for room, name in _NOT_IN_RUN_ID:
        del values[room][name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
