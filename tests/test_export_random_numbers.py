"""Random numbers inside a graph: the published generator, and the distributions made from it."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import to_array
from scipy import stats

from kvae.export.nodes import Nodes, tensor
from kvae.export.random_numbers import (
    cosine,
    key_of,
    noise_and_uniforms,
    noise_of,
    row_numbers,
    shift_right,
    threefry,
    uniform,
    uniforms_at,
)
from kvae.serving import random_numbers


def session(
    g: Nodes, inputs: list[str], outputs: dict[str, tuple[int, list[str] | None]]
) -> onnxruntime.InferenceSession:
    declared = [
        helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()
    ]
    model = g.model("test", [tensor(name, "int64", "rows") for name in inputs], declared)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def run(
    made: onnxruntime.InferenceSession, seed: int, first_row: int, count: int
) -> list[np.ndarray]:
    return made.run(None, {"seed": np.full(count, seed), "row": first_row + np.arange(count)})


@pytest.mark.parametrize("signed_words", [False, True])
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_test_vectors(
    key: tuple[int, int],
    counter: tuple[int, int],
    expected: tuple[int, int],
    signed_words: bool,
) -> None:
    """Known answers of threefry2x32, 20 rounds, from the authors' Random123 distribution."""
    g = Nodes(signed_words=signed_words)
    words = threefry(
        g,
        (g.constant([key[0]], np.uint32), g.constant([key[1]], np.uint32)),
        (g.constant([counter[0]], np.uint32), g.constant([counter[1]], np.uint32)),
    )
    for word, name in zip(words, "ab", strict=True):
        g.named(word, name)
    found = session(g, [], {name: (TensorProto.UINT32, ["n"]) for name in "ab"}).run(None, {})
    assert tuple(int(word[0]) for word in found) == expected


SIGNED = {
    "BitwiseAnd": lambda one, other: one & other,
    "BitwiseOr": lambda one, other: one | other,
    "BitwiseNot": lambda one: ~one,
    "BitShift": lambda one, bits: (one.astype(np.float32) / np.float32(2.0**bits)).astype(np.int32),
}
"""Operations as OpenVINO computes them on a CPU: signed, and a shift to the right in float32."""


@pytest.mark.parametrize("bits", [3, 6, 8, 15, 16, 17, 19, 26])
def test_words_are_shifted_rightly_also_with_signed_integers_and_a_division_in_float32(
    bits: int,
) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 10_000, np.uint32)
    words[:4] = 0, 2**31 - 1, 2**31, 2**32 - 1
    found = {}
    for signed_words in (False, True):
        g = Nodes(signed_words=signed_words)
        result = shift_right(g, "words", bits)
        values = {item.name: to_array(item).view(np.int32) for item in g.initializers}
        assert all((value >= 0).all() for value in values.values())
        values["words"] = words.view(np.int32)
        for node in g.nodes:
            values[node.output[0]] = SIGNED[node.op_type](*(values[name] for name in node.input))
        found[signed_words] = values[result].view(np.uint32)
    np.testing.assert_array_equal(found[True], words >> np.uint32(bits))
    assert (found[False] != words >> np.uint32(bits)).any()


def test_noise_and_uniforms_of_one_threefry_are_those_of_one_each() -> None:
    g, alone = Nodes(), Nodes()
    noise, uniforms = noise_and_uniforms(g, 5, g.constant(np.arange(9)[None, :], np.int64))
    g.named(noise, "noise")
    g.named(uniforms, "uniforms")
    alone.named(noise_of(alone, 5), "noise")
    alone.named(uniforms_at(alone, alone.constant(7, np.int64)), "uniforms")
    kinds = {"noise": (TensorProto.FLOAT, None), "uniforms": (TensorProto.FLOAT, None)}
    both, each = (run(session(nodes, ["seed", "row"], kinds), 3, 2, 20) for nodes in (g, alone))
    assert both[1].shape == (9, 20, 1)
    np.testing.assert_array_equal(both[0], each[0])
    np.testing.assert_array_equal(both[1][7], each[1])


