"""The demo: two laws recovered on data whose truth is known, the law of data and the law of body size."""

from typing import Literal

SizeName = Literal["full", "smallest"]
