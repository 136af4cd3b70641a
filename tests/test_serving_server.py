"""`kvae serve`: the answers of the Sampler, limits, clear errors, and a clean shutdown."""

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from kvae.serving import Cancelled, ConfigError, DataError, Sampler

fastapi_testclient = pytest.importorskip("fastapi.testclient")
schemathesis = pytest.importorskip("schemathesis")
httpx = pytest.importorskip("httpx")

from kvae.serving.server import application, listening_socket, reachable_from_outside  # noqa: E402
from kvae.serving.service import WORK, Limits, measured_speeds  # noqa: E402
from kvae.serving.shares import Speed  # noqa: E402

from .conftest import everyday  # noqa: E402

TEXTS = ["KAMITO", "RUNEKA", "MI"]
POSTED = ("/sample", "/stream", "/encode", "/reconstruct", "/decode", "/interpolate", "/score")
GOTTEN = ("/health", "/ready", "/metrics", "/info", "/map")


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `condition` returns, once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


@contextmanager
def serving(sampler: Any, limits: Limits | None = None, **options: Any) -> Iterator[Any]:
    """A client of a server in this process that is ready."""
    with fastapi_testclient.TestClient(application(lambda: sampler, limits), **options) as client:
        until(lambda: client.get("/ready").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def client(sampler: Sampler) -> Iterator[Any]:
    with serving(sampler) as client:
        yield client


class Model:
    """What the server asks of any sampler."""

    length = 16

    def _tokens(self, texts: list[str], unknown: str, too_long: str) -> None:
        """All texts can be read."""


class Blocked(Model):
    """A sampler that writes when `free` is set, and says when it was cancelled instead."""

    def __init__(self) -> None:
        self.called, self.free, self.cancelled = (
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )
        self.sizes: list[int] = []

    def generate_rows(
        self, seeds: list[int], rows: list[int], *, cancel: Any, **options: Any
    ) -> list[Any]:
        self.sizes.append(len(seeds))
        self.called.set()
        while not self.free.wait(0.005):
            if cancel.cancelled:
                self.cancelled.set()
                raise Cancelled("the call was cancelled")
        return [Blank() for _ in seeds]


class Blank:
    """A text for which nobody looks."""


def together(client: Any, requests: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Answers to requests that are sent at the same moment."""
    gate = threading.Barrier(len(requests))

    def send(request: tuple[str, dict[str, Any]]) -> Any:
        gate.wait()
        return client.post(request[0], json=request[1])

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(send, requests))


def events(body: str) -> list[tuple[str, Any]]:
    """The server-sent events of an answer: name and data."""
    fields = [
        dict(line.split(": ", 1) for line in block.split("\n"))
        for block in body.strip().split("\n\n")
    ]
    return [(block.get("event", "message"), json.loads(block["data"])) for block in fields]


def metric(client: Any, line: str) -> float:
    """The value of a line of /metrics."""
    found = re.search(rf"^{re.escape(line)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def check_problem(response: Any, status: int, *words: str) -> None:
    """A problem of RFC 9457 that says these words, on one line."""
    told = response.json()
    assert (response.status_code, told["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert set(told) == {"type", "title", "status", "detail"}
    assert told["type"].startswith("urn:kvae:problem:")
    assert "\n" not in told["detail"]
    for word in words:
        assert word in told["detail"]


# --- the Sampler's answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"greedy": True},
        {"temperature": 0.7, "top_k": 3, "top_p": 0.9},
        {"min_length": 4, "max_length": 6},
        {"first_row": 5},
    ],
)
def test_samples_are_those_of_the_sampler(
    client: Any, sampler: Sampler, options: dict[str, Any]
) -> None:
    answered = client.post("/sample", json={"n": 9, "seed": 7, **options}).json()
    assert answered == {"samples": [vars(sample) for sample in sampler.generate(9, 7, **options)]}


def test_without_a_seed_one_is_drawn_and_told(client: Any, sampler: Sampler) -> None:
    (first,), (second,) = (client.post("/sample", json={}).json()["samples"] for _ in range(2))
    assert first["seed"] != second["seed"]
    assert first["text"] == sampler.sample(1, first["seed"])[0]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.5, "min_length": 3}, {"greedy": True, "row": 4}]
)
def test_a_stream_is_the_sample_in_pieces(client: Any, options: dict[str, Any]) -> None:
    *pieces, (last, done) = events(client.post("/stream", json={"seed": 3, **options}).text)
    row = options.pop("row", 0)
    (sample,) = client.post("/sample", json={"seed": 3, "first_row": row, **options}).json()[
        "samples"
    ]
    assert {name for name, _ in pieces} <= {"message"}
    assert "".join(data["piece"] for _, data in pieces) == sample["text"]
    assert (last, done) == ("done", {"text": sample["text"], "seed": 3, "row": row})


def test_codes_are_those_of_the_sampler(client: Any, sampler: Sampler) -> None:
    answered = client.post("/encode", json={"texts": TEXTS}).json()["codes"]
    assert [item["text"] for item in answered] == TEXTS
    assert [item["code"] for item in answered] == sampler.encode(TEXTS).tolist()


def test_reconstructions_are_those_of_the_sampler(client: Any, sampler: Sampler) -> None:
    again = sampler.reconstruct(TEXTS)
    answered = client.post("/reconstruct", json={"texts": TEXTS}).json()["reconstructions"]
    assert answered == [
        {"text": text, "reconstruction": other, "equal": text == other}
        for text, other in zip(TEXTS, again, strict=True)
    ]


def test_a_beam_search_is_that_of_the_sampler(client: Any, sampler: Sampler) -> None:
    codes = sampler.encode(TEXTS)
    expected = sampler.decode(codes, beam=4)
    answered = client.post("/decode", json={"codes": codes.tolist(), "beam": 4}).json()
    assert answered == {"texts": expected}
    answered = client.post("/reconstruct", json={"texts": TEXTS, "beam": 4}).json()
    assert [item["reconstruction"] for item in answered["reconstructions"]] == expected
    ends = {"first": "KAMITO", "last": "NENENE", "steps": 3}
    assert client.post("/interpolate", json={**ends, "beam": 4}).json() == {
        "interpolation": sampler.interpolate(**ends, beam=4)
    }
    refused = client.post("/decode", json={"codes": codes.tolist(), "beam": 1000})
    assert refused.status_code == 422


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_interpolations_are_those_of_the_sampler(client: Any, sampler: Sampler, path: Any) -> None:
    request = {"first": "KAMITO", "last": "NENENE", "steps": 4, "path": path}
    assert client.post("/interpolate", json=request).json() == {
        "interpolation": sampler.interpolate("KAMITO", "NENENE", 4, path)
    }


def test_scores_are_those_of_the_sampler(client: Any, sampler: Sampler) -> None:
    answered = client.post("/score", json={"texts": TEXTS, "samples": 2, "seed": 5}).json()[
        "scores"
    ]
    expected = [json.loads(json.dumps(vars(score))) for score in sampler.score(TEXTS, 2, 5)]
    assert [score.pop("text") for score in answered] == [score.pop("text") for score in expected]
    for score, other in zip(
        answered, expected, strict=True
    ):  # sums in float32: their rounding depends on the batch
        assert score.pop("nats") == pytest.approx(other.pop("nats"), abs=1e-5)
        assert score == pytest.approx(other, abs=1e-5)


def test_no_texts_are_no_texts(client: Any) -> None:
    assert client.post("/sample", json={"n": 0}).json() == {"samples": []}
    assert client.post("/encode", json={"texts": []}).json() == {"codes": []}
    assert client.post("/score", json={"texts": []}).json() == {"scores": []}


def test_info_is_the_manifest_and_the_limits(client: Any, sampler: Sampler) -> None:
    told = client.get("/info").json()
    assert told.pop("limits")["max_texts"] == Limits().max_texts
    assert told == json.loads(json.dumps(sampler.info()))


# --- batches --------------------------------------------------------------------------------------

PATIENT = Limits(window=0.3)
"""Long enough for requests that are sent together to arrive together."""


def test_samples_of_many_requests_run_together_and_are_as_alone(sampler: Sampler) -> None:
    options = {"temperature": 0.9, "top_k": 5}
    requests = [
        ("/sample", {"n": 1 + i % 3, "seed": i, "first_row": i, **options}) for i in range(16)
    ]
    with serving(sampler, PATIENT) as client:
        answers = together(client, requests)
        assert metric(client, 'kvae_batch_requests_sum{endpoint="sample"}') == 16
        assert metric(client, 'kvae_batch_requests_count{endpoint="sample"}') == 1
        assert metric(client, 'kvae_batch_texts_sum{endpoint="sample"}') == sum(
            body["n"] for _, body in requests
        )
    for answer, (_, body) in zip(answers, requests, strict=True):
        alone = sampler.generate(body["n"], body["seed"], first_row=body["first_row"], **options)
        assert answer.json()["samples"] == [vars(sample) for sample in alone]


def test_texts_of_many_requests_are_read_together_and_as_alone(sampler: Sampler) -> None:
    texts = [a + b for a in ("KA", "MI", "TO") for b in ("RU", "NE")]
    for endpoint, body in (("/score", {"seed": 3}), ("/reconstruct", {}), ("/encode", {})):
        with serving(sampler, PATIENT) as client:
            answers = together(client, [(endpoint, {"texts": [text], **body}) for text in texts])
            assert metric(client, f'kvae_batch_requests_count{{endpoint="{endpoint[1:]}"}}') == 1
        with serving(sampler) as client:
            alone = [client.post(endpoint, json={"texts": [text], **body}).json() for text in texts]
        assert [answer.json() for answer in answers] == [approximately(answer) for answer in alone]


def approximately(value: Any) -> Any:
    """Numbers to float32's precision; all else exactly."""
    if isinstance(value, dict):
        return {name: approximately(item) for name, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value


def test_requests_of_different_settings_do_not_share_a_batch(sampler: Sampler) -> None:
    requests = [
        ("/sample", {"seed": 1, "temperature": temperature}) for temperature in (0.5, 1.0, 1.5)
    ]
    with serving(sampler, PATIENT) as client:
        answers = together(client, requests)
        assert metric(client, 'kvae_batch_requests_count{endpoint="sample"}') == 3
    for answer, (_, body) in zip(answers, requests, strict=True):
        assert answer.json()["samples"] == [
            vars(s) for s in sampler.generate(1, 1, temperature=body["temperature"])
        ]


def test_what_is_wrong_with_one_request_of_a_batch_is_told_to_that_one(sampler: Sampler) -> None:
    bodies = [{"texts": [text]} for text in ("KAMITO", "kamito", "RUNEKA")]
    with serving(sampler, PATIENT) as client:
        good, bad, fine = together(client, [("/reconstruct", body) for body in bodies])
    check_problem(bad, 422, "'k' 1")
    assert [item.json()["reconstructions"][0]["text"] for item in (good, fine)] == [
        "KAMITO",
        "RUNEKA",
    ]


def test_what_is_wrong_with_a_large_request_is_told_as_of_the_whole(client: Any) -> None:
    texts = ["KAMITO"] * 200 + ["KA" * 20]
    check_problem(client.post("/encode", json={"texts": texts}), 422, "text 200 has 40 characters")


def test_a_large_request_is_as_the_sampler_answers_it(client: Any, sampler: Sampler) -> None:
    answered = client.post("/sample", json={"n": 300, "seed": 1}).json()
    assert answered == {"samples": [vars(sample) for sample in sampler.generate(300, 1)]}


def test_a_small_request_overtakes_a_large_one() -> None:
    model = Blocked()
    with serving(model) as client, ThreadPoolExecutor(2) as pool:
        large = pool.submit(client.post, "/sample", json={"n": 300})
        assert model.called.wait(20)
        small = pool.submit(client.post, "/sample", json={"n": 1, "greedy": True})
        until(lambda: metric(client, "kvae_queue_depth") == 1)
        model.free.set()
        assert [len(answer.result().json()["samples"]) for answer in (large, small)] == [300, 1]
    assert (model.sizes[:2], sum(model.sizes)) == ([128, 1], 301)


def test_a_score_of_many_samples_is_cut_into_pieces_and_is_as_uncut(sampler: Sampler) -> None:
    with serving(sampler) as client:
        answered = client.post(
            "/score", json={"texts": ["KAMITO", "MI"], "samples": 300, "seed": 5}
        ).json()["scores"]
        assert metric(client, 'kvae_batch_texts_count{endpoint="score"}') >= 5
    expected = [
        json.loads(json.dumps(vars(score))) for score in sampler.score(["KAMITO", "MI"], 300, 5)
    ]
    assert answered == [approximately(score) for score in expected]


def test_an_interpolation_of_many_steps_is_cut_into_pieces_and_is_as_uncut(
    sampler: Sampler,
) -> None:
    with serving(sampler) as client:
        answered = client.post(
            "/interpolate", json={"first": "KAMITO", "last": "NENENE", "steps": 300}
        ).json()
        assert metric(client, 'kvae_batch_texts_count{endpoint="interpolate"}') >= 3
    assert answered == {"interpolation": sampler.interpolate("KAMITO", "NENENE", 300)}


def test_scores_of_other_seeds_and_samples_share_a_batch_and_are_as_alone(sampler: Sampler) -> None:
    bodies = [{"texts": [text], "seed": seed, "samples": 2} for seed, text in enumerate(TEXTS)]
    with serving(sampler, PATIENT) as client:
        answers = together(client, [("/score", body) for body in bodies])
        assert metric(client, 'kvae_batch_requests_count{endpoint="score"}') == 1
    for seed, (text, answer) in enumerate(zip(TEXTS, answers, strict=True)):
        assert answer.json()["scores"] == [
            approximately(json.loads(json.dumps(vars(s)))) for s in sampler.score(text, 2, seed)
        ]


def test_interpolations_share_a_batch_and_are_as_alone(sampler: Sampler) -> None:
    with serving(sampler, PATIENT) as client:
        ways = [("KAMITO", "NENENE"), ("MI", "RU")]
        answers = together(
            client, [("/interpolate", {"first": a, "last": b, "steps": 5}) for a, b in ways]
        )
        assert metric(client, 'kvae_batch_requests_count{endpoint="interpolate"}') == 1
    assert [answer.json()["interpolation"] for answer in answers] == [
        sampler.interpolate(a, b, 5) for a, b in ways
    ]


# --- limits ---------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused(sampler: Sampler) -> None:
    long = json.dumps({"texts": ["KA" * 100]}).encode()
    headers = {"Content-Type": "application/json"}
    with serving(sampler, Limits(max_body_bytes=100)) as client:
        check_problem(client.post("/encode", content=long, headers=headers), 413, "100 bytes")
        in_pieces = (long[start : start + 20] for start in range(0, len(long), 20))
        check_problem(client.post("/encode", content=in_pieces, headers=headers), 413, "100 bytes")
        assert client.post("/encode", json={"texts": ["KA"]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sample", {"n": 6}),
        ("/encode", {"texts": ["KA"] * 6}),
        ("/reconstruct", {"texts": ["KA"] * 6}),
        ("/interpolate", {"first": "KA", "last": "MI", "steps": 6}),
        ("/score", {"texts": ["KA"] * 2, "samples": 3}),
        ("/score", {"texts": [], "samples": 6}),
    ],
)
def test_more_texts_than_a_request_may_have_are_refused(
    sampler: Sampler, path: str, body: dict[str, Any]
) -> None:
    with serving(sampler, Limits(max_texts=5)) as client:
        check_problem(client.post(path, json=body), 422, "at most 5 texts a request", "got 6")


def test_a_full_queue_says_when_to_come_again() -> None:
    model = Blocked()
    with serving(model, Limits(queue=1)) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/sample", json={"n": 0})
        assert model.called.wait(20)
        second = pool.submit(client.post, "/sample", json={"n": 0})
        until(lambda: metric(client, "kvae_queue_depth") == 1)
        refused = client.post("/sample", json={"n": 0})
        check_problem(refused, 429, "holds 1 requests")
        assert int(refused.headers["Retry-After"]) >= 1
        model.free.set()
        assert [first.result().status_code, second.result().status_code] == [200, 200]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sample", {"n": 100}),
        ("/stream", {}),
        ("/reconstruct", {"texts": TEXTS}),
        ("/interpolate", {"first": "KA", "last": "MI"}),
        ("/score", {"texts": TEXTS}),
        ("/encode", {"texts": TEXTS}),
    ],
)
def test_what_cannot_be_done_in_its_time_is_refused_at_once(
    sampler: Sampler, path: str, body: Any
) -> None:
    with serving(sampler) as client:
        service = client.app.state.service
        service.speeds |= dict.fromkeys(service.speeds, Speed(0.0, 2.0, 16.0))  # seconds a position
        refused = client.post(path, json=body)
        check_problem(refused, 503, "deadline: this would take", "has 30", "try again in")
        assert int(refused.headers["Retry-After"]) >= 1
        assert metric(client, "kvae_positions_waiting") == 0


def test_the_speed_is_measured_before_requests_are_taken(sampler: Sampler) -> None:
    with fastapi_testclient.TestClient(
        application(lambda: sampler, measure=measured_speeds)
    ) as client:
        until(lambda: client.get("/ready").status_code == 200)
        speeds = client.app.state.service.speeds
    assert set(speeds) == set(WORK.values())
    assert all(speed.per_position > 0 for speed in speeds.values())


@pytest.mark.parametrize(("limit", "wanted"), [(30.0, 0.05), (0.05, None), (0.05, 30.0)])
def test_a_deadline_ends_the_request_and_the_work(limit: float, wanted: float | None) -> None:
    model = Blocked()
    with serving(model, Limits(deadline=limit)) as client:
        check_problem(
            client.post("/sample", json={"deadline": wanted}), 504, "not done in 0.05 seconds"
        )
        assert model.cancelled.wait(20)


def test_a_stream_that_is_late_ends_in_a_problem(sampler: Sampler) -> None:
    class Late(Model):
        def stream(self, *, cancel: Any, **options: Any) -> Iterator[str]:
            yield "K"
            until(lambda: cancel.cancelled)
            raise Cancelled("the call was cancelled")

    with serving(Late(), Limits(deadline=0.3)) as client:
        (_, piece), (name, problem) = events(client.post("/stream", json={"seed": 1}).text)
    assert piece == {"piece": "K"}
    assert (name, problem["status"]) == ("problem", 504)


def test_a_client_that_left_is_not_worked_for() -> None:
    model = Blocked()

    async def leave() -> None:
        app = application(lambda: model)
        messages = [{"type": "http.request", "body": b"{}"}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await asyncio.to_thread(model.called.wait, 20)
            return {"type": "http.disconnect"}

        async with app.state.service.running_tasks():
            await app.state.service.started.wait()
            await app(scope("/sample"), receive, ignore)
            assert await asyncio.to_thread(model.cancelled.wait, 20)

    asyncio.run(leave())


def test_a_body_that_does_not_arrive_is_not_waited_for(sampler: Sampler) -> None:
    sent: list[Any] = []

    async def wait() -> None:
        app = application(lambda: sampler, Limits(deadline=0.1))

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        async with app.state.service.running_tasks():
            await app.state.service.started.wait()
            await app(scope("/sample"), receive, send)

    asyncio.run(wait())
    assert sent[0]["status"] == 408


def test_a_server_that_waits_no_more_answers_what_runs_with_503() -> None:
    model, sent = Blocked(), []

    async def stop_twice() -> None:
        app = application(lambda: model)
        service, messages = app.state.service, [{"type": "http.request", "body": b"{}"}]

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        async with service.running_tasks():
            await service.started.wait()
            asking = asyncio.create_task(app(scope("/sample"), receive, send))
            await asyncio.to_thread(model.called.wait, 20)
            service.stop()
            service.stop()
            await service.stopped()
            await asking

    asyncio.run(stop_twice())
    assert sent[0]["status"] == 503
    assert b"shut down" in sent[1]["body"]
    assert model.cancelled.wait(20)


def scope(path: str) -> dict[str, Any]:
    """A POST as ASGI sees it."""
    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }


async def ignore(message: Any) -> None:
    """What a client that left does with an answer."""


@pytest.mark.parametrize(
    "limit",
    [
        {"max_texts": 0},
        {"queue": 0},
        {"deadline": 0.0},
        {"max_body_bytes": 2**40},
        {"connections": 0},
        {"head_deadline": 0},
    ],
)
def test_limits_that_make_no_sense_are_refused(limit: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(limit))):
        Limits(**limit)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/sample", {"n": -1}, ("n:", "got -1")),
        ("/sample", {"n": "many"}, ("n:", "got 'many'")),
        ("/sample", {"temperature": 0}, ("temperature:", "got 0")),
        ("/sample", {"temprature": 1}, ("temprature", "did you mean temperature?")),
        ("/sample", {"greedy": True, "top_k": 3}, ("greedy",)),
        (
            "/sample",
            {"max_length": 17},
            ("max_length must be a whole number from 1 to 16, got 17",),
        ),
        ("/sample", {"n": 2, "first_row": 2**32 - 1}, ("row must be",)),
        ("/sample", {"attribute": "sad"}, ("attribute 'sad' is unknown",)),
        ("/stream", {"seed": 2**63}, ("seed:",)),
        ("/stream", {"max_length": 17}, ("max_length",)),
        ("/encode", {}, ("texts: field required",)),
        ("/encode", {"texts": "KAMITO"}, ("texts:",)),
        ("/encode", {"texts": ["kamito"]}, ("never saw",)),
        ("/encode", {"texts": ["KA" * 20]}, ("has 40 characters",)),
        (
            "/interpolate",
            {"first": "KA", "last": "MI", "path": "winding"},
            ("path:", "got 'winding'"),
        ),
        ("/score", {"texts": ["KA"], "samples": 0}, ("samples:",)),
        ("/sample", [], ("body:",)),
    ],
)
def test_what_is_asked_in_vain_is_a_problem_of_one_sentence(
    client: Any, path: str, body: Any, words: tuple[str, ...]
) -> None:
    check_problem(client.post(path, json=body), 422, *words)


