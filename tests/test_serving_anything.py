"""Whatever a caller gives a Sampler, it answers or raises a KvaeError."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvae.serving import KvaeError, Sampler

numbers = st.one_of(st.integers(-3, 300), st.sampled_from([-(2**70), 2**63, 2**70]))
"""Whole numbers that are no valid request for millions of texts."""

anything: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
)
count = st.one_of(st.integers(-2, 5), anything)
texts = st.one_of(
    st.text(max_size=20),
    st.lists(st.text(alphabet=st.sampled_from("KAMITORUNEéあ\0 "), max_size=18), max_size=4),
    anything,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.one_of(st.integers(0, 2**63 - 1), anything),
        "first_row": st.one_of(st.integers(0, 2**32 - 10), anything),
        "temperature": st.one_of(st.floats(0.1, 10), anything),
        "top_k": st.one_of(st.integers(0, 20), anything),
        "top_p": st.one_of(st.floats(0.01, 1), anything),
        "min_length": st.one_of(st.integers(0, 16), anything),
        "max_length": st.one_of(st.integers(1, 16), anything),
        "greedy": st.booleans(),
        "attribute": anything,
    },
)
choice = st.sampled_from(["refuse", "replace", "cut", "linear", "spherical", "", None, 3])

calls: st.SearchStrategy[tuple[str, tuple[Any, ...], dict[str, Any]]] = st.one_of(
    st.tuples(st.just("sample"), st.tuples(count), options),
    st.tuples(st.just("generate"), st.tuples(count), options),
    st.tuples(st.just("draw_codes"), st.tuples(count, anything), st.just({})),
    st.tuples(st.just("encode"), st.tuples(texts, choice), st.just({})),
    st.tuples(st.just("reconstruct"), st.tuples(texts, choice), st.just({})),
    st.tuples(
        st.just("interpolate"),
        st.tuples(st.text(max_size=18), st.text(max_size=18), count, choice),
        st.just({}),
    ),
    st.tuples(
        st.just("score"),
        st.tuples(texts, count),
        st.fixed_dictionaries({}, optional={"too_long": choice}),
    ),
    st.tuples(
        st.just("decode"),
        st.tuples(st.one_of(anything, st.lists(st.lists(st.floats()), max_size=3))),
        st.just({}),
    ),
    st.tuples(st.just("arithmetic"), st.tuples(texts, texts), st.just({})),
    st.tuples(st.just("variations"), st.tuples(st.text(max_size=18), count, anything), st.just({})),
    st.tuples(st.just("neighbours"), st.tuples(st.text(max_size=18), texts, count), st.just({})),
)


def check(sampler: Sampler, call: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
    name, arguments, named = call
    try:
        answer = getattr(sampler, name)(*arguments, **named)
    except KvaeError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    if name == "sample":
        assert len(answer) == arguments[0]
        assert all(len(text) <= 16 for text in answer)
    if isinstance(answer, np.ndarray):
        assert np.isfinite(answer).all()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(calls)
def test_a_few_dozen_calls(sampler: Sampler, call: Any) -> None:
    check(sampler, call)


@pytest.mark.nightly
@settings(
    max_examples=1_000_000, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
@given(calls)
def test_a_million_calls(sampler: Sampler, call: Any) -> None:
    check(sampler, call)


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.binary(max_size=400))
def test_bytes_that_are_no_model_are_called_so(data: bytes) -> None:
    from kvae.serving.onnx_files import NotOnnx, contents_of

    with pytest.raises(NotOnnx):
        contents_of(data)
