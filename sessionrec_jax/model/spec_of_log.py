"""The shapes of a model, from its settings and from the log that it reads.

This is not in sessionrec.py because it knows prepared logs, and with them the libraries that read them.
"""

from __future__ import annotations

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.columns import session_context
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.model.spec import Spec, extra_rows


def spec_of(config: Config, log: Prepared, catalogue: Catalogue) -> Spec:
    """Returns the Spec of the model that `config` trains on `log`; `catalogue` is from `train_catalogue`."""
    return Spec(
        model=config.model,
        ids=catalogue.items + 1,
        side_values=tuple(catalogue.side_values.items()),
        feedback_kinds=len(log.feedback_names),
        max_positions=config.data.sessions_per_row,
        session_items=log.manifest["max_session_items"] if config.paradigm == "nspp" else 1,
        extra_rows=extra_rows(catalogue.items + 1),
        id_rows=catalogue.id_rows if config.model.id_width else 0,
        vector_widths=tuple(catalogue.vector_widths.items()),
        context_values=tuple(session_context(config, log).items()),
    )
