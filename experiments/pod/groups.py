"""The groups of devices of a collective, from the three forms in which XLA writes them, and what they span in the mesh.

Devices are numbered by their place in the flattened mesh.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SLICE = 100_000


class Layout(NamedTuple):
    """The mesh that a program runs on."""

    axes: tuple[tuple[str, int], ...]
    slice_of: tuple[int, ...]
    """The TPU slice of each device, or the machine of each GPU: a slower network connects them."""
    place_of: tuple[tuple[int, ...], ...]
    """Coordinates of each device in the network of its slice; none for a GPU, which is on a switch."""
    id_of: tuple[int, ...] = ()
    """The number that the compiler gives each device: 100,000 x (slice + 1) + its number in the slice."""

    @classmethod
    def of(cls, mesh: object) -> Layout:
        """Returns the layout of a jax.sharding.Mesh."""
        devices = list(mesh.devices.flat)
        is_tpu = devices[0].platform == "tpu"
        is_gpu = devices[0].platform in ("gpu", "cuda")
        slice_index = "process_index" if is_gpu else "slice_index"
        return cls(
            tuple(mesh.shape.items()),
            tuple(getattr(device, slice_index, 0) or 0 for device in devices),
            tuple(tuple(device.coords) if is_tpu else () for device in devices),
            tuple(device.id for device in devices),
        )

    def axes_of(self, group: Sequence[int]) -> tuple[str, ...]:
        """Returns the mesh axes along which the devices of a group differ; axes of size one are left out."""
        places = np.unravel_index(np.asarray(group), [size for _, size in self.axes])
        return tuple(name for (name, _), place in zip(self.axes, places, strict=True) if len(set(place.tolist())) > 1)

    def slices_of(self, group: Sequence[int]) -> int:
        """Returns the number of slices that have devices of a group."""
        return len({self.slice_of[device] for device in group})

    def links_of(self, group: Sequence[int]) -> int:
        """Returns the links over which a device can send to the others of its group at once: two, one in each
        direction, for each dimension of the network along which they differ, and one to a switch."""
        places = np.array([self.place_of[device] for device in group])
        if not places.size:
            return 1
        return 2 * max(1, sum(len(set(column.tolist())) > 1 for column in places.T))


def group_across_slices(text: str, layout: Layout) -> list[int]:
    """Returns the first group of a transfer between slices: a list of ids, or `{1,2}x{0:7}`, where a device of each of
    the slices 1 and 2 takes part, for each number from 0 to 7."""
    target = re.search(r'_xla_megascale_target="?(\{.*?\}(?:x\{[^}]*\})?)[",]?,?_xla', text)
    if target is None:
        return list(range(len(layout.id_of)))
    if each := re.match(r"\{([\d,]+)\}x\{(\d+)", target[1]):
        ids = [_SLICE * slice_ + int(each[2]) for slice_ in _numbers(each[1])]
    else:
        ids = _numbers(target[1].partition("}")[0])
    places = {number: place for place, number in enumerate(layout.id_of)}
    return [places[number] for number in ids if number in places] or list(range(len(layout.id_of)))


def groups_of(text: str, devices: int) -> list[list[int]]:
    """Returns the groups of the attributes of a collective; one group of all devices if they name none."""
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", text):
        return [list(map(int, part.split(","))) for part in re.findall(r"\{([\d, ]+)\}", match[1])]
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = _reordered(np.arange(math.prod(_numbers(match[2]))), match[2], match[3])
        return ids.reshape(_numbers(match[1])).tolist()
    if match := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, ?device_ids=\((.*?\]?(?:T\([\d,]+\))?)\))? ?\{([^}]*)\}", text
    ):
        return _of_axes(match[1], match[2], match[3])
    return [list(range(devices))]


def _of_axes(sizes: str, order: str | None, over: str) -> list[list[int]]:
    """Returns the groups that differ along the axes `over` of a mesh that XLA has made up. An axis may be split: in
    'a':(2)4 the group differs along the part of size 4, with a part of size 2 before it."""
    dims = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    ids = np.arange(math.prod(dims.values()))
    if order and (match := re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", order)):
        ids = _reordered(ids, match[1], match[2])
    elif order:
        ids = np.array(_numbers(order))
    wanted = [(name, int(before or 1), int(size or dims[name])) for name, before, size in
              re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", over)]  # fmt: skip
    parts: list[int] = []
    chosen: list[int] = []
    for name, size in dims.items():
        done = 1
        for before, part in sorted((before, part) for axis, before, part in wanted if axis == name):
            parts.append(before // done)
            chosen.append(len(parts))
            parts.append(part)
            done = before * part
        parts.append(size // done)
    rest = [n for n in range(len(parts)) if n not in chosen]
    grouped = ids.reshape(parts).transpose(rest + chosen)
    return grouped.reshape(-1, math.prod(parts[n] for n in chosen)).tolist()


def _reordered(ids: np.ndarray, sizes: str, order: str | None) -> np.ndarray:
    ids = ids.reshape(_numbers(sizes))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