MANY = 60_000


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        (
            "/encode",
            b'{"texts": [' + b", ".join([b"1"] * MANY) + b"]}",
            ("texts.0: should be a valid string, got 1",),
        ),
        (
            "/score",
            b'{"texts": [' + b", ".join([b"[]"] * MANY) + b"]}",
            ("texts.0: should be a valid string",),
        ),
        ("/encode", b'{"texts": [' + b", ".join([b'""'] * MANY) + b"]}", ("got 60000",)),
        (
            "/sample",
            b"{" + b", ".join(b'"k%d": 1' % i for i in range(MANY)) + b"}",
            ("k0: is no argument", "k4: is no"),
        ),
        (
            "/sample",
            b'{"n": {' + b", ".join(b'"k%d": 1' % i for i in range(MANY)) + b"}}",
            ("n: should be",),
        ),
        ("/sample", b'{"' + b"k" * 900_000 + b'": 1}', ("kkk...: is no argument here",)),
        ("/sample", b'{"attribute": "' + b"k" * 900_000 + b'"}', ("kkk",)),
        ("/encode", b'{"texts": ["' + b"k" * 900_000 + b'"]}', ("'k' 900000",)),
    ],
)
def test_what_is_said_of_a_large_body_is_short(
    client: Any, path: str, content: bytes, told: tuple[str, ...]
) -> None:
    refused = client.post(path, content=content, headers={"Content-Type": "application/json"})
    check_problem(refused, 422, *told)
    assert len(refused.json()["detail"]) <= 1000


