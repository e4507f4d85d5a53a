"""Train one model on a prepared log and write its row.

sessionrec train DATA --out RUN --model.width 128 --model.layers 4

The same command again goes on where the run was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli.evaluate import print_metrics
from sessionrec_jax.config import Config, Data, Loss, Mesh, Model, Optim, Train, replace


@dataclass(frozen=True)
class Command:
    data_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="DATA")]
    """Folder that `sessionrec prepare` wrote."""
    out: Path
    """Run folder: config.json, metrics.jsonl, checkpoints/, row.json."""
    data: Data
    model: Model
    loss: Loss
    optim: Optim
    mesh: Mesh
    train: Train


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=argv, prog="sessionrec train", description=__doc__)
    config = Config(command.data, command.model, command.loss, command.optim, command.mesh, command.train)
    from experiments.row import run  # starts jax, which --help need not wait for

    row = run(replace(config, {"data.path": str(command.data_path)}), command.out, "train")
    if row["status"] != "done":
        raise SystemExit(f"{command.out}: {row['reason']}")
    print_metrics(row, f"{command.out}, held-out sessions")
    return 0
