"""Train one model on a prepared log and write its row.

sessionrec train DATA --out RUN --model.width 128 --model.layers 4
sessionrec train DATA --out RUN --mesh data=4,model=2

The same command again goes on where the run was stopped. SIGTERM and Ctrl-C save first; a second one ends at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli.evaluate import print_metrics
from sessionrec_jax.config import Config, Mesh
from sessionrec_jax.config_values import replace
from sessionrec_jax.errors import InputError, near_miss


@dataclass(frozen=True)
class Command:
    data_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="DATA")]
    """Folder that `sessionrec prepare` wrote."""
    out: Path
    """Run folder: config.json, metrics.jsonl, checkpoints/, row.json."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def main(argv: list[str]) -> int:
    command = tyro.cli(Command, args=_with_mesh(argv), prog="sessionrec train", description=__doc__)
    from experiments.row import run  # starts jax, which --help need not wait for
    from sessionrec_jax.stopping import StopSignals

    config = replace(command.config, {"data.path": str(command.data_path)})
    row = run(config, command.out, "train", stop=StopSignals())
    if row["status"] != "done":
        raise SystemExit(f"{command.out}: {row['reason']}")
    print_metrics(row, f"{command.out}, held-out sessions")
    return 0


def _with_mesh(argv: list[str]) -> list[str]:
    """`argv` with `--mesh data=4,model=2` written out as the fields of Mesh."""
    written: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word != "--mesh":
            written.append(word)
            continue
        axes = next(rest, "")
        for part in axes.split(","):
            axis, equals, size = part.partition("=")
            known = [field.name for field in fields(Mesh)]
            if not (equals and size.isdecimal()):
                raise InputError(f"--mesh is {axes!r}; wanted axes and their sizes, such as data=4,model=2")
            if axis not in known:
                raise InputError(f"--mesh names the axis {axis!r}; {near_miss(axis, known)}")
            written += [f"--mesh.{axis}", size]
    return written
