"""Power laws from any table of runs; never imports jax or sessionrec_jax.

import scaling
fit = scaling.fit("runs.csv", law="chinchilla", n="params", d="tokens", loss="loss")  # or a Polars or pandas frame
print(fit.summary())

A name is imported when it is first used, so `import scaling` itself loads neither numpy nor Polars.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling.errors import InputError, Refusal
    from scaling.fitting.fit import BEST, fit
    from scaling.fitting.fitted import FittedLaw, load
    from scaling.fitting.forms import Forms
    from scaling.fitting.lead import default_law
    from scaling.fitting.result import Fit
    from scaling.laws.registry import LAWS, Law, register_law
    from scaling.rates.fit import fit_rates
    from scaling.rates.result import RatesFit, load_rates
    from scaling.table.names import Columns
    from scaling.table.run_table import Excluded, RunTable, read

__all__ = [
    "BEST",
    "LAWS",
    "Columns",
    "Excluded",
    "Fit",
    "FittedLaw",
    "Forms",
    "InputError",
    "Law",
    "RatesFit",
    "Refusal",
    "RunTable",
    "default_law",
    "fit",
    "fit_rates",
    "load",
    "load_rates",
    "read",
    "register_law",
]

_HOME = {
    "BEST": "fitting.fit",
    "LAWS": "laws.registry",
    "Columns": "table.names",
    "Excluded": "table.run_table",
    "Fit": "fitting.result",
    "FittedLaw": "fitting.fitted",
    "Forms": "fitting.forms",
    "InputError": "errors",
    "Law": "laws.registry",
    "RatesFit": "rates.result",
    "Refusal": "errors",
    "RunTable": "table.run_table",
    "default_law": "fitting.lead",
    "fit": "fitting.fit",
    "fit_rates": "rates.fit",
    "load": "fitting.fitted",
    "load_rates": "rates.result",
    "read": "table.run_table",
    "register_law": "laws.registry",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