def test_what_is_said_of_a_long_address_is_short(client: Any) -> None:
    refused = client.get("/" + "a" * 10_000)
    check_problem(refused, 404, "aaa...: nothing is here")
    assert len(refused.json()["detail"]) < 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b'{"n": 1', 400),
        (b'{"n": 1' + b"0" * 5000 + b"}", 400),
        (b'{"texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"texts": ["\xff"]}', 400),
        (b'{"temperature": NaN}', 422),
        (b'{"\\ud800": "\\ud800"}', 422),
        (b'{"attribute": "\\ud800"}', 422),
        (b"null", 422),
        (b'{"n": ' + b"9" * 4000 + b"}", 422),
    ],
)
def test_no_body_brings_the_server_down(client: Any, content: bytes, status: int) -> None:
    check_problem(
        client.post("/sample", content=content, headers={"Content-Type": "application/json"}),
        status,
    )


@pytest.mark.parametrize("depth", [10, 400, 800, 900, 950, 980])
def test_nesting_of_any_depth_is_the_fault_of_the_request(client: Any, depth: int) -> None:
    content = b'{"texts": ' + b"[" * depth + b"]" * depth + b"}"
    answered = client.post("/encode", content=content, headers={"Content-Type": "application/json"})
    assert answered.status_code in (400, 422)


