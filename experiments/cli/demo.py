"""Run everything once on data whose truth is known: log, sweep, fit, report; then compare the fit with the truth.

sessionrec demo --out DEMO
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import tyro
from rich.console import Console

import scaling
from experiments.cli.columns import table_of
from experiments.cli.report_columns import REPORT_COLUMNS
from experiments.plans.grid import Plan
from experiments.sweep.launch import local
from experiments.sweep.layout import Layout
from experiments.sweep.run_sweep import run_sweep
from scaling import report
from scaling.laws.theory import Theory, read_theory
from scaling.table import run_table
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.preparation.prepare import Settings, prepare
from sessionrec_jax.data.store import Prepared, open_log
from sessionrec_jax.data.synthetic.process import ZipfIntent
from sessionrec_jax.registry import SOURCES

# Strong contrast and short histories: the model learns a fact from few exposures, and few of those are repeats within
# one user, so that a trained model comes close to the exact counting learner (LOG.md says how close).
PROCESS = ZipfIntent(
    users=180_000,
    base=16,
    click_low=0.02,
    click_high=0.9,
    keep_interest=0.95,
    sessions_mean=4.0,
    sessions_max=12,
    seed=1,
)
HELD_OUT = Settings(validation_users=1_500, test_users=4_000)
OVERRIDES: dict[str, Any] = {
    "data.rows": 8,
    "data.side_columns": ("category",),  # so that the ID table has to learn the facts, not the digits
    "data.sessions_per_row": 32,
    "model.id_width": 16,
    "model.side_width": 8,
    "loss.alpha": 4.0,  # the fit is of the rank loss
    "loss.negatives": 256,
    "optim.table_rate_ratio": 30.0,
    "optim.table_prior": 300.0,
}
REPORT = {
    "n": "params_body",
    "d": "sessions_unique",
    "loss": "rank_paired_nats_per_exposure",
    "baseline": "rank_baseline_nats_per_exposure",
    "floor_column": "rank_floor_nats_per_exposure",
    "select_by": "validation_rank_nats_per_exposure",
    "select_within": ["sessions_unique", "seed"],
    "law": "power_floor",
}


@dataclass(frozen=True)
class Size:
    """The log and the plan of a demo."""

    process: ZipfIntent
    held_out: Settings
    plan: Plan


SIZES = {
    "full": Size(
        PROCESS,
        HELD_OUT,
        Plan(
            users=(5_500, 9_800, 17_400, 31_000, 55_000, 98_000, 174_000),
            sizes=("xxs", "s"),
            learning_rates=(5e-3, 1e-2),
            epochs=(4.0, 8.0, 16.0),
            user_epochs_max=450_000,
        ),
    ),
    "smallest": Size(
        ZipfIntent(users=4_400, base=8, click_low=0.02, click_high=0.9, sessions_mean=4.0, sessions_max=12, seed=1),
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
    """The folder of the demo. It gets log/, sweep/, fit.json, report.html and sizes.html."""
    size: Literal["full", "smallest"] = "full"
    """The time that the demo takes on two cores.
    full: ten minutes or more; gives the figures of the README
    smallest: about two minutes; only shows that every step works"""
    workers: int | None = None
    """The number of worker processes. The default is that of `sessionrec sweep`."""


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=argv, prog="sessionrec demo", description=__doc__)
    from experiments.plans.theory import theory
    from sessionrec_jax.data.codes import TRAIN
    from sessionrec_jax.data.resolve import resolve
    from sessionrec_jax.data.synthetic.known import known_truth

    say = Console(stderr=True, highlight=False).print
    size = SIZES[command.size]
    say("[bold]1/4[/] a log whose loss floor is known exactly")
    prepared = _log(command.out / "log", size, say)
    say(f"[bold]2/4[/] the sweep: `sessionrec status {command.out / 'sweep'}` shows it from another terminal")
    base = replace(Config(), OVERRIDES | {"data.path": str(prepared.path)})
    configs = [resolve(config, prepared) for config in size.plan.configs(base, len(prepared.users_of(TRAIN)))]
    sweep_dir = command.out / "sweep"
    truth = known_truth(prepared)
    layout = Layout(configs, {"report.json": REPORT, "theory.json": theory(REPORT, configs, prepared, truth)})
    run_sweep("grid", layout, sweep_dir, local.Launcher(command.workers or local.default_workers()))
    say("[bold]3/4[/] the fit")
    runs = _runs(sweep_dir, REPORT["select_within"])
    fit = scaling.fit(runs, REPORT["law"])
    fit.to_json(command.out / "fit.json")
    say("[bold]4/4[/] the reports")
    known = read_theory(sweep_dir / "theory.json")
    shown = {"theory": known, "columns": REPORT_COLUMNS}
    report.write(command.out / "report.html", runs, [(REPORT["law"], fit)], title="Loss against data", **shown)
    sizes = _runs(sweep_dir, [*REPORT["select_within"], REPORT["n"]])
    report.write(command.out / "sizes.html", sizes, [_try(sizes, "chinchilla")], title="Every body size", **shown)
    _print_results(command.out, runs, fit, known)
    return 0


def _runs(sweep_dir: Path, select_within: list[str]) -> scaling.RunTable:
    """Returns the rows of the sweep: for each cell the run that was best on validation."""
    named = {name: REPORT[name] for name in ("n", "d", "loss", "baseline", "floor_column", "select_by")}
    frame, unfinished = run_table.load(sweep_dir)
    return table_of(sweep_dir, frame, scaling.Columns(**named, select_within=tuple(select_within)), unfinished)


def _try(runs: scaling.RunTable, law: str) -> tuple[str, scaling.Fit | scaling.Refusal]:
    """Returns the fit, or the reason why the table cannot carry the law; the page shows either."""
    try:
        return law, scaling.fit(runs, law)
    except scaling.Refusal as refusal:
        return law, refusal


def _log(folder: Path, size: Size, say: Any) -> Prepared:
    """Prepares the log, or opens it if an earlier demo did; a killed preparation leaves no folder of this name."""
    if folder.exists():
        return open_log(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return prepare(SOURCES.find("synthetic").read(size.process), folder, size.held_out, say=say)


def _print_results(out: Path, runs: scaling.RunTable, fit: scaling.Fit, theory: Theory) -> None:
    """Prints the path of the report, then the exponent, the floor and the held-out errors next to the truth."""
    say = Console(highlight=False, soft_wrap=True).print
    say(f"\nreport     {out / 'report.html'}, every body size in {out / 'sizes.html'}")
    say(f"exponent   all sizes: {_against_counting(fit, theory)}; an endless catalogue {theory.exponent:.4f}")
    upper = runs.take(runs.d >= runs.d.max() / 10)
    name, upper_fit = _try(upper, fit.law.name)
    text = _against_counting(upper_fit, theory) if isinstance(upper_fit, scaling.Fit) else f"{name}: {upper_fit}"
    say(f"           the upper decade: {text}")
    free = fit.free_floor
    ends = " to ".join("-" if end is None else f"{end:.5f}" for end in free.interval95)
    off = "-" if free.value is None else f"{free.value:.5f} [{ends}], {free.value / theory.floor - 1:+.2%} of"
    say(f"floor      fitted {off} the exact {theory.floor:.5f} nats an exposure")
    if not fit.heldout:
        say("held out   -  " + " ".join(fit.warnings))
    for run in fit.heldout:
        say(
            f"held out   {run.d:,.0f} sessions, {run.extrapolation_factor:.1f} times the largest fitted: predicted "
            f"{run.predicted:.5f} {_interval(run.predicted95)}, measured {run.loss:.5f} ({run.relative_error:+.2%})"
        )


def _against_counting(fit: scaling.Fit, theory: Theory) -> str:
    """Compares the fitted exponent with that of the reference curve, fitted by the same law with the same floor."""
    curve = [(d, theory.floor + excess) for d, excess in theory.curve if d >= 0.95 * fit.table.d.min()]
    frame = pl.DataFrame(curve, schema=["d", "loss"], orient="row")
    points = run_table.from_frame(frame, scaling.Columns(loss="loss", d="d"), source="reference curve")
    reference = scaling.fit(points, fit.law.name, floor=theory.floor, bootstrap=0, full=False).params["beta"]
    off = "" if fit.params["beta"] is None else f" ({fit.params['beta'] / reference - 1:+.1%})"
    return f"fitted {fit.describe('beta')}, the counting learner on such logs {reference:.4f}{off}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"[{ends[0]:.5f}, {ends[1]:.5f}]"
