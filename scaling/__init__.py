"""Power laws from any table of runs; never imports jax or sessionrec_jax.

import scaling
fit = scaling.fit("runs.csv", law="chinchilla", n="params", d="tokens", loss="loss")  # or a Polars or pandas frame
print(fit.summary())
"""

from scaling.errors import InputError, Refusal
from scaling.fitting.fit import BEST, fit
from scaling.fitting.fitted import FittedLaw, load
from scaling.fitting.forms import Forms
from scaling.fitting.lead import default_law
from scaling.fitting.result import Fit
from scaling.laws.registry import LAWS, Law, register_law
from scaling.table.run_table import Columns, Excluded, RunTable, read

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
    "Refusal",
    "RunTable",
    "default_law",
    "fit",
    "load",
    "read",
    "register_law",
]
