"""Plans: what to run. One file for each plan; a plan turns one Config into the list of Configs of a sweep.

A Config and a prepared log come in; a Layout goes out: the runs, and the file that says which columns a fit reads.
A plan of your own is a module with a dataclass like those here; `register_plan("mine", Plan)` adds it.
"""

from sessionrec_jax.registry import Registry

PLANS: Registry[type] = Registry(
    "plan",
    "Plan",
    {
        name: f"experiments.plans.{name}"
        for name in (
            "grid", "isoflop", "unlimited_data", "epochs", "history", "learning_rate", "seeds", "catalogue",
            "paradigm", "ablation",
        )
    },
)  # fmt: skip


def register_plan(name: str, plan: type) -> None:
    """Adds a plan under a new name: a frozen dataclass with `lay_out(base, prepared) -> Layout` and `SETS`. The
    docstring of its module is the help of `sessionrec sweep NAME`.

    Raises InputError where the name is taken.
    """
    PLANS.register(name, plan)
