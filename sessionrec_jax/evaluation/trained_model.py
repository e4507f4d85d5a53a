"""A model with its parameters, the log that it was trained on, and the devices that hold it.

Training returns one, a run folder is read back as one; evaluation and recommendation take one.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from sessionrec_jax.config.settings import Config
from sessionrec_jax.data.batches import BatchShape, shape_of
from sessionrec_jax.data.catalogue import Catalogue
from sessionrec_jax.data.store import Prepared
from sessionrec_jax.devices.mesh import batch_shards, shards_here
from sessionrec_jax.model.spec import Params, Spec
from sessionrec_jax.runfolder.history import TrainingHistory


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model that can be evaluated and that can recommend."""

    config: Config
    """The run's resolved Config. Of a run that was read back, `data.path` and `mesh` say where the log is now and which
    devices are used."""
    log: Prepared
    catalogue: Catalogue
    spec: Spec
    mesh: jax.sharding.Mesh
    params: Params
    """Placed on `mesh`."""
    step: int
    """Training steps that `params` have seen: of a finished run all of them, or those of the best validation
    (`train.evaluated`)."""
    history: TrainingHistory | None = None
    """None if the model did not come out of training in this process."""

    @property
    def shape(self) -> BatchShape:
        """The shape of the batches that are evaluated."""
        return shape_of(self.config, batch_shards(self.mesh), shards_here(self.mesh)[0])