def test_other_addresses_and_methods_are_problems_too(client: Any) -> None:
    check_problem(client.get("/nothing"), 404, "/nothing")
    refused = client.get("/sample")
    check_problem(refused, 405, "does not take GET")
    assert refused.headers["allow"] == "POST"


def test_a_failure_of_the_server_is_a_problem_without_its_inside() -> None:
    class Broken(Model):
        def encode(self, *arguments: Any, **options: Any) -> Any:
            raise RuntimeError("secret")

    with serving(Broken(), raise_server_exceptions=False) as client:
        failed = client.post("/encode", json={"texts": ["KA"]})
        check_problem(failed, 500, "RuntimeError")
        assert "secret" not in failed.text
        assert client.get("/health").status_code == 200


def test_an_error_before_the_first_piece_of_a_stream_has_its_status() -> None:
    class Refusing(Model):
        def stream(self, **options: Any) -> Iterator[str]:
            raise DataError("nothing to say")
            yield

    with serving(Refusing()) as client:
        check_problem(client.post("/stream", json={}), 422, "nothing to say")


# --- state ----------------------------------------------------------------------------------------


def test_requests_are_taken_once_the_graphs_are_started(sampler: Sampler) -> None:
    go = threading.Event()

    def load() -> Sampler:
        go.wait(20)
        return sampler

    with fastapi_testclient.TestClient(application(load)) as client:
        assert client.get("/health").json() == {"status": "alive"}
        for refused in (client.get("/ready"), client.get("/info"), client.post("/sample", json={})):
            check_problem(refused, 503, "being started")
            assert int(refused.headers["Retry-After"]) >= 1
        go.set()
        until(lambda: client.get("/ready").json() == {"status": "ready"})
        assert client.post("/sample", json={}).status_code == 200


