"""Each sequence encoder equals its equations, reads a user's past and nothing else, and costs what it states."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grid import mostly_slow

from sessionrec_jax.config.settings import Mesh, Model
from sessionrec_jax.devices.mesh import make_mesh, over_batch
from sessionrec_jax.model import sequence_encoder
from sessionrec_jax.model.attention import slots_of
from sessionrec_jax.model.dropout import Noise, drop, row_keys
from sessionrec_jax.model.places import TIME_BUCKETS, rotary_angle, rotate, time_bucket
from sessionrec_jax.model.sequence_encoder import SequenceEncoderModule
from sessionrec_jax.model.sequence_encoders.transformer import TransformerBlock

ROWS, SLOTS, WIDTH = 2, 6, 8
USER_RL = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 2, 3, 3, 3]])
POSITION_RL = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 2]])
SECONDS_RL = 4_000 * POSITION_RL + 50 * POSITION_RL**3
PACKED_RL = USER_RL > 0
S_RLD = np.random.default_rng(7).normal(size=(ROWS, SLOTS, WIDTH)).astype(np.float32)

SMALL = Model(width=WIDTH, layers=2, heads=2, mlp_ratio=2)
MODELS = {
    "transformer learned": SMALL,
    "transformer rotary": replace(SMALL, positions="rotary", mlp="swiglu"),
    "transformer relative_time": replace(SMALL, positions="relative_time", remat=False),
    "hstu relative_time": replace(SMALL, sequence_encoder="hstu"),
    "hstu learned": replace(SMALL, sequence_encoder="hstu", positions="learned"),
    "hstu rotary": replace(SMALL, sequence_encoder="hstu", positions="rotary"),
    "gru": replace(SMALL, sequence_encoder="gru"),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Model, params, s_RLD, user_RL, position_RL, seconds_RL, noise):
    return SequenceEncoderModule(model, SLOTS).apply({"params": params}, s_RLD, user_RL, position_RL, seconds_RL, noise)


def encode(model, params, s_RLD=S_RLD, user_RL=USER_RL, position_RL=POSITION_RL, seconds_RL=SECONDS_RL, noise=None):
    return np.asarray(_encode(model, params, *map(jnp.asarray, (s_RLD, user_RL, position_RL, seconds_RL)), noise))


def shapes(model: Model, max_positions: int = SLOTS):
    slots = jax.ShapeDtypeStruct((1, max_positions), jnp.int32)
    s_RLD = jax.ShapeDtypeStruct((1, max_positions, model.width), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    init = functools.partial(SequenceEncoderModule(model, max_positions).init, noise=None)
    return jax.eval_shape(init, key, s_RLD, slots, slots, slots)["params"]


@functools.cache
def parameters(model: Model):
    """Returns parameters of order one, so that no parameter is zero or one by design."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5 + 0.1, jnp.float32), shapes(model))


def assert_close(found, wanted, rtol=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol)


# The equations, written again in numpy: one query, one head, one slot at a time.


