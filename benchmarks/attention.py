"""The memory of the fused attention against the reference, by the compiler of an accelerator that is not here.

    python benchmarks/attention.py
    python benchmarks/attention.py --topology H100:1x4 --slots 4096 --encoder transformer

Compiled is the gradient of the sequence encoder alone, without items, losses and optimizer, in bfloat16, for rows of
`slots` sessions of one user or of many. Nothing runs. `temporaries` is what a device needs in addition to parameters,
inputs and gradients. A program that is too large for the device is refused; then its line has the bytes that the
compiler named, and the ratio is of those.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

# jax reads these when it looks for devices. No accelerator is looked for, and no service of a TPU machine.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any: without one libtpu asks for it
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}

import jax
import jax.numpy as jnp
from _bench import report, significant
from jax.sharding import NamedSharding, PartitionSpec

from experiments.pod.child import used_bytes
from experiments.pod.launch import check_compiler
from experiments.pod.topology import devices_of, parse
from sessionrec_jax.config.settings import Mesh, Model
from sessionrec_jax.devices.mesh import make_mesh, over_batch, over_shards
from sessionrec_jax.devices.sharding import shardings
from sessionrec_jax.errors import InputError
from sessionrec_jax.model.sequence_encoder import SequenceEncoderModule

LAYERS, WIDTH, HEADS = 12, 1024, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--encoder", default="hstu", choices=("hstu", "transformer"))
    parser.add_argument("--slots", default=1_024, type=int)
    parser.add_argument("--rows", default=8, type=int, help="of a device")
    args = parser.parse_args()
    try:
        check_compiler(parse(args.topology).chip)
        devices = devices_of(parse(args.topology), 1)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(InputError.exit_code)
    found = {kind: temporaries(devices, args.encoder, args.slots, args.rows, kind) for kind in ("fused", "reference")}
    report(
        "memory of the fused attention, by the compiler",
        "bytes of temporaries fused / reference",
        ratio=significant(found["fused"]["bytes"] / found["reference"]["bytes"]),
        temporaries_mb={kind: significant(of["bytes"] / 1e6) for kind, of in found.items()},
        is_too_large={kind: of["is_too_large"] for kind, of in found.items()},
        logits_of_a_layer_mb=significant(4 * args.rows * HEADS * args.slots**2 / 1e6),
        **vars(args),
        device_kind=devices[0].device_kind,
        jax_version=jax.__version__,
    )


def temporaries(devices: Sequence[Any], encoder: str, slots: int, rows: int, attention: str) -> dict[str, Any]:
    """Returns the bytes of a device for the gradient of a sequence encoder: those of the temporaries, or what the
    compiler named when it refused the program."""
    mesh = make_mesh(Mesh(data=len(devices)), devices)
    model = Model(width=WIDTH, layers=LAYERS, heads=HEADS, sequence_encoder=encoder, attention=attention)
    module = SequenceEncoderModule(model, slots)

    def of_batch(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(devices), rows, slots, *shape), dtype, sharding=over_batch(mesh))

    s_GRLD, by_slot = of_batch(WIDTH, dtype=jnp.bfloat16), [of_batch()] * 3
    shard = [jax.ShapeDtypeStruct((1, *x.shape[2:]), x.dtype) for x in (s_GRLD, *by_slot)]
    shapes = jax.eval_shape(lambda key, *of: module.init(key, *of, noise=None), jax.random.key(0), *shard)["params"]
    places = shardings(mesh, model, {"sequence_encoder": shapes})["sequence_encoder"]
    params = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, places)

    def objective(params, s_GRLD, *by_slot):
        def of_shard(*of):
            return jnp.sum(module.apply({"params": params}, *of, noise=None).astype(jnp.float32))

        return jnp.sum(over_shards(mesh, of_shard, s_GRLD, *by_slot))

    gradient = jax.jit(
        jax.grad(objective, argnums=(0, 1)), out_shardings=(NamedSharding(mesh, PartitionSpec()), over_batch(mesh))
    )
    lowered = gradient.lower(params, s_GRLD, *by_slot)
    try:
        return {"bytes": lowered.compile().memory_analysis().temp_size_in_bytes, "is_too_large": False}
    except jax.errors.JaxRuntimeError as error:
        named = used_bytes(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or named is None:
            raise
        return {"bytes": named, "is_too_large": True}


if __name__ == "__main__":
    main()