def test_metrics_count_what_happened(sampler: Sampler) -> None:
    with serving(sampler) as client:
        client.post("/sample", json={"n": 5, "seed": 1})
        client.post("/sample", json={"n": -1})
        client.get("/someone/elses/address")
        assert metric(client, 'kvae_requests_total{endpoint="sample",status="200"}') == 1
        assert metric(client, 'kvae_requests_total{endpoint="sample",status="422"}') == 1
        assert metric(client, 'kvae_requests_total{endpoint="other",status="404"}') == 1
        assert metric(client, 'kvae_request_seconds_count{endpoint="sample"}') == 2
        assert metric(client, 'kvae_texts_written_total{endpoint="sample"}') == 5
        assert metric(client, "kvae_queue_depth") == 0


def test_every_status_is_described(client: Any) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {*POSTED, *GOTTEN}
    for path in POSTED:
        told = paths[path]["post"]["responses"]
        assert set(told) == {"200", "400", "408", "413", "421", "422", "429", "500", "503", "504"}
        assert all(
            "application/problem+json" in told[status]["content"]
            for status in told
            if status != "200"
        )


def test_the_description_knows_the_limits(sampler: Sampler) -> None:
    with serving(sampler, Limits(max_texts=5)) as client:
        parts = client.get("/openapi.json").json()["components"]["schemas"]
    assert parts["SampleRequest"]["properties"]["n"]["maximum"] == 5
    assert parts["TextsRequest"]["properties"]["texts"]["maxItems"] == 5