def norm(x, scale):
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-6) * scale


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def turned(x_H, place: int):
    """Applies rotary positions as a multiplication of complex numbers."""
    half = len(x_H) // 2
    pair = (x_H[:half] + 1j * x_H[half:]) * np.exp(1j * place * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate([pair.real, pair.imag])


def attended(model: Model, p, q_LD, k_LD, v_LD, position_L, seconds_L):
    """Returns the attention over one user's sessions in float64, with the heads concatenated."""
    out_LD = np.zeros_like(v_LD)
    for head in range(model.heads):
        of_head = slice(head * WIDTH // model.heads, (head + 1) * WIDTH // model.heads)
        for query in range(len(q_LD)):
            logits = []
            for key in range(query + 1):
                q, k = q_LD[query, of_head], k_LD[key, of_head]
                if model.places == "rotary":
                    q, k = turned(q, position_L[query]), turned(k, position_L[key])
                logit = q @ k / (1 if model.sequence_encoder == "hstu" else np.sqrt(len(q)))
                if model.places == "relative_time":
                    bucket = int(np.floor(2 * np.log2(1 + seconds_L[query] - seconds_L[key])))
                    logit += p["place_bias"][head, position_L[query] - position_L[key]] + p["time_bias"][head, bucket]
                logits.append(logit)
            logits = np.array(logits)
            weights = silu(logits) / SLOTS if model.sequence_encoder == "hstu" else np.exp(logits)
            if model.sequence_encoder == "transformer":
                weights = weights / weights.sum()
            out_LD[query, of_head] = weights @ v_LD[: query + 1, of_head]
    return out_LD


def split_by_head(x_LE, parts: int, heads: int):
    """Cuts columns that are ordered by head first."""
    x_LNX = x_LE.reshape(len(x_LE), heads, -1)
    return [part_LNH.reshape(len(x_LE), -1) for part_LNH in np.split(x_LNX, parts, axis=2)]


def transformer_layer(model, p, x, position_L, seconds_L):
    q, k, v = split_by_head(norm(x, p["norm_attention"]) @ p["qkv"], 3, model.heads)
    x = x + attended(model, p, q, k, v, position_L, seconds_L) @ p["attention_out"]
    h = norm(x, p["norm_mlp"])
    hidden = silu(h @ p["mlp_gate"]) * (h @ p["mlp_in"]) if model.mlp == "swiglu" else gelu(h @ p["mlp_in"])
    return x + hidden @ p["mlp_out"]


def hstu_layer(model, p, x, position_L, seconds_L):
    u, v, q, k = split_by_head(silu(norm(x, p["norm_in"]) @ p["uvqk"]), 4, model.heads)
    return x + (norm(attended(model, p, q, k, v, position_L, seconds_L), p["norm_attention"]) * u) @ p["out"]


def gru_layer(model, p, x, position_L, seconds_L):
    (w_r, w_z, w_h), (u_r, u_z, u_h) = (np.split(p[name], 3, axis=1) for name in ("gates_in", "gates_state"))
    b_r, b_z, b_h = np.split(p["gates_bias"], 3)
    state, out = np.zeros(WIDTH), []
    for x_D in norm(x, p["norm"]):
        r, z = sigmoid(x_D @ w_r + state @ u_r + b_r), sigmoid(x_D @ w_z + state @ u_z + b_z)
        state = z * state + (1 - z) * np.tanh(x_D @ w_h + b_h + r * (state @ u_h))
        out.append(state)
    return x + out


LAYERS = {"transformer": transformer_layer, "hstu": hstu_layer, "gru": gru_layer}


@every_model
def test_an_encoder_is_its_equations_for_each_user_alone(model):
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters(model))
    found_RLD = encode(model, parameters(model))
    for row, user in ((0, 1), (0, 2), (1, 1), (1, 2), (1, 3)):
        own_L = USER_RL[row] == user
        position_L, seconds_L = POSITION_RL[row, own_L], SECONDS_RL[row, own_L]
        x = norm(S_RLD[row, own_L].astype(np.float64), p["norm_in"])
        if model.places == "learned":
            x = x + p["position"][position_L]
        for layer in range(model.layers):
            of_layer = {name: stacked[layer] for name, stacked in p["blocks"].items()}
            x = LAYERS[model.sequence_encoder](model, of_layer, x, position_L, seconds_L)
        assert_close(found_RLD[row, own_L], norm(x, p["norm_out"]), rtol=1e-4)


def test_a_bucket_of_time_is_half_an_octave():
    edges = [
        edge + near for power in range(31) for edge in (2**power, round(2 ** (power + 0.5))) for near in (-2, -1, 0)
    ]
    seconds = np.array([-5, -1, *sorted(edge for edge in edges if edge >= 0), 2**31 - 1], np.int32)
    # floor(2 log2 x) is the bit length of x squared, less one: exact in Python's integers
    wanted = [((1 + max(int(dt), 0)) ** 2).bit_length() - 1 for dt in seconds]
    assert np.array_equal(time_bucket(jnp.asarray(seconds)), wanted)
    assert max(wanted) == 62 < TIME_BUCKETS
    assert [int(time_bucket(jnp.asarray(s))) for s in (60, 3_600, 86_400, 31_536_000)] == [11, 23, 32, 49]


# Dependence on other sessions.


def may_see(row: int, slot: int) -> np.ndarray:
    """Returns [R, L]: True where an output may depend on the session in this slot."""
    seen_RL = np.zeros((ROWS, SLOTS), bool)
    seen_RL[row] = (USER_RL[row] == USER_RL[row, slot]) & (np.arange(SLOTS) >= slot)
    return seen_RL


@every_model
def test_a_session_and_its_time_change_no_bit_of_what_may_not_see_them(model):
    params = parameters(model)
    before_RLD = encode(model, params)
    moved = 0
    for row, slot in itertools.product(range(ROWS), range(SLOTS)):
        s_RLD, seconds_RL = S_RLD.copy(), SECONDS_RL.copy()
        s_RLD[row, slot] += np.linspace(0.5, 1.0, WIDTH)
        seconds_RL[row, slot] += 900
        changed_RL = np.any(encode(model, params, s_RLD=s_RLD) != before_RLD, axis=2)
        assert np.array_equal(changed_RL, may_see(row, slot))
        changed_RL = np.any(encode(model, params, seconds_RL=seconds_RL) != before_RLD, axis=2)
        assert not np.any(changed_RL & ~may_see(row, slot))
        moved += changed_RL.sum()
    assert (moved > 0) == (model.places == "relative_time")


@every_model
def test_a_user_packed_alone_is_the_user_packed_with_others(model):
    """Masking equals removing."""
    together_RLD = encode(model, parameters(model))
    for row, user in ((0, 2), (1, 2), (1, 3)):
        own_L = np.flatnonzero(USER_RL[row] == user)

        def alone(x_RL, row=row, own_L=own_L):
            moved_RL = np.zeros_like(x_RL)
            moved_RL[0, : len(own_L)] = x_RL[row, own_L]
            return moved_RL

        arrays = [alone(x) for x in (S_RLD, np.where(PACKED_RL, 1, 0), POSITION_RL, SECONDS_RL)]
        assert_close(encode(model, parameters(model), *arrays)[0, : len(own_L)], together_RLD[row, own_L])


@every_model
def test_places_enter_by_their_difference_or_by_their_embedding(model):
    before_RLD = encode(model, parameters(model))
    later_RLD = encode(model, parameters(model), position_RL=POSITION_RL + 1, seconds_RL=SECONDS_RL + 500)
    if model.places == "learned":
        assert np.all(np.any(later_RLD != before_RLD, axis=2))
    else:
        assert_close(later_RLD, before_RLD)
    if model.places == "rotary":
        wider_RLD = encode(model, parameters(model), position_RL=2 * POSITION_RL)
        assert np.array_equal(np.any(np.abs(wider_RLD - before_RLD) > 1e-4, axis=2), POSITION_RL > 0)


def test_a_rotation_keeps_lengths_and_place_zero_turns_nothing():
    x_RLNH = jnp.asarray(np.random.default_rng(1).normal(size=(1, 5, 2, 6)), jnp.float32)
    turned_RLNH = rotate(x_RLNH, rotary_angle(jnp.arange(5)[None], 6))
    assert_close(jnp.linalg.norm(turned_RLNH, axis=3), jnp.linalg.norm(x_RLNH, axis=3))
    assert np.array_equal(turned_RLNH[:, 0], x_RLNH[:, 0])


def test_relative_bias_starts_at_nothing():
    """HSTU with relative time starts as HSTU without positions."""
    model = MODELS["hstu relative_time"]
    arrays = map(jnp.asarray, (S_RLD, USER_RL, POSITION_RL, SECONDS_RL))
    init = jax.jit(functools.partial(SequenceEncoderModule(model, SLOTS).init, noise=None))
    blocks = init(jax.random.key(0), *arrays)["params"]["blocks"]
    assert not np.any(blocks["time_bias"])
    assert not np.any(blocks["place_bias"])
    assert np.all(np.std(blocks["uvqk"], axis=(1, 2)) > 0)


# Depth, memory, precision.


@pytest.mark.parametrize("name", mostly_slow(["transformer rotary", "gru"], quick=["gru"]))
def test_rematerialisation_changes_neither_value_nor_gradient(name):
    def loss(params, model):
        noise = Noise(jax.random.key(3), jnp.arange(ROWS))
        inputs = map(jnp.asarray, (S_RLD, USER_RL, POSITION_RL, SECONDS_RL))
        return jnp.sum(jnp.sin(SequenceEncoderModule(model, SLOTS).apply({"params": params}, *inputs, noise)))

    model = replace(MODELS[name], dropout=0.3)
    value_and_gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    kept, anew = (value_and_gradient(parameters(model), replace(model, remat=remat)) for remat in (False, True))
    jax.tree.map(assert_close, anew, kept)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("name", mostly_slow(MODELS, quick=["transformer rotary", "hstu relative_time", "gru"]))
def test_bfloat16_stays_bfloat16_and_near(name):
    model = MODELS[name]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), parameters(model))
    found_RLD = encode(model, half, s_RLD=S_RLD.astype(jnp.bfloat16))
    assert found_RLD.dtype == jnp.bfloat16
    assert np.sqrt(np.mean((found_RLD.astype(np.float32) - encode(model, parameters(model))) ** 2)) < 0.1


