"""Print a script that completes commands and flags in bash or zsh: the names come from the commands' own help.

    sessionrec completion bash > ~/.local/share/bash-completion/completions/sessionrec
    sessionrec completion zsh > ~/.sessionrec_completion         # and `source ~/.sessionrec_completion` in ~/.zshrc

Print it again after an update, because the script holds the names. Words that are no flags are completed as files.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import tyro

from experiments.cli.parsing import HELP_ALL, parse_flags
from experiments.plans import PLANS
from sessionrec_jax.registry import SOURCES

_SECOND = {"sweep": PLANS, "prepare": SOURCES}
"""Commands whose first word is a name, and the names. Their flags depend on the name."""
_FLAGS = re.compile(r"^[│ ] (--?[a-z][\w.-]*(?:, --?[a-z][\w.-]*)*)", re.MULTILINE)
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
_SCRIPT = """\
_sessionrec() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" names="" flags=""
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    if [ "$COMP_CWORD" -eq 1 ]; then names="{commands}"; elif [ "$COMP_CWORD" -gt 2 ]; then names=""; fi
    case "$word" in
        -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
        *) COMPREPLY=($(compgen -W "$names" -- "$word")) ;;
    esac
}}
complete -o default -F _sessionrec sessionrec
"""


@dataclass(frozen=True)
class Command:
    shell: tyro.conf.Positional[Literal["bash", "zsh"]]
    """The shell that reads the script."""


def main(argv: list[str]) -> int:
    command = parse_flags(Command, argv, prog="sessionrec completion", description=__doc__)
    from experiments.__main__ import COMMANDS

    cases = "\n".join(f"        {name}) {_case(name)} ;;" for name in COMMANDS)
    script = _SCRIPT.format(cases=cases, commands=" ".join(COMMANDS))
    print((_ZSH if command.shell == "zsh" else "") + script, end="")
    return 0


def _case(command: str) -> str:
    """Returns the line of a command: its flags, and the names that may be its first word."""
    names = list(_SECOND.get(command, ()))
    flags = _flags(*([command, name] for name in names)) if names else _flags([command])
    return f'flags="{" ".join(flags)}"' + (f'; names="{" ".join(names)}"' if names else "")


def _flags(*commands: Iterable[str]) -> list[str]:
    """Returns the flags that the help of these commands shows, each once."""
    from experiments.__main__ import main as call

    found: dict[str, None] = {}
    for words in commands:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            call([*words, HELP_ALL])
        found |= {flag: None for line in _FLAGS.findall(shown.getvalue()) for flag in line.split(", ")}
    return [*found, HELP_ALL]
