"""The flags of a command: every command is parsed here, and its --help is made here.

`--help` shows the settings of a run that people change often. `--help-all` shows every setting. The examples of a
command's docstring keep a line each.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from doors.files import typed_path
from sessionrec_jax.config.settings import Config, Hosts

T = TypeVar("T")

OutputFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
"""An optional file that a command writes."""
JsonFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE|-")]
"""The file of --json. `--json -`, or --json without a name, prints the JSON, and then the command prints no text."""
Quiet = Annotated[bool, tyro.conf.arg(aliases=["-q"]), tyro.conf.FlagCreatePairsOff]
"""The flag -q of a command that shows its progress."""
HELP_ALL = "--help-all"
_EXAMPLE = re.compile(r"^ *(?=(\w+=\S+ |srun )?sessionrec )", re.MULTILINE)
FREQUENT = frozenset({
    "data.users", "data.eval_users", "data.rows", "data.sessions_per_row", "model.session_encoder",
    "model.sequence_encoder", "model.width", "model.layers", "model.heads", "model.dropout", "model.compute",
    "loss.alpha", "loss.negatives", "optim.learning_rate_peak", "optim.weight_decay", "train.seed", "train.epochs",
    "train.validations", "train.evaluated",
})  # fmt: skip
"""The settings of a run that --help shows, as section.field."""


def parse_flags(
    kind: Callable[..., T],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None,
    default: Any = None,
    config: Sequence[Any] = (),
) -> T:
    """Returns the command's dataclass, filled in from `argv`. Prints the help for -h, --help and --help-all.

    Args:
      kind: the dataclass of the command.
      argv: the words after the command.
      prog: the name of the command, for the help and for errors.
      description: the docstring of the command's file. Its examples and indented lines stay lines of their own.
      default: a value of the dataclass; tyro.MISSING in it marks what a flag must give.
      config: markers of tyro.

    Raises SystemExit with code 2 for wrong flags, and with 0 after the help.
    """
    sections = {section.type for section in _sections()}
    brief = not {HELP_ALL} & set(argv) and bool({"-h", "--help"} & set(argv)) and _has(kind, sections)
    words = ["--help" if word == HELP_ALL else word for word in _named_json(argv)]
    text = _description(description or "")
    if brief:
        text += f"\n\nOf the settings of a run, this shows those that people change often. {HELP_ALL} shows all."
    defaults = {} if default is None else {"default": default}
    return tyro.cli(
        kind, args=words, prog=prog, description=text, config=tuple(config), registry=_registry(brief=brief), **defaults
    )


def _named_json(argv: Sequence[str]) -> Iterator[str]:
    """Yields the words of a command, with - as the file of a --json that names none."""
    for word, after in zip(argv, [*argv[1:], "--"], strict=False):
        yield word
        if word == "--json" and after.startswith("--"):
            yield "-"


def _description(docstring: str) -> str:
    """Returns the text above the flags. tyro joins the lines of a paragraph except indented ones, and puts two empty
    lines between a paragraph and an indented line."""
    text = _EXAMPLE.sub("    ", re.sub(r"\n\s*\n", "\n\n", docstring.strip()))
    return text.replace("\n\n    ", "\n    ")


class _Section(typing.NamedTuple):
    name: str
    type: type


def _sections() -> Iterator[_Section]:
    """Yields the sections of a Config, and the options of --hosts, which --help leaves out too."""
    for name, kind in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind):
            yield _Section(name, typing.cast(type, kind))
    yield _Section("hosts", Hosts)


def _has(kind: Any, sections: set[type]) -> bool:
    """Returns whether a command takes the settings of a run."""
    kind = typing.get_origin(kind) or kind
    hints = typing.get_type_hints(kind).values()
    return any(hint in sections or hint is Config for hint in hints)


def _registry(*, brief: bool) -> ConstructorRegistry:
    registry = ConstructorRegistry()
    registry.primitive_rule(_typed_path)
    registry.primitive_rule(_without_none)
    if brief:
        registry.struct_rule(_frequent_only())
    return registry


def _typed_path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A rule for every flag that is a path."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: typed_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _without_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A rule for an optional flag: its metavar is that of the value. The word None is accepted and not advertised."""
    kinds = [kind for kind in typing.get_args(info.type) if kind is not type(None)]
    if type(None) not in typing.get_args(info.type):
        return None
    inner = PrimitiveTypeInfo.make(functools.reduce(operator.or_, kinds), set(info.markers))
    spec = ConstructorRegistry.get_primitive_spec(inner)
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
    )


def _frequent_only() -> Callable[[StructTypeInfo], StructConstructorSpec | None]:
    """Returns a rule that hides the settings which are not in FREQUENT."""
    names = {section.type: section.name for section in _sections()}
    inside: set[type] = set()

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type not in names or info.type in inside:
            return None
        inside.add(info.type)
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            inside.remove(info.type)
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = (
            field
            if f"{names[info.type]}.{field.name}" in FREQUENT
            else dataclasses.replace(field, type=Annotated[field.type, tyro.conf.Suppress])
            for field in spec.fields
        )
        return dataclasses.replace(spec, fields=tuple(fields))

    return rule