def test_the_description_and_the_answers_have_the_temperature_of_the_bundle(
    bundle_folder: Path,
) -> None:
    sampler = Sampler.load(bundle_folder)
    defaults = {**sampler.manifest["defaults"], "temperature": 0.5}
    expected = sampler.sample(3, seed=1, temperature=0.5)
    sampler.manifest = {**sampler.manifest, "defaults": defaults}
    with serving(sampler) as client:
        parts = client.get("/openapi.json").json()["components"]["schemas"]
        samples = client.post("/sample", json={"n": 3, "seed": 1}).json()["samples"]
        refused = client.post("/sample", json={"temperature": 0.0})
    assert parts["SampleRequest"]["properties"]["temperature"]["default"] == 0.5
    assert parts["StreamRequest"]["properties"]["temperature"]["default"] == 0.5
    assert [sample["text"] for sample in samples] == expected
    check_problem(refused, 422, "temperature")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("localhost.:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]", 200),
        ("", 200),
        ("localhost.example.org", 421),
        ("localhost@example.org", 421),
        ("localhost:80@example.org", 421),
        ("localhost:80.example.org", 421),
        ("localhost:example.org", 421),
        ("localhost,example.org", 421),
        ("localhost..", 421),
        ("[::1]example.org", 421),
        ("[::1].example.org:80", 421),
        ("[::1", 421),
        ("[127.0.0.1]", 421),
        ("127.1", 421),
        ("[::1]:8000", 200),
        ("example.org:8000", 421),
        ("127.0.0.1.example.org", 421),
    ],
)
def test_a_name_from_elsewhere_is_not_this_machine(
    sampler: Sampler, host: str, status: int
) -> None:
    with fastapi_testclient.TestClient(application(lambda: sampler, local=True)) as client:
        answered = client.get("/health", headers={"Host": host})
    assert answered.status_code == status
    if status == 421:
        check_problem(answered, 421, repr(host))


