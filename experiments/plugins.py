"""`--plugin MODULE` imports a module outside this repository that registers encoders, losses, sources, laws or plans.

The names are kept in an environment variable, so that the workers which a command starts import the modules too.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from scaling.errors import InputError

VARIABLE = "SESSIONREC_PLUGINS"


def import_and_remove(argv: list[str]) -> list[str]:
    """Imports the modules that `--plugin` names, and those of the environment variable. Returns `argv` without them."""
    rest, named, words = [], [], iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--plugin":
            named.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    if "" in named:
        raise InputError("--plugin names no module; expected --plugin MODULE, such as --plugin my_encoders")
    if named:
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*_named(), *named]))
    import_all()
    return rest


def import_all() -> None:
    """Imports the modules that the environment variable names. Raises InputError for one that is not there."""
    for name in _named():
        here = str(Path.cwd())
        if here not in sys.path:  # the installed command does not look for modules in the working folder
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another one
            raise InputError(
                f"--plugin {name}: no such module; expected one of the working folder or of PYTHONPATH, without .py"
            ) from None


def environment() -> dict[str, str]:
    """Returns the variable for processes that do not inherit the environment."""
    return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}


def _named() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]