# Dropout.


def test_a_dropped_value_is_zero_and_a_kept_one_is_scaled_so_that_the_mean_stays():
    x_RLD = jnp.ones((4, 50, 40))
    key_R = row_keys(Noise(jax.random.key(0), jnp.arange(4)))
    dropped_RLD = np.asarray(drop(x_RLD, 0.2, key_R))
    assert set(np.unique(dropped_RLD)) == {0.0, np.float32(1.25)}
    assert np.mean(dropped_RLD) == pytest.approx(1.0, abs=5 * 1.25 * np.sqrt(0.2 * 0.8 / x_RLD.size))
    masks = [*dropped_RLD, *np.asarray(drop(x_RLD, 0.2, key_R, site=1))]
    assert all(np.mean(a == b) < 0.8 for a, b in itertools.combinations(masks, 2))  # 0.68 where independent


@pytest.mark.parametrize("name", mostly_slow(["transformer learned", "hstu relative_time", "gru"], quick=["gru"]))
def test_dropout_depends_on_the_row_and_not_on_the_device(name):
    """Eight devices with one row, one device with eight rows, and the rows in another order give the same masks."""
    model = replace(MODELS[name], dropout=0.3)
    encoder, params = SequenceEncoderModule(model, SLOTS), {"params": parameters(model)}
    slots = [jnp.asarray(np.repeat(x_RL[1:], 8, axis=0)) for x_RL in (S_RLD, USER_RL, POSITION_RL, SECONDS_RL)]
    key, row_R = jax.random.key(5), 100 + jnp.arange(8)

    @jax.jit
    def spread(row_GR, *slots_GR):
        return jax.vmap(lambda row_R, *of_shard: encoder.apply(params, *of_shard, Noise(key, row_R)))(row_GR, *slots_GR)

    one_RLD = np.asarray(spread(row_R[None], *(x[None] for x in slots))[0])
    shards = jax.device_put((row_R[:, None], *(x[:, None] for x in slots)), over_batch(make_mesh(Mesh(data=8))))
    eight_RLD = np.asarray(spread(*shards)[:, 0])
    reversed_RLD = np.asarray(spread(row_R[None, ::-1], *(x[None] for x in slots))[0, ::-1])
    assert_close(eight_RLD, one_RLD)
    assert_close(reversed_RLD, one_RLD)
    assert all(np.any(np.abs(a - b) > 0.1) for a, b in itertools.combinations(one_RLD, 2))  # equal rows, other masks


