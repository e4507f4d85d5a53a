"""The codes that a packed batch uses for feedback and for the role of a session. This module imports nothing.

Feedback codes (contract 2): 0 ignored, 1 clicked, 2 and above one code for each kind of context. A context exposure is
an input of the model; it is never a target and never a negative.
"""

IGNORED, CLICKED, CONTEXT = 0, 1, 2
FEEDBACK = ("ignored", "clicked")
"""Names of the codes that every log has; a log's own kinds of context follow."""

TRAIN, VALIDATION, TEST = 0, 1, 2
ROLES = ("train", "validation", "test")
"""Names of the session roles, by code."""
