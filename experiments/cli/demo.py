"""The whole way on data whose truth is known: log, sweep, fit, report; ends with the fit held against the truth.

sessionrec demo --out DEMO
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

import scaling
from experiments import sweepfolder
from experiments.grid import Plan
from experiments.sweep import default_workers, run_sweep
from scaling import report, table
from scaling.theory import read_theory
from sessionrec_jax.config import Config, replace
from sessionrec_jax.data import sources
from sessionrec_jax.data.prepare import Settings, prepare
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.data.synthetic import ZipfIntent
from sessionrec_jax.data.truth import Truth
from sessionrec_jax.runfolder import write_json

# Strong contrast and short histories: a fact is learnt from few looks, and few looks are repeats within one user, so
# that a trained model comes near the exact counting learner at every size (LOG.md).
PROCESS = ZipfIntent(
    users=105_500,
    base=16,
    click_low=0.02,
    click_high=0.9,
    keep_interest=0.95,
    sessions_mean=4,
    sessions_max=12,
    seed=1,
)
HELD_OUT = Settings(validation_users=1_500, test_users=4_000)
OVERRIDES: dict[str, Any] = {
    "data.rows": 8,
    "data.side_columns": ("category",),  # on the data axis the ID table is to hold the facts, not the digits
    "data.sessions_per_row": 32,
    "model.id_width": 8,
    "model.side_width": 8,
    "loss.other_clicks": "counted",  # the calibrated likelihood: the only one that has the known floor
    "loss.negatives": 256,
    "optim.table_rate_ratio": 30.0,
    "optim.table_prior": 30.0,
}
REPORT = {
    "n": "params_body",
    "d": "sessions_unique",
    "loss": "rank_nats_per_exposure",
    "baseline": "rank_baseline_nats_per_exposure",
    "select_by": "validation_objective",
    "select_within": ["sessions_unique", "seed"],
    "law": "power_floor",
}


@dataclass(frozen=True)
class Size:
    """How large a demo is."""

    process: ZipfIntent
    held_out: Settings
    plan: Plan


SIZES = {
    "full": Size(
        PROCESS,
        HELD_OUT,
        Plan(
            users=(1_500, 2_750, 5_000, 9_200, 17_000, 31_000, 56_000, 100_000),
            sizes=("xxs", "xs", "s"),
            learning_rates=(1e-2,),
            epochs=(4.0, 8.0, 16.0),
            user_epochs_max=400_000,
        ),
    ),
    "smallest": Size(
        ZipfIntent(users=4_400, base=8, click_low=0.02, click_high=0.9, sessions_mean=4, sessions_max=12, seed=1),
        Settings(validation_users=200, test_users=200),
        Plan(
            users=(125, 250, 500, 1_000, 2_000, 4_000),
            sizes=("xxs", "xs"),
            learning_rates=(1e-2,),
            epochs=(8.0,),
        ),
    ),
}


@dataclass(frozen=True)
class Command:
    out: Path = Path("out/demo")
    """Folder of the demo: log/, sweep/, fit.json, report.html."""
    size: Literal["full", "smallest"] = "full"
    """full: the figures of the README, about ten minutes on two cores. smallest: every step in about two, no claim."""
    workers: int | None = None
    """Worker processes. Left out: one a core, at most four."""


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=argv, prog="sessionrec demo", description=__doc__)
    from sessionrec_jax.data.batches import TRAIN
    from sessionrec_jax.train import resolve

    say = Console(stderr=True, highlight=False).print
    size = SIZES[command.size]
    say("[bold]1/4[/] the log, its loss floor known exactly")
    prepared = _log(command.out / "log", size, say)
    say(f"[bold]2/4[/] the sweep: `sessionrec status {command.out / 'sweep'}` shows it from another terminal")
    base = replace(Config(), OVERRIDES | {"data.path": str(prepared.path)})
    configs = [resolve(config, prepared) for config in size.plan.configs(base, len(prepared.users_of(TRAIN)))]
    sweep_dir = command.out / "sweep"
    sweepfolder.begin(sweep_dir, "grid", configs, REPORT)
    write_json(sweep_dir / "theory.json", _theory(size, prepared))
    run_sweep("grid", configs, sweep_dir, REPORT, workers=command.workers or default_workers())
    say("[bold]3/4[/] the fit")
    columns = scaling.Columns(
        **{name: REPORT[name] for name in ("n", "d", "loss", "baseline", "select_by")},
        select_within=tuple(REPORT["select_within"]),
    )
    frame, unfinished = table.load(sweep_dir)
    runs = table.from_frame(frame, columns, source=str(sweep_dir), unfinished=unfinished)
    fit = scaling.fit(runs, REPORT["law"])
    fit.to_json(command.out / "fit.json")
    say("[bold]4/4[/] the report")
    theory = read_theory(sweep_dir / "theory.json")
    report.write(command.out / "report.html", runs, [(REPORT["law"], fit)], theory, title="SessionRec-JAX demo")
    _tell(command.out, fit, theory)
    return 0


def _log(folder: Path, size: Size, say: Any) -> Prepared:
    """Made once; a killed preparation left nothing under this name."""
    if folder.exists():
        return open_log(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return prepare(sources.find("synthetic").read(size.process), folder, size.held_out, say=say)


def _theory(size: Size, prepared: Prepared) -> dict[str, Any]:
    """The truth beside the sweep: floor and exponent of the process, and what the Bayes counting learner makes of logs
    of the swept sizes."""
    truth = Truth(size.process)
    curve = []
    for users in size.plan.users:
        exposures, excess = truth.bayes_excess_on(size.process.exposures(0, users))
        curve.append([exposures / size.process.exposures_mean, excess])
    return {
        "exponent": truth.data_exponent,
        "floor": truth.rank_floor_nats_per_exposure,
        "curve": curve,
        "note": "Zipf-intent process: exact rank floor, beta = alpha / (1 + alpha) for an endless catalogue; the curve is "
        "the Bayes learner that counts the clicks of each (interest, category) on logs of the same size.",
    }


def _tell(out: Path, fit: scaling.Fit, theory: scaling.theory.Theory) -> None:
    say = Console(highlight=False, soft_wrap=True).print
    say(f"\nreport: {out / 'report.html'}")
    beta, low, high = _with_interval(fit, "beta")
    say(f"exponent   fitted {beta} [{low}, {high}], theory {theory.exponent:.4f} (endless catalogue)")
    floor, low, high = _with_interval(fit, "E")
    say(f"floor      fitted {floor} [{low}, {high}], exact {theory.floor:.5f} nats an exposure")
    for run in fit.heldout:
        say(f"held out   {json.dumps(run)}")


def _with_interval(fit: scaling.Fit, name: str) -> tuple[str, str, str]:
    """A parameter and its 95 % interval; a dash where it is open."""
    value, interval = fit.params[name], fit.interval95[name] or (None, None)
    return tuple("-" if x is None else f"{x:.4f}" for x in (value, *interval))
