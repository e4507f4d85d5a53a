"""The devices of a pod by the name of its topology: `v5p:16x16x16` is a slice of TPUs, `H100:32x8` means 32 machines of
8 GPUs.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from experiments.pod.chips import Chip, chip_named
from experiments.pod.gpus import target_config
from sessionrec_jax.config.settings import Mesh
from sessionrec_jax.errors import InputError

LADDERS = {
    0: ("2x8", "8x8", "32x8", "128x8", "512x8"),
    2: ("4x4", "8x8", "16x16"),
    3: ("2x2x4", "4x4x4", "4x8x8", "8x8x16", "16x16x16"),
}
"""16, 64, 256, 1,024 and 4,096 chips: machines of 8 GPUs (0), and slices whose network has two or three dimensions."""
_GPU_SIZES = 2


class Topology(NamedTuple):
    """One slice of a TPU pod, or machines with GPUs."""

    chip: Chip
    sizes: tuple[int, ...]
    """Sizes of the slice's network; machines and GPUs of a machine."""

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.sizes))}"

    @property
    def devices(self) -> int:
        return math.prod(self.sizes) * self.chip.devices_per_chip


def parse(name: str) -> Topology:
    """Returns the topology of a name. Raises InputError if it is malformed, or names an unknown chip."""
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if match is None:
        raise InputError(f"--topology is {name!r}; wanted CHIP:SIZES, such as v5e:4x4, v5p:16x16x16 or H100:32x8")
    chip, sizes = chip_named(match[1]), tuple(map(int, match[2].split("x")))
    example = f"{chip.name}:{LADDERS[chip.dimensions][0]}"
    if chip.is_gpu and (len(sizes) != _GPU_SIZES or 0 in sizes):
        raise InputError(
            f"--topology {name}: {chip.name} wants two sizes from 1, machines x GPUs of a machine, such as {example}"
        )
    if not chip.is_gpu and (len(sizes) != chip.dimensions or 0 in sizes):
        raise InputError(
            f"--topology {name}: a slice of {chip.name} has {chip.dimensions} sizes from 1, such as {example}"
        )
    return Topology(chip, sizes)


def check_mesh(topology: Topology, slices: int, mesh: Mesh) -> None:
    """Raises InputError if the mesh does not use every device of the slices."""
    devices, others = topology.devices * slices, mesh.fsdp * mesh.model
    data = mesh.data or devices // others
    if data * others != devices:
        fits = f"data={devices // others},fsdp={mesh.fsdp},model={mesh.model}"
        if devices % others:
            fits = f"data={devices},fsdp=1,model=1"
        raise InputError(
            f"--mesh data={mesh.data},fsdp={mesh.fsdp},model={mesh.model} wants {data * others} devices, but "
            f"{slices} x {topology.name} has {devices}; use --mesh {fits}"
        )


def ladder(topology: Topology, mesh: Mesh) -> list[Topology]:
    """Returns slices of 16 to 4,096 chips of the same family, those on which the axes fsdp and model fit."""
    steps = (parse(f"{topology.chip.name}:{sizes}") for sizes in LADDERS[topology.chip.dimensions])
    return [step for step in steps if step.devices % (mesh.fsdp * mesh.model) == 0]


def devices_of(topology: Topology, slices: int) -> list[Any]:
    """Returns devices that can be compiled for, though none is here. Raises InputError with libtpu's own words if it
    knows no such slice."""
    import jax
    from jax.experimental import topologies

    if topology.chip.is_gpu:
        grid = f"1x{topology.sizes[0]}x{topology.sizes[1]}"
        config = target_config(topology.chip.name)
        return topologies.get_topology_desc(platform="cuda", topology=grid, target_config=config).devices
    several = {"num_slices": slices} if slices > 1 else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **several).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        raise InputError(f"--topology {topology.name}: libtpu has no such slice: {error}") from None
