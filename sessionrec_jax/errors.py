"""The errors that a user can put right, and the nearest known name for a misspelled one: those of all houses."""

from doors.errors import InputError, NotSaved, near_miss, no_room

__all__ = ["InputError", "NotSaved", "near_miss", "no_room"]
