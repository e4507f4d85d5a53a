"""Fused attention equals the reference, reads a user's past and nothing else, and never holds all logits.

Kernels run in the interpreter of Pallas, on the CPU.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow
from jax.experimental import pallas
from onestep import OneStep, assert_same_step
from test_sequence_encoder import MODELS, assert_close, encode, parameters

from sessionrec_jax.config import values
from sessionrec_jax.config.settings import Mesh, Model
from sessionrec_jax.devices.mesh import make_mesh, over_shards
from sessionrec_jax.model import attention
from sessionrec_jax.model.attention import attention_mask, is_fused
from sessionrec_jax.model.fused import hstu
from sessionrec_jax.model.fused.bias import BiasTables
from sessionrec_jax.model.fused.blockwise import blockwise
from sessionrec_jax.model.fused.hstu import hstu_attention
from sessionrec_jax.model.fused.splash import splash_attention
from sessionrec_jax.model.fused.triton import triton_attention
from sessionrec_jax.model.places import TIME_BUCKETS, first_slots, seconds_of_bucket, time_bucket
from sessionrec_jax.model.sequence_encoder import SequenceEncoderModule
from sessionrec_jax.training.step import make_step

ROWS, SLOTS, HEADS, HEAD_WIDTH, BLOCK = 3, 21, 2, 8, 4
SCALE, DIVISOR = 0.4, 13
USER_RL = np.array([[1] * 9 + [2] * 4 + [3] * 8, [1] * 21, [1] * 2 + [2] * 15 + [0] * 4])
"""Users that begin at the border of a block and within one, a user of a whole row, and padding."""
NEAR = {"float32": 1e-5, "bfloat16": 2e-2}


@pytest.fixture
def interpreted(monkeypatch):
    """Runs every Pallas kernel in the interpreter."""
    monkeypatch.setattr(pallas, "pallas_call", functools.partial(_interpret, pallas.pallas_call))


def _interpret(call, *arguments, **settings):
    return call(*arguments, **settings | {"interpret": True})


@pytest.fixture
def as_if_on_a_tpu(interpreted, monkeypatch):
    """Lets programs for the CPU take the kernels for TPUs."""
    monkeypatch.setattr(attention, "_platform", lambda: "tpu")
    yield
    make_step.cache_clear()


@functools.cache
def arrays(dtype: str):
    """Returns queries, keys, values, the bias tables and the gradient of the result."""
    rng = np.random.default_rng(3)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    q, k, v, grad = (normal(ROWS, SLOTS, HEADS, HEAD_WIDTH).astype(dtype) for _ in range(4))
    return (q, k, v), (normal(HEADS, SLOTS), normal(HEADS, TIME_BUCKETS)), grad


SECONDS_RL = np.cumsum(np.random.default_rng(1).integers(0, 3 ** np.arange(SLOTS) % 90_000 + 1, (ROWS, SLOTS)), axis=1)
"""Times from seconds to weeks apart, with some equal ones."""


def wanted(kind: str, qkv, tables):
    """Returns the attention with the logits of all pairs, in float32."""
    q, k, v = (x.astype(jnp.float32) for x in qkv)
    logit_RNLM = jnp.einsum("RLNH,RMNH->RNLM", q, k) * SCALE
    if tables:
        slot_L, seconds_RL = jnp.arange(SLOTS), jnp.asarray(SECONDS_RL)
        bucket_RLM = time_bucket(seconds_RL[:, :, None] - seconds_RL[:, None])
        logit_RNLM += tables[0][:, jnp.maximum(slot_L[:, None] - slot_L, 0)]
        logit_RNLM += jnp.moveaxis(tables[1][:, bucket_RLM], 0, 1)
    mask_RxLM = attention_mask(jnp.asarray(USER_RL))[:, None]
    if kind.startswith("hstu"):
        weight_RNLM = jnp.where(mask_RxLM, jax.nn.silu(logit_RNLM) / DIVISOR, 0)
    else:
        weight_RNLM = jax.nn.softmax(jnp.where(mask_RxLM, logit_RNLM, -1e30), axis=-1)
    return jnp.einsum("RNLM,RMNH->RLNH", weight_RNLM, v)


def computed(kind: str, qkv, tables):
    user_RL = jnp.asarray(USER_RL)
    if kind.startswith("hstu"):
        bias = BiasTables(*tables, jnp.asarray(SECONDS_RL)) if tables else None
        of_kind = {"divisor": DIVISOR, "platform": kind.removeprefix("hstu "), "block": BLOCK}
        return hstu_attention(*qkv, user_RL, bias, scale=SCALE, **of_kind)
    return {"splash": splash_attention, "triton": triton_attention}[kind](*qkv, user_RL, scale=SCALE)


def seen(x_RLNH):
    """Returns the outputs at sessions; those at padding have no meaning."""
    return x_RLNH * jnp.asarray(USER_RL > 0)[:, :, None, None]


KERNELS = [("hstu tpu", True), ("hstu tpu", False), ("hstu gpu", True), ("hstu gpu", False), ("splash", False),
           ("triton", False)]  # fmt: skip


@pytest.mark.parametrize("dtype", mostly_slow(NEAR, quick=["float32"]))
@pytest.mark.parametrize(
    ("kind", "biased"),
    mostly_slow(KERNELS, quick=[one for one in KERNELS if one[1] or "hstu" not in one[0]], several=True),
)
def test_a_kernel_equals_the_reference_with_all_gradients(interpreted, kind, biased, dtype):
    qkv, tables, grad = arrays(dtype)

    def value_and_gradient(function):
        def objective(qkv, tables):
            out = seen(function(kind, qkv, tables if biased else ()))
            return jnp.sum(out.astype(jnp.float32) * grad.astype(jnp.float32)), out

        found, out = jax.jit(jax.grad(objective, argnums=(0, 1) if biased else 0, has_aux=True))(qkv, tables)
        return jax.tree.leaves((out, found))

    for found, exact in zip(value_and_gradient(computed), value_and_gradient(wanted), strict=True):
        found, exact = (np.asarray(x, np.float32) for x in (found, exact))
        assert np.any(exact)
        np.testing.assert_allclose(found, exact, atol=NEAR[dtype] * np.abs(exact).max(), rtol=NEAR[dtype])


@pytest.mark.parametrize("kind", ["hstu tpu", "hstu gpu", "splash", "triton"])
def test_a_session_changes_no_bit_of_what_may_not_see_it(interpreted, kind):
    qkv, tables, _ = arrays("float32")
    run = jax.jit(lambda qkv: computed(kind, qkv, tables if "hstu" in kind else ()))
    before = run(qkv)
    for slot in (0, 5, 8, 9, 13, 20):
        changed_RL = np.any(run(tuple(x.at[:, slot].add(1.0) for x in qkv)) != before, axis=(2, 3))
        same_user_RL = USER_RL[:, slot : slot + 1] == USER_RL
        assert np.array_equal(changed_RL[USER_RL > 0], (same_user_RL & (np.arange(SLOTS) >= slot))[USER_RL > 0])


def test_a_user_may_begin_anywhere_and_a_row_may_be_of_any_length(interpreted):
    """Every start of a second user, and every length of the row up to three blocks."""

    @jax.jit
    def apart(q, k, v, user_RL):
        weight = jnp.where(attention_mask(user_RL)[:, None], jax.nn.silu(jnp.einsum("RLNH,RMNH->RNLM", q, k)), 0)
        return hstu_attention(q, k, v, user_RL, None, scale=1.0, divisor=1, platform="tpu", block=BLOCK) - jnp.einsum(
            "RNLM,RMNH->RLNH", weight, v
        )

    qkv, _, _ = arrays("float32")
    for slots in (1, 4, 7, 12):
        begin_R = np.arange(slots + 1)
        user_RL = 1 + (np.arange(slots) >= begin_R[:, None])
        repeated = (jnp.broadcast_to(x[:1, :slots], (slots + 1, *x[0, :slots].shape)) for x in qkv)
        assert np.abs(apart(*repeated, jnp.asarray(user_RL))).max() < 1e-4


def test_first_slots_and_edges_of_buckets_are_what_they_say():
    user_RL = jnp.asarray([[1, 1, 2, 2, 2, 0], [3, 3, 3, 3, 3, 3]])
    assert np.array_equal(first_slots(user_RL), [[0, 0, 2, 2, 2, 5], [0] * 6])
    for bucket in range(1, 63):
        edge = seconds_of_bucket(bucket)
        assert int(time_bucket(jnp.asarray(edge))) >= bucket > int(time_bucket(jnp.asarray(edge - 1)))


# The setting.


@pytest.mark.parametrize("name", mostly_slow((name for name in MODELS if name != "gru"), quick=["hstu relative_time"]))
def test_blocks_of_queries_are_the_reference(monkeypatch, name):
    """On a CPU `fused` takes the queries in blocks, here of four slots, so that the last block is not full."""
    monkeypatch.setattr(attention, "blockwise", functools.partial(blockwise, block=4))
    model, user_RL = MODELS[name], jnp.asarray(USER_RL)
    position_RL = jnp.arange(SLOTS) - first_slots(user_RL)
    s_RLD = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, SLOTS, model.width)), jnp.float32)

    def objective(params, attended):
        encoder = SequenceEncoderModule(replace(model, attention=attended), SLOTS)
        o_RLD = encoder.apply({"params": params}, s_RLD, user_RL, position_RL, jnp.asarray(SECONDS_RL), None)
        return jnp.sum(jnp.sin(o_RLD) * (user_RL > 0)[:, :, None])

    value_and_gradient = jax.jit(jax.value_and_grad(objective), static_argnums=1)
    params = jax.tree.map(jnp.asarray, parameters_of(model))
    fused, reference = (value_and_gradient(params, attended) for attended in ("fused", "reference"))
    jax.tree.map(functools.partial(assert_close, rtol=1e-4), fused, reference)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(reference))


def parameters_of(model: Model):
    """Returns parameters for rows of SLOTS sessions."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        functools.partial(SequenceEncoderModule(model, SLOTS).init, noise=None), jax.random.key(0),
        jnp.zeros((1, SLOTS, model.width)), *[jnp.zeros((1, SLOTS), jnp.int32)] * 3,
    )["params"]  # fmt: skip
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.5 + 0.1, shapes)


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["transformer learned", "transformer relative_time", "hstu relative_time"], quick=["hstu relative_time"]
    ),
)
def test_an_encoder_takes_the_kernel_of_its_device(as_if_on_a_tpu, name):
    model = replace(MODELS[name], attention="fused", dropout=0.001)  # a model of its own, so that none is cached
    assert_close(encode(model, parameters(MODELS[name])), encode(MODELS[name], parameters(MODELS[name])), rtol=1e-4)


