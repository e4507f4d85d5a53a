"""Print the settings of a run as a file for `sessionrec train --config`; without a run, the defaults.

    sessionrec config > settings.toml
    sessionrec config RUN > settings.toml

What the run took from its log is left out, so that the file suits other logs. A line that is deleted from the file
gives the setting its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli.parsing import parse_flags
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.settings_file import to_toml
from sessionrec_jax.config.values import replace
from sessionrec_jax.runfolder.files import read_config


@dataclass(frozen=True)
class Command:
    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(name="RUN", metavar="RUN")] = None
    """The run folder of `sessionrec train` or of a sweep."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec config", description=__doc__)
    config = Config() if command.run is None else _without_log(read_config(command.run))
    print(to_toml(config), end="")
    return 0


def _without_log(config: Config) -> Config:
    from sessionrec_jax.data.resolve import without_facts_of_log  # starts jax, which --help need not wait for

    return replace(without_facts_of_log(config), {"data.path": ""})
