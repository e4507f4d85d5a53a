"""The errors that a user can put right: wrong input, and tables that cannot carry the law that was asked for."""

from doors.errors import InputError, near_miss

__all__ = ["InputError", "Refusal", "near_miss"]


class Refusal(InputError):
    """The table cannot carry this law. The message gives the reason and the cure."""