STEPS = [("hstu", {"data": 2, "fsdp": 2, "model": 2}), ("transformer", {"data": 4, "model": 2}),
         ("hstu", {"data": 1, "model": 8}), ("transformer", {"data": 1, "model": 8})]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "axes"), STEPS)
def test_eight_devices_with_kernels_take_the_step_of_one_without(as_if_on_a_tpu, config, log, encoder, axes):
    """The mesh divides the heads, or each device has both heads if eight devices share them."""
    few = {"model.sequence_encoder": encoder, "model.width": 16, "loss.negatives": 8, "model.score": "cosine"}
    one = OneStep(values.replace(config, few | {"model.attention": "reference"}), log, 1)
    many = OneStep(values.replace(config, few | {"model.attention": "fused"}), log, axes)
    assert_same_step(one, many, 5e-4)


def test_auto_is_the_reference_on_a_cpu_and_in_short_rows(monkeypatch):
    assert not is_fused(Model(), 10_000)
    assert is_fused(Model(attention="fused"), 16)
    mesh = make_mesh(Mesh(data=8))
    found = []
    over_shards(mesh, lambda x_L: found.append(is_fused(Model(), 10_000)), jnp.zeros((8, 1)))
    for platform in ("tpu", "gpu"):
        monkeypatch.setattr(attention, "_platform", lambda platform=platform: platform)
        found += [is_fused(Model(), 511), is_fused(Model(), 512), is_fused(Model(attention="reference"), 512)]
    assert found == [False, *[False, True, False] * 2]