def test_without_noise_or_rate_nothing_is_dropped():
    noise = Noise(jax.random.key(0), jnp.arange(ROWS))
    params, before_RLD = parameters(SMALL), encode(SMALL, parameters(SMALL))
    assert np.array_equal(encode(replace(SMALL, dropout=0.5), params), before_RLD)
    assert np.array_equal(encode(SMALL, params, noise=noise), before_RLD)
    assert not np.allclose(encode(replace(SMALL, dropout=0.5), params, noise=noise), before_RLD)


def test_layers_are_applied_in_turn_each_with_dropout_of_its_own():
    model = replace(MODELS["transformer rotary"], dropout=0.3)
    params, key, row_R = parameters(model), jax.random.key(2), jnp.array([40, 7])
    slots = slots_of(model, *map(jnp.asarray, (USER_RL, POSITION_RL, SECONDS_RL)))

    @jax.jit
    def by_hand(x_RLD):
        key_R = jax.vmap(jax.random.fold_in, (None, 0))(key, row_R)
        x_RLD = drop(x_RLD, 0.3, key_R)
        for layer in range(2):
            of_layer = {"params": jax.tree.map(lambda x, layer=layer: x[layer], params["blocks"])}
            of_layer_R = jax.vmap(jax.random.fold_in, (0, None))(key_R, 1 + layer)
            x_RLD, _ = TransformerBlock(model, SLOTS).apply(of_layer, x_RLD, slots, of_layer_R)
        return x_RLD

    x_RLD = by_hand(norm(S_RLD, np.asarray(params["norm_in"])))
    found_RLD = encode(model, params, noise=Noise(key, row_R))
    assert_close(found_RLD, norm(np.asarray(x_RLD), np.asarray(params["norm_out"])))


# Sizes and costs.


def test_parameters_are_counted():
    places, mlps = ("auto", "learned", "rotary", "relative_time"), ("gelu", "swiglu")
    models = [
        Model(width=12, heads=3, mlp_ratio=5, layers=layers, sequence_encoder=kind, positions=positions, mlp=mlp)
        for kind, positions, mlp, layers in itertools.product(("transformer", "hstu", "gru"), places, mlps, (0, 2))
    ]
    for model in models:
        if model.sequence_encoder == "gru" and model.positions != "auto":
            continue
        leaves = jax.tree.leaves(shapes(model, max_positions=7))
        assert sequence_encoder.cost(model, 7).parameters == sum(leaf.size for leaf in leaves)
