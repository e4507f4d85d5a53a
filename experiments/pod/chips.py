"""Published facts of each accelerator, for one device as jax counts devices."""

from __future__ import annotations

from typing import NamedTuple

from sessionrec_jax.errors import InputError, near_miss


class Chip(NamedTuple):
    """The speed and memory of one device."""

    name: str
    peak_flops_per_second: float
    """Products of bfloat16 matrices."""
    hbm_bytes: float
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    """One direction of one link."""
    network_bytes_per_second: float
    """One direction of a device's share of the network to other machines (GPU) or to other slices (TPU)."""
    clock_hz: float
    dimensions: int
    """Dimensions of the network that connects the chips of a slice; 0: the GPUs of a machine are on one switch."""
    devices_per_chip: int
    source: str

    @property
    def is_gpu(self) -> bool:
        return not self.dimensions

    @property
    def lanes(self) -> int:
        """The width of a register in numbers: rows of a multiple of them are read without a copy."""
        return 1 if self.is_gpu else 128


_MXU = "The clock is the one that the peak and the number and size of the matrix units imply."
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 16e9, 819e9, 45e9, 3.1e9, 1.5e9, 2, 1,
             "Google Cloud's page on TPU v5e: 197 TFLOP/s, 16 GB, 819 GB/s; 400 GB/s over 4 links, both directions, "
             "give 45 to 50 GB/s a link and direction; 2 network cards of 100 Gbit/s for the 8 chips of a machine. "
             f"{_MXU}"),
        Chip("v5p", 459e12, 95e9, 2765e9, 90e9, 6.25e9, 1.75e9, 3, 1,
             "Google Cloud's page on TPU v5p: 459 TFLOP/s, 95 GB, 2,765 GB/s; 1,200 GB/s over 6 links, both directions,"
             f" give 90 to 100 GB/s a link and direction; 50 Gbit/s of data-centre network a chip. {_MXU}"),
        Chip("v6e", 918e12, 32e9, 1640e9, 90e9, 12.5e9, 1.75e9, 2, 1,
             "Google Cloud's page on TPU v6e: 918 TFLOP/s, 32 GB, 1,640 GB/s; 800 GB/s over 4 links, both directions, "
             f"give 90 to 100 GB/s a link and direction; 100 Gbit/s of data-centre network a chip. {_MXU}"),
        Chip("tpu7x", 2307e12 / 2, 192e9 / 2, 7380e9 / 2, 90e9, 12.5e9 / 2, 1.9e9, 3, 2,
             "Google Cloud's page on TPU7x: 2,307 TFLOP/s, 192 GB, 7,380 GB/s and 100 Gbit/s of data-centre network a "
             "chip, halved here, because jax counts its two cores as two devices; 6 links of 200 GB/s in both "
             f"directions together, as v5p. {_MXU}"),
        Chip("H100", 989e12, 80e9, 3350e9, 450e9, 50e9, 1.98e9, 0, 1,
             "NVIDIA's data sheet of H100 SXM: 989 TFLOP/s dense, 80 GB, 3,350 GB/s, NVLink 900 GB/s in both "
             "directions, boost clock 1.98 GHz; one network adapter of 400 Gbit/s a GPU, as in DGX machines."),
        Chip("H200", 989e12, 141e9, 4800e9, 450e9, 50e9, 1.98e9, 0, 1,
             "NVIDIA's data sheet of H200 SXM: 989 TFLOP/s dense, 141 GB, 4,800 GB/s, NVLink 900 GB/s in both "
             "directions, boost clock 1.98 GHz; one network adapter of 400 Gbit/s a GPU, as in DGX machines."),
    )
}  # fmt: skip
"""By the name that a topology begins with."""


def chip_named(name: str) -> Chip:
    """Returns the facts of a chip. Raises InputError for an unknown one."""
    found = {known.lower(): chip for known, chip in CHIPS.items()}.get(name.lower())
    if found is None:
        raise InputError(f"--topology names the chip {name!r}; {near_miss(name, CHIPS)}")
    return found
