"""The rules that a Config must keep to be able to run, the choices that exclude each other, and runs that can hardly
learn."""

from __future__ import annotations

import math
from collections.abc import Iterator

from doors.bounds import out_of_bounds
from sessionrec_jax.config.settings import Config, Hosts, Model, Optim
from sessionrec_jax.errors import InputError
from sessionrec_jax.registry import RANK_LOSSES, SEQUENCE_ENCODERS, SESSION_ENCODERS

FEWEST_STEPS = 100
"""A run of fewer optimizer steps hardly leaves its initial values."""


def check(config: Config) -> Config:
    """Returns `config`. Raises InputError that names every field that cannot work and what it should be."""
    data, model = config.data, config.model
    rules = [
        ("data.window", data.window == 0 or 2 <= data.window <= data.sessions_per_row,
         f"0 (a whole row), or from 2 to data.sessions_per_row {data.sessions_per_row}"),
        ("data.fresh_sessions", data.fresh_sessions >= 1 if data.fresh != "no" else data.fresh_sessions == 0,
         "left out, since --data.fresh is no" if data.fresh == "no" else "the number of sessions to train on"),
        ("model.heads", model.heads < 1 or model.width % model.heads == 0, f"a divisor of model.width {model.width}"),
        ("model.base_heads", model.base_heads < 1 or model.base_width % model.base_heads == 0,
         f"a divisor of model.base_width {model.base_width}"),
    ]  # fmt: skip
    wrong = list(_unknown_names(config)) or list(_contradictions(config))
    wrong += out_of_bounds(config)
    for path, holds, wanted in rules:
        room, _, name = path.partition(".")
        if not holds:
            wrong.append(f"--{path.replace('_', '-')} is {getattr(getattr(config, room), name)}; wanted {wanted}")
    if wrong:
        raise InputError("this configuration cannot run: " + "; ".join(wrong))
    return config


def doubts(config: Config, steps: int, epochs_flag: str = "--train.epochs") -> str | None:
    """Returns a sentence about a run of so few optimizer steps that it can hardly learn, with what to change; None if
    it has enough.

    Args:
      config: the run, resolved.
      steps: its optimizer steps.
      epochs_flag: the flag that decides its epochs.
    """
    few, optim = steps < FEWEST_STEPS, config.optim
    no_warmup = not optim.warmup_steps and 0 < optim.warmup_fraction * steps < 1
    reasons = [f"fewer than {FEWEST_STEPS} hardly train a model"] * few + ["its warm-up is no full step"] * no_warmup
    if not reasons:
        return None
    raised = f"raise {epochs_flag} (now {config.train.epochs:g})"
    change = f"lower --data.rows (now {config.data.rows}) or {raised}" if config.data.rows > 1 else raised
    return f"the run takes {steps} optimizer steps: {' and '.join(reasons)}; {change}"


def check_hosts(hosts: Hosts) -> Hosts:
    """Returns `hosts`. Raises InputError that names every field that cannot work and what it should be."""
    host, _, port = hosts.coordinator.rpartition(":")
    is_given = hosts.coordinator not in ("", "auto")
    launched = "left out, since " + ("the launcher sets it" if hosts.coordinator else "there is no coordinator")
    rules = [
        ("coordinator", not is_given or (host and port.isdecimal() and 0 < int(port) < 2**16),
         "HOST:PORT of the process of index 0, or auto"),
        ("count", hosts.count >= 1 if is_given else hosts.count == 0,
         "the number of processes" if is_given else launched),
        ("index", 0 <= hosts.index < max(hosts.count, 1) if is_given else hosts.index == -1,
         f"from 0 to {max(hosts.count, 1) - 1}, count - 1" if is_given else launched),
        ("timeout_seconds", 1 <= hosts.timeout_seconds < math.inf, "1 or more"),
        ("lost_after_seconds", 1 <= hosts.lost_after_seconds < math.inf, "1 or more"),
        ("stuck_after_seconds", 1 <= hosts.stuck_after_seconds < math.inf, "1 or more"),
    ]  # fmt: skip
    wrong = [f"{name} is {getattr(hosts, name)!r}; wanted {wanted}" for name, holds, wanted in rules if not holds]
    if wrong:
        raise InputError("--hosts cannot work: " + "; ".join(wrong))
    return hosts


