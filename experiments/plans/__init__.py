"""Plans decide what to run. Each is one file, which turns one Config into the list of Configs of a sweep.

A Config and a prepared log come in; a Layout goes out: the runs, and the file that says which columns a fit reads.
A plan is a dataclass `Plan`, most often based on ScalingPlan or ArmsPlan. `register_plan("mine", Plan)` adds one from
outside.
"""

from pathlib import Path

from sessionrec_jax.registry import Registry

_FILES = sorted(path for path in Path(__file__).parent.glob("*.py") if "\nclass Plan" in path.read_text())
PLANS = Registry[type]("plan", "Plan", {path.stem: f"experiments.plans.{path.stem}" for path in _FILES})
"""Every file here that defines a class `Plan` is a plan, by its name."""


def register_plan(name: str, plan: type) -> None:
    """Adds a plan under a new name: a frozen dataclass with `lay_out(base, prepared) -> Layout` and `SETS`. The
    docstring of its module is the help of `sessionrec sweep NAME`.

    Raises InputError where the name is taken.
    """
    PLANS.register(name, plan)
