"""Descriptions of NVIDIA GPUs in the form that XLA's compiler reads instead of asking a driver."""

from __future__ import annotations

from typing import NamedTuple


class _Gpu(NamedTuple):
    """The properties of a device as its driver reports them."""

    name: str
    l2_bytes: int
    memory_bytes: int
    memory_bytes_per_second: int
    clock_ghz: float = 1.98


_GPUS = {
    "H100": _Gpu("NVIDIA H100 80GB HBM3", 52_428_800, 84_929_347_584, 3_352_320_000_000),
    "H200": _Gpu("NVIDIA H200", 62_914_560, 150_754_820_096, 4_890_000_000_000),
}
_HOPPER = """
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  cuda_compute_capability { major: 9 minor: 0 }
"""
_VERSIONS = "dnn_version_info { major: 9 minor: 8 } runtime_version { major: 13 minor: 0 patch: 0 }"


def target_config(chip: str) -> str:
    """Returns the text proto `GpuTargetConfigProto` of a GPU, by the name of the chip (chips.py)."""
    gpu = _GPUS[chip]
    own = (
        f"memory_bandwidth: {gpu.memory_bytes_per_second} l2_cache_size: {gpu.l2_bytes} "
        f"clock_rate_ghz: {gpu.clock_ghz} device_memory_size: {gpu.memory_bytes}"
    )
    return (
        f'gpu_device_info {{{_HOPPER}  {own}\n}}\nplatform_name: "CUDA" {_VERSIONS}\n'
        f'device_description_str: "{gpu.name}"\n'
    )