def _unknown_names(config: Config) -> Iterator[str]:
    for flag, registry, name in (
        ("--model.session-encoder", SESSION_ENCODERS, config.model.session_encoder),
        ("--model.sequence-encoder", SEQUENCE_ENCODERS, config.model.sequence_encoder),
        ("--loss.rank", RANK_LOSSES, config.loss.rank),
    ):
        if name not in registry:
            yield f"{flag}: {registry.unknown(name)}"


def _contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for each pair of choices that exclude each other."""
    loss = config.loss
    if config.paradigm == "nipp" and loss.alpha:
        yield (
            f"--loss.alpha is {loss.alpha}, but --paradigm nipp sees clicked items only, so there is nothing to rank "
            "them against; wanted --loss.alpha 0"
        )
    if config.paradigm == "nipp_plus" and loss.alpha and RANK_LOSSES.find(loss.rank).compares:
        yield (
            f"--loss.rank is {loss.rank}, but --paradigm nipp_plus has one exposure in each slot and so no pairs; "
            "wanted --loss.rank pointwise, or --loss.alpha 0"
        )
    if loss.rank_labels == "probability":
        yield from _not_soft(config)
    yield from _rank_alone(config)
    if config.data.fresh != "no":
        yield from _not_fresh(config)
    yield from _model_contradictions(config.model)
    yield from _optimizer_contradictions(config)
    if config.train.begins_from:
        yield from _beginning_contradictions(config)
    if config.train.evaluated == "best" and not config.train.validations:
        yield "--train.evaluated is best, but --train.validations is 0; wanted --train.validations 1 or more"


def _optimizer_contradictions(config: Config) -> Iterator[str]:
    if config.optim.table_update == "sparse" and config.loss.retrieval == "full_softmax":
        yield (
            "--optim.table-update is sparse, but --loss.retrieval full_softmax reads every row of the item tables; "
            "wanted --optim.table-update dense, or a sampled loss"
        )
    if config.optim.gradient_sum == "bfloat16" and config.model.compute == "float32":
        yield (
            "--optim.gradient-sum is bfloat16, but --model.compute is float32; wanted --model.compute bfloat16, or "
            "--optim.gradient-sum float32"
        )
    yield from _schedule_contradictions(config.optim)


def _model_contradictions(model: Model) -> Iterator[str]:
    if model.places == "rotary" and model.heads >= 1 and model.width // model.heads % 2:
        yield (
            f"--model.positions is rotary, which turns pairs of features, but a head has width "
            f"{model.width // model.heads}; wanted an even --model.width / --model.heads"
        )
    usable = ("auto", *SEQUENCE_ENCODERS.find(model.sequence_encoder).positions)
    if model.positions not in usable:
        yield (
            f"--model.positions is {model.positions}, but the sequence encoder {model.sequence_encoder} cannot use it; "
            f"wanted {' or '.join(usable)}"
        )
    if not model.id_width:
        for name in ("id_init_std", "id_dropout"):
            if (came := getattr(model, name)) != (default := getattr(Model(), name)):
                yield (
                    f"model.{name} is {came}, but --model.id-width is 0, so there is no ID; wanted {default}, or an "
                    "--model.id-width above 0"
                )
    if model.parametrization == "standard":
        for name in ("base_width", "base_layers", "base_heads"):
            if (came := getattr(model, name)) != (default := getattr(Model(), name)):
                flag = f"--model.{name.replace('_', '-')}"
                yield (
                    f"{flag} is {came}, but --model.parametrization is standard, which has no base model; wanted "
                    f"--model.parametrization mup, or {flag} {default}"
                )


def _not_soft(config: Config) -> Iterator[str]:
    """Yields a sentence for each setting that rules out soft labels of the rank loss."""
    loss, clicks = config.loss, "or --loss.rank-labels clicks"
    if not loss.alpha:
        yield (
            "--loss.rank-labels is probability, but --loss.alpha is 0, so nothing reads the labels; wanted "
            f"--loss.alpha above 0, {clicks}"
        )
    if not RANK_LOSSES.find(loss.rank).soft_labels:
        able = [name for name in RANK_LOSSES if RANK_LOSSES.find(name).soft_labels]
        yield (
            f"--loss.rank-labels is probability, but --loss.rank {loss.rank} needs to know which items were clicked, "
            f"and probabilities do not say how the clicks of one session depend on each other; wanted --loss.rank "
            f"{' or '.join(able)}, {clicks}"
        )


def _rank_alone(config: Config) -> Iterator[str]:
    """Yields a sentence for each setting that a run which measures or trains the rank loss alone cannot have."""
    loss = config.loss
    if config.data.eval_candidates == "shown":
        for came, why, wanted in (
            (loss.alpha == 0, "--loss.alpha is 0", "--loss.alpha above 0"),
            (config.data.eval_seen == "masked", "--data.eval-seen is masked", "--data.eval-seen kept"),
        ):
            if came:
                yield (
                    f"{why}, but --data.eval-candidates shown measures the rank loss alone; wanted {wanted}, or "
                    "--data.eval-candidates catalogue"
                )
    if loss.retrieval == "none":
        for came, why, wanted in (
            (loss.alpha == 0, "--loss.alpha is 0, so nothing would be trained", "--loss.alpha above 0"),
            (
                config.data.eval_candidates == "catalogue",
                "--data.eval-candidates catalogue measures what was not trained",
                "--data.eval-candidates shown",
            ),
        ):
            if came:
                yield (
                    f"--loss.retrieval none trains the rank loss alone, but {why}; wanted {wanted}, or another "
                    "--loss.retrieval"
                )


def _not_fresh(config: Config) -> Iterator[str]:
    """Yields one sentence with every flag that sessions drawn on the device need and do not have."""
    data, model, loss = config.data, config.model, config.loss
    wanted = [
        (config.paradigm == "nspp", "--paradigm nspp"),
        (loss.retrieval == "none", "--loss.retrieval none (only the rank loss is trained)"),
        (loss.rank == "pointwise", "--loss.rank pointwise (the label is a probability)"),
        (loss.rank_labels == "clicks", "--loss.rank-labels clicks (the labels are those that it draws)"),
        (model.scored_by == ("category",), "--model.scored-by category (an exposure is drawn as a category)"),
        (not model.clicked_in_input, "--model.no-clicked-in-input (a session is its anchor)"),
        (not model.ignored_in_input, "--model.no-ignored-in-input"),
        (config.optim.table_update == "dense", "--optim.table-update dense"),
        (config.train.microbatches == 1, "--train.microbatches 1"),
        (not data.users, "--data.users 0 (its training users are not read)"),
    ]
    if missing := [flag for holds, flag in wanted if not holds]:
        yield f"--data.fresh {data.fresh} also needs {', '.join(missing)}"


def _schedule_contradictions(optim: Optim) -> Iterator[str]:
    came, default = optim.cooldown_fraction, Optim().cooldown_fraction
    if optim.schedule == "cosine" and came != default:
        yield (
            f"--optim.cooldown-fraction is {came}, but --optim.schedule is cosine, which has no cooldown; wanted "
            f"--optim.schedule cooldown, or --optim.cooldown-fraction {default}"
        )
    if optim.schedule == "cooldown" and not optim.warmup_steps and optim.warmup_fraction + came > 1:
        yield (
            f"--optim.warmup-fraction is {optim.warmup_fraction} and --optim.cooldown-fraction {came}, together longer "
            "than the run; wanted at most 1 together"
        )


def _beginning_contradictions(config: Config) -> Iterator[str]:
    optim, train = config.optim, config.train
    if not train.begins_from.rpartition("/")[2].isdecimal():
        yield f"--train.begins-from is {train.begins_from}; wanted a checkpoint, such as RUN/checkpoints/400"
    if optim.schedule != "cooldown" or not optim.warmup_steps:
        yield (
            f"--train.begins-from is given, but under --optim.schedule {optim.schedule} with --optim.warmup-steps "
            f"{optim.warmup_steps} the first steps depend on the length of the run; wanted cooldown, and "
            "--optim.warmup-steps above 0"
        )
    if train.validations > 1:
        yield (
            f"--train.begins-from is given, but --train.validations is {train.validations}, whose places depend on the "
            "length of the run; wanted 0 or 1"
        )