@pytest.mark.parametrize("seed", [0, 7, 2**32, 2**40 + 5, 2**63 - 1])
def test_a_seed_becomes_its_low_and_its_high_word(seed: int) -> None:
    g = Nodes()
    for word, name in zip(key_of(g, "seed"), ("low", "high"), strict=True):
        g.named(word, name)
    made = session(g, ["seed"], {name: (TensorProto.UINT32, ["rows"]) for name in ("low", "high")})
    assert [int(word[0]) for word in made.run(None, {"seed": np.array([seed])})] == [
        seed & 0xFFFFFFFF,
        seed >> 32,
    ]


def noise_session(size: int) -> onnxruntime.InferenceSession:
    g = Nodes()
    g.named(noise_of(g, size), "noise")
    return session(g, ["seed", "row"], {"noise": (TensorProto.FLOAT, ["rows", str(size)])})


@pytest.mark.parametrize("size", [1, 5, 32])
def test_noise_is_standard_normal_and_independent_between_dimensions(size: int) -> None:
    (noise,) = run(noise_session(size), seed=3, first_row=0, count=20_000)
    assert noise.shape == (20_000, size)
    assert stats.kstest(noise.ravel()[:: max(1, size // 2)], "norm").pvalue > 1e-3
    correlations = np.corrcoef(noise.T).reshape(size, size) - np.eye(size)
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)


def test_a_row_of_noise_depends_on_the_seed_and_the_row_alone() -> None:
    made = noise_session(7)
    (many,) = run(made, seed=5, first_row=0, count=40)
    (some,) = run(made, seed=5, first_row=33, count=3)
    (other,) = run(made, seed=6, first_row=0, count=40)
    np.testing.assert_array_equal(many[33:36], some)
    assert (many != other).all()


@pytest.mark.parametrize("seed", [0, 2**40 + 5])
def test_noise_is_what_numpy_computes(seed: int) -> None:
    (noise,) = run(noise_session(7), seed=seed, first_row=2, count=50)
    np.testing.assert_allclose(noise, random_numbers.normals(seed, np.arange(2, 52), 7), atol=1e-6)


def test_noise_needs_no_cosine_which_onnxruntime_before_1_29_lacks_in_double_precision() -> None:
    g = Nodes()
    noise_of(g, 4)
    assert {"Sin"} == {node.op_type for node in g.nodes} & {"Sin", "Cos"}


def test_the_sine_a_quarter_turn_ahead_is_the_cosine_of_every_angle_that_is_drawn() -> None:
    g = Nodes()
    g.named(cosine(g, "angle"), "cosine")
    declared = helper.make_tensor_value_info("cosine", TensorProto.DOUBLE, ["rows"])
    model = g.model(
        "test", [helper.make_tensor_value_info("angle", TensorProto.DOUBLE, ["rows"])], [declared]
    )
    made = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    different = []
    for part in np.split(np.arange(2**24), 8):
        angle = 2 * np.pi * (part * 2.0**-24)
        (found,) = made.run(None, {"angle": angle})
        unequal = found.astype(np.float32) != np.cos(angle).astype(np.float32)
        assert np.abs(found[unequal]).max(initial=0.0) < 1e-15
        different += part[unequal].tolist()
    assert different == [2**22, 3 * 2**22]  # cos(pi / 2) and cos(3 pi / 2): zero, but for rounding


def test_no_noise_is_cut_from_some_since_onnxruntime_before_1_29_fails_on_words_of_no_columns() -> (
    None
):
    g = Nodes()
    noise_of(g, 0)
    assert all(np.prod(constant.dims) > 0 for constant in g.initializers)
    (noise,) = run(noise_session(0), seed=3, first_row=0, count=5)
    assert noise.shape == (5, 0)


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    g = Nodes()
    zero = g.constant(0, np.uint32)
    words = threefry(g, key_of(g, "seed"), (row_numbers(g, "row"), zero))
    g.named(uniform(g, words[0]), "uniform")
    made = session(g, ["seed", "row"], {"uniform": (TensorProto.FLOAT, ["rows"])})
    (numbers,) = run(made, seed=1, first_row=0, count=50_000)
    assert 0.0 <= numbers.min() < numbers.max() < 1.0
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
