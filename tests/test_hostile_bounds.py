"""Tests that every number has a range: at its ends and past them a command works or is refused, and always ends."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest
from hostile import FIT, PREPARE, inside, sessionrec, write_log, write_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doors.bounds import bounds_of, check, out_of_bounds
from experiments.cli.fit import Args as Fit
from experiments.cli.report import Args as Report
from sessionrec_jax.config import rules
from sessionrec_jax.config.settings import Config
from sessionrec_jax.config.values import replace
from sessionrec_jax.data.preparation.settings import Settings
from sessionrec_jax.data.synthetic.process import ZipfIntent
from sessionrec_jax.errors import InputError


def fields(kind: type, within: str = "") -> dict[str, typing.Any]:
    """Returns the type hint of every field by its dotted name."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        found |= fields(hint, f"{within}{name}.") if dataclasses.is_dataclass(hint) else {f"{within}{name}": hint}
    return found


def is_number(hint: typing.Any) -> bool:
    plain = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
    kinds = (plain, *typing.get_args(plain))
    return (int in kinds or float in kinds) and str not in kinds


NUMBERS = {name: bounds_of(hint) for name, hint in fields(Config).items() if is_number(hint)}


@pytest.mark.parametrize("kind", [Config, Settings, ZipfIntent, Fit, Report])
def test_every_number_states_its_range(kind):
    exempt = {"floor"}  # any loss may be a floor; the table decides
    without = [name for name, hint in fields(kind).items() if is_number(hint) and bounds_of(hint) is None]
    assert set(without) <= exempt


def test_the_defaults_are_inside_their_ranges():
    assert not list(out_of_bounds(Config()))
    check(Settings())
    check(ZipfIntent(users=5))


def past(name: str) -> list[float]:
    """Returns values outside the range of a number: next to its ends, far beyond them, and no number at all."""
    bounds = NUMBERS[name]
    if not isinstance(default_of(name), float):
        return [int(bounds.lowest) - 1, int(bounds.highest) + 1, -(10**30), 10**400]
    near = [bounds.lowest - 1e-9, bounds.highest * (1 + 1e-9) + 1e-9]
    near += [float(bounds.lowest)] * bounds.above + [float(bounds.highest)] * bounds.below
    return [*near, -1e300, 1e300, -math.inf, math.inf, math.nan]


def default_of(name: str) -> typing.Any:
    room, _, field = name.partition(".")
    return getattr(getattr(Config(), room), field)


def given_as(name: str, value: float) -> typing.Any:
    """Returns the value as the field takes it: in a tuple, if that is what it holds."""
    return (value,) if isinstance(default_of(name), tuple) else value


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_past_its_range_is_refused_by_its_name(name):
    room, _, field = name.partition(".")
    for value in past(name):
        part = dataclasses.replace(getattr(Config(), room), **{field: given_as(name, value)})
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is "):
            rules.check(dataclasses.replace(Config(), **{room: part}))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_settings_at_and_past_their_bounds_are_accepted_or_refused(data):
    """A checked Config has finite numbers inside their ranges; anything else is an InputError."""
    values = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(NUMBERS)), max_size=5, unique=True)):
        bounds, kind = NUMBERS[name], float if isinstance(default_of(name), float) else int
        inside = st.floats(allow_infinity=True) if kind is float else st.integers()
        value = data.draw(st.sampled_from([kind(bounds.lowest), kind(bounds.highest), *past(name)]) | inside)
        values[name] = given_as(name, value)
    try:
        config = rules.check(replace(Config(), values))
    except InputError:
        return
    assert not list(out_of_bounds(config))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounds")
    write_log(folder / "log.csv")
    write_runs(folder / "runs.csv")
    with inside(folder):
        assert sessionrec(PREPARE.format("log.csv", "DATA")) == 0
    return folder


QUICK = "--data.rows 4 --data.sessions-per-row 8 --model.width 8 --model.layers 1 --loss.negatives 8 --train.epochs 0.1"
HIGHEST = {
    name: bounds.highest
    for name, bounds in NUMBERS.items()
    if name in ("train.seed", "optim.weight_decay", "optim.table_prior", "optim.clip_norm", "train.log_every_steps",
                "train.checkpoints_kept", "data.users", "data.eval_users", "train.profile_steps")
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HIGHEST)
def test_a_run_at_the_end_of_a_range_ends(name, prepared, tmp_path, capsys):
    """Those highest values that cost nothing; a diverged run ends with 1 and one message."""
    with inside(prepared):
        code = sessionrec(f"train DATA --out {tmp_path / 'RUN'} {QUICK} --{name.replace('_', '-')} {HIGHEST[name]:g}")
    assert code in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_flags_of_any_value_end_with_a_message(prepared, data):
    """Draws flags of `train`, past their bounds or not numbers at all: exit code 2 before a folder is claimed."""
    name = data.draw(st.sampled_from(sorted(set(NUMBERS) - {"train.checkpoints_at"})))
    value = data.draw(st.sampled_from([*map(str, past(name)), "", "x", "1e", "0x1"]))
    with inside(prepared):
        assert sessionrec(f"train DATA --out RUN --{name.replace('_', '-')}='{value}'") == 2
        assert not (prepared / "RUN").exists()


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(-3, 40), st.integers(-1, 2**33), st.floats())
def test_a_fit_of_any_numbers_ends_with_a_message(prepared, draws, seed, floor):
    with inside(prepared):
        command = FIT.format("runs.csv").replace("100", str(draws))
        assert sessionrec(f"{command} --seed={seed} --floor={floor}") in (0, 2)


CELLS = (
    "u1", "u2", "i1", "", " ", "0", "1", "2", "1714555000", "-1", "1e300", "nan", "true", "2024-05-01",
    "2024-05-01T10:00Z", '"', "[b]", "\x1b[31m", "\u202e", "é",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)  # ten thousand logs: 1,000 seconds where nothing else runs
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_logs_of_any_content_are_prepared_or_refused(tmp_path_factory, data):
    """Draws cells of numbers, dates, markup, controls and nothing at all, and headers of any length."""
    cell = st.sampled_from(CELLS) | st.text(max_size=4)
    lines = data.draw(st.lists(st.lists(cell, min_size=3, max_size=5), max_size=8))
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    header = data.draw(st.sampled_from(["user,item,ts,label", "user,item,ts", "user,item,ts,label,label", ""]))
    text = "\n".join([header, *(",".join(line) for line in lines)])
    (folder / "log.csv").write_bytes(text.encode(errors="surrogatepass"))
    with inside(folder):
        assert sessionrec(PREPARE.format("log.csv", "DATA") + " --overwrite") in (0, 2)