def test_attention_is_not_part_of_the_runs_id(config):
    assert values.run_id(values.replace(config, {"model.attention": "fused"})) == values.run_id(config)


def test_a_row_too_long_for_the_kernel_is_computed_in_blocks(as_if_on_a_tpu, monkeypatch):
    assert hstu.fits(4_096, 128, jnp.dtype("float32"))
    assert not hstu.fits(65_536, 128, jnp.dtype("bfloat16"))
    monkeypatch.setattr(hstu, "fits", lambda *shape: False)
    monkeypatch.setattr(hstu, "hstu_attention", None)
    model = replace(MODELS["hstu learned"], attention="fused", dropout=0.002)
    assert_close(encode(model, parameters(MODELS["hstu learned"])), encode(MODELS["hstu learned"], parameters(model)))


@pytest.mark.parametrize("encoder", mostly_slow(["transformer", "hstu"], quick=["hstu"]))
def test_fused_attention_never_holds_all_logits(encoder):
    """The temporaries of a gradient grow with the slots, not with their square."""
    rows, slots = 2, 1_024
    arrays = [jnp.zeros((rows, slots, 16)), *[jnp.zeros((rows, slots), jnp.int32)] * 3]

    def temporaries(attended: str) -> int:
        model = Model(width=16, layers=1, sequence_encoder=encoder, attention=attended)
        module = SequenceEncoderModule(model, slots)
        params = jax.eval_shape(functools.partial(module.init, noise=None), jax.random.key(0), *arrays)

        def objective(params, *arrays):
            return jnp.sum(module.apply(params, *arrays, noise=None))

        return jax.jit(jax.grad(objective)).lower(params, *arrays).compile().memory_analysis().temp_size_in_bytes

    all_logits = rows * 2 * slots * slots * 4
    assert temporaries("reference") > 2 * all_logits
    assert temporaries("fused") < all_logits
