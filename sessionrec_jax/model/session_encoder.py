"""ISE, the item-based session encoder (paper, figure 2): the exposures of one session become one vector s.

Letters: T item slots, S session slots, K feedback kinds, D width. Clicked, ignored and context exposures all enter; a
feedback embedding distinguishes them. The paper does not say how the feedback enters, so this is our choice. The paper
compared pooling, attention and a Transformer and kept the mean; their details are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sessionrec_jax.config.settings import Model
from sessionrec_jax.data.codes import CLICKED, IGNORED
from sessionrec_jax.model.facts import Parameter, projection
from sessionrec_jax.model.linear import linear
from sessionrec_jax.registry import SESSION_ENCODERS


class Items(NamedTuple):
    """The packed items of one shard, as a session encoder reads them."""

    x_TD: Float[Array, "T D"]
    """The item's embedding plus the embedding of its feedback."""
    feedback_T: Int[Array, " T"]
    session_T: Int[Array, " T"]
    """The session of each item. An item of session `sessions` is padding, or the settings leave it out."""
    sessions: int
    """S."""
    is_sorted: bool
    """session_T does not decrease."""


class SessionEncoderCost(NamedTuple):
    """The cost of a session encoder in closed form. The feedback embedding is counted elsewhere."""

    parameters: int
    per_item: int
    """Multiply-adds of the matrix products for one item, forward pass only."""
    per_session: int
    """The same for one session."""


class SessionEncoderModule(nn.Module):
    """Base class of the session encoders: adds the feedback embedding and leaves out what the settings leave out. A
    subclass defines `pool`, in which it may create its own parameters."""

    config: Model
    feedback_kinds: int
    session_items: int
    """Exposures of the longest session."""

    @nn.compact
    def __call__(
        self, e_TD: Float[Array, "T D"], feedback_T: Int[Array, " T"], session_T: Int[Array, " T"], sessions: int
    ) -> Float[Array, "S D"]:
        """`session_T` does not decrease; an id of `sessions` is padding. A session that loses all its items to the
        settings gets the vector of an empty session."""
        config = self.config
        feedback_KD = self.param("feedback", nn.initializers.normal(0.1), (self.feedback_kinds, config.width))
        feedback_T = feedback_T.astype(jnp.int32)
        x_TD = e_TD + feedback_KD[feedback_T].astype(e_TD.dtype)
        left_out = [CLICKED] * (not config.clicked_in_input) + [IGNORED] * (not config.ignored_in_input)
        for code in left_out:
            session_T = jnp.where(feedback_T == code, sessions, session_T)
        # The ids of left-out items break the order.
        return self.pool(Items(x_TD, feedback_T, session_T, sessions, is_sorted=not left_out))

    def pool(self, items: Items) -> Float[Array, "S D"]:
        """Returns one vector for each session, from the session's own items only and independent of their order."""
        raise NotImplementedError


@dataclass(frozen=True)
class SessionEncoder:
    """Everything that is true of one session encoder. `sessionrec_jax.registry.SESSION_ENCODERS` finds it by name."""

    module: type[SessionEncoderModule]
    parameters: tuple[Parameter, ...]
    """The table of the module's own parameters."""
    cost: Callable[[Model, int, int], SessionEncoderCost]
    """Called with the model's settings, `feedback_kinds` and `session_items`."""
    is_bounded: bool = False
    """It reads at most `session_items` exposures of a session, so `recommend` refuses a longer session."""


PROJECT = projection("project")


def parameter_table(model: Model) -> tuple[Parameter, ...]:
    """Returns the rows of all parameters of the session encoder."""
    return (Parameter("feedback"), *SESSION_ENCODERS.find(model.session_encoder).parameters)


def project(module: SessionEncoderModule, s_SD: Float[Array, "S D"], items: Items) -> Float[Array, "S D"]:
    """Multiplies pooled vectors by the parameter `project` of `module`."""
    return linear(module, "project", s_SD.astype(items.x_TD.dtype), module.config.width)


def pooling_cost(model: Model, feedback_kinds: int, session_items: int) -> SessionEncoderCost:
    """Returns the cost of pooling without matrices, followed by `project`."""
    return SessionEncoderCost(parameters=model.width**2, per_item=0, per_session=model.width**2)