@pytest.mark.parametrize(
    ("address", "open_to_others"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)]
)
def test_it_is_known_whether_others_can_come_in(address: str, open_to_others: bool) -> None:
    assert reachable_from_outside(address) == open_to_others


# --- the command ----------------------------------------------------------------------------------


@contextmanager
def kvae_serve(
    bundle: Path, *arguments: str, **options: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `kvae serve` on a free port, and its address."""
    command = [
        sys.executable,
        "-m",
        "kvae",
        "serve",
        str(bundle),
        "--port",
        "0",
        "--json",
        *arguments,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    assert process.stdout
    try:
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url(bundle_folder: Path) -> Iterator[str]:
    with kvae_serve(bundle_folder) as (_, url):
        yield url


def test_told_to_stop_it_finishes_what_runs_and_takes_nothing_new(
    bundle_folder: Path, sampler: Sampler
) -> None:
    body = json.dumps({"n": 3, "seed": 7}).encode()
    head = (
        "POST /sample HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with kvae_serve(bundle_folder) as (process, url), socket.socket() as running:
        host, port = url.removeprefix("http://").split(":")
        running.connect((host, int(port)))
        running.sendall(head.encode() + body[:5])
        until(lambda: "kvae_requests_running 1.0" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{url}/ready").status_code == 503)
        check_problem(httpx.post(f"{url}/sample", json={}), 503, "shutting down")
        running.sendall(body[5:])
        answered = b"".join(iter(lambda: running.recv(65536), b"")).decode()
        assert answered.startswith("HTTP/1.1 200 OK")
        texts = [sample["text"] for sample in json.loads(answered.split("\r\n\r\n")[1])["samples"]]
        assert texts == sampler.sample(3, 7)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer_of(connection: socket.socket) -> str:
    """All that comes until the connection is closed."""
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def whole_response(connection: socket.socket) -> http.client.HTTPResponse:
    """One response, headers and body, from a connection that stays open."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response


HALF = (
    b"POST /sample HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 20\r\n\r\n{"
)


@pytest.mark.parametrize(("arguments", "signals"), [((), 2), (("--shutdown-deadline", "0.2"), 1)])
def test_what_is_half_sent_is_not_waited_for_beyond_the_time_to_finish(
    bundle_folder: Path, arguments: tuple[str, ...], signals: int
) -> None:
    with kvae_serve(bundle_folder, *arguments) as (process, url), connected(url) as half:
        half.sendall(HALF)
        until(lambda: "kvae_requests_running 1.0" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: process.poll() is not None or httpx.get(f"{url}/ready").status_code == 503)
        if signals == 2:
            process.send_signal(signal.SIGTERM)
        assert answer_of(half).startswith("HTTP/1.1 503")
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("number", everyday([signal.SIGTERM, signal.SIGINT], signal.SIGTERM))
@pytest.mark.parametrize("place", ["kvae.serving.server.serve", "kvae.serving.Sampler.load"])
def test_a_signal_during_the_start_ends_it_quietly(
    bundle_folder: Path, place: str, number: signal.Signals
) -> None:
    code = (
        "import sys, time, kvae.serving, kvae.serving.server\n"
        f"def start(*arguments): print('starting', flush=True); time.sleep(2)\n{place} = start\n"
        "from kvae.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "serve", str(bundle_folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "starting\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0


def test_heads_that_do_not_arrive_are_not_waited_for(bundle_folder: Path) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        kvae_serve(bundle_folder, "--head-deadline", "2") as (_, url),
        connected(url) as first,
        connected(url) as next_,
    ):
        first.sendall(request[:20])
        next_.sendall(request)
        assert whole_response(next_).status == 200
        next_.sendall(request[:20])
        with connected(url) as silent:
            assert [answer_of(connection) for connection in (first, next_, silent)] == [""] * 3
        assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize("files", everyday([120, None], 120))
def test_half_heads_do_not_shut_others_out(bundle_folder: Path, files: int | None) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    options = {"preexec_fn": limit} if files else {}
    arguments = () if files else ("--connections", "20")
    with kvae_serve(bundle_folder, *arguments, **options) as (process, url), ExitStack() as stack:
        for _ in range(150):
            half = stack.enter_context(connected(url))
            half.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        assert httpx.get(f"{url}/health", timeout=20).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert len(process.stderr.read().splitlines()) == 1


def test_where_all_connections_are_at_work_a_new_one_is_told_to_come_again(
    bundle_folder: Path,
) -> None:
    with kvae_serve(bundle_folder, "--connections", "1") as (_, url), connected(url) as half:
        half.sendall(HALF[:-1].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert half.recv(65536).startswith(
            b"HTTP/1.1 100"
        )  # it is at work: until then a new one takes its place
        assert "503 Service Unavailable" in refused_by(url)
        half.sendall(b'{"n": 1}' + b" " * 12)
        assert half.recv(65536).startswith(b"HTTP/1.1 200")


def refused_by(url: str) -> str:
    """What a server says to a new connection without being asked, or nothing."""
    with connected(url) as connection:
        connection.settimeout(1.0)
        try:
            return connection.recv(65536).decode()
        except TimeoutError:
            return ""


@pytest.mark.parametrize(
    ("path", "status"), [("/encode", 413), ("/nothing", 404), ("/health", 405)]
)
def test_a_body_that_goes_on_after_its_answer_is_not_read_without_end(
    url: str, path: str, status: int
) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with connected(url) as connection:
        connection.sendall(head.encode())
        with pytest.raises(ConnectionError):
            deque(map(connection.sendall, repeat(piece, 2000)))
    with connected(url) as connection:
        connection.sendall(head.encode() + piece * (20 if status == 413 else 5))
        told = answer_of(connection)
        assert told.startswith(f"HTTP/1.1 {status}")
        assert "connection: close" in told.lower()


def test_a_client_that_sends_all_before_it_reads_gets_the_413(url: str) -> None:
    check_problem(
        httpx.post(
            f"{url}/encode", content=b" " * 2**21, headers={"Content-Type": "application/json"}
        ),
        413,
    )


def test_ctrl_c_ends_it_quietly(bundle_folder: Path) -> None:
    with kvae_serve(bundle_folder) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert len(process.stderr.read().splitlines()) == 1


def test_a_missing_bundle_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    done = kvae("serve", str(tmp_path / "nothing"), "--port", "0")
    assert done.returncode == 3
    assert re.fullmatch(r"kvae serve: .*no such bundle.*\n", done.stderr)


def test_a_taken_port_is_one_line_and_exit_code_2(bundle_folder: Path) -> None:
    with listening_socket("127.0.0.1", 0) as taken:
        done = kvae("serve", str(bundle_folder), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert re.fullmatch(r"kvae serve: --port: \d+ of 127.0.0.1 is not available .*\n", done.stderr)


@pytest.mark.parametrize(
    "arguments", [("--port", "70000"), ("--host", "no such host"), ("--deadline", "0")]
)
def test_arguments_that_make_no_sense_are_one_line_and_exit_code_2(
    bundle_folder: Path, arguments: tuple[str, str]
) -> None:
    done = kvae("serve", str(bundle_folder), *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert arguments[0].strip("-") in done.stderr


def test_without_its_extra_it_names_the_extra(bundle_folder: Path) -> None:
    run = (
        "import sys; sys.modules['fastapi'] = None; "
        "from kvae.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", run, "serve", str(bundle_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pip install 'kvae-text[server]'")


def kvae(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvae", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_serving_without_the_server_loads_nothing_of_it() -> None:
    code = "import sys, kvae.serving; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert (
        set(loaded) & {"fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic"} == set()
    )


# --- whatever else is sent ------------------------------------------------------------------------


def fuzz(url: str, path: str, examples: int) -> None:
    """Send good and bad requests that are made from the server's own description.

    No request makes the server fail, and every answer is as described.
    """
    from hypothesis import HealthCheck, given, settings
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi import checks

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = schema[path]["POST" if path in POSTED else "GET"]
    wanted = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]
    for mode in (
        (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if path in POSTED
        else (GenerationMode.POSITIVE,)
    ):

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=HealthCheck,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def answers(case: Any) -> None:
            response = case.call_and_validate(checks=wanted)
            late = response.status_code in (503, 504) and "deadline" in case.body
            assert response.status_code < 500 or late, response.text

        answers()


@pytest.mark.parametrize("path", [*POSTED, *GOTTEN])
def test_whatever_is_sent_is_answered_as_described(url: str, path: str) -> None:
    fuzz(url, path, 20)


@pytest.mark.slow
@pytest.mark.parametrize("path", POSTED)
def test_whatever_is_sent_for_minutes_is_answered_as_described(url: str, path: str) -> None:
    fuzz(url, path, 300)
