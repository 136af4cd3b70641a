"""What the server takes and gives, as JSON: each endpoint's request and answer, and the problem that an error is told as."""

from __future__ import annotations

from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from .choices import CHOICES
from .sampler import LARGEST

Seed = Annotated[int, Field(ge=0, le=LARGEST["seed"])]
Row = Annotated[int, Field(ge=0, le=LARGEST["row"])]
Texts = Annotated[list[str], FailFast()]
"""What is no text ends the check: no list of faults as long as the body."""

SHOWN = 5
"""Faults of a request that are told."""


class Request(BaseModel):
    """JSON types are taken as they are, and a name that is not known is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def known(cls, data: Any) -> Any:
        """Names that are not known end the check, and only the first are told: a body may hold a hundred thousand."""
        strange = (
            (name for name in data if name not in cls.model_fields)
            if isinstance(data, dict)
            else ()
        )
        if names := list(islice(strange, SHOWN)):
            raise PydanticCustomError("unknown_names", "unknown names", {"names": names})
        return data

    deadline: float | None = Field(
        None,
        ge=1e-3,
        description="seconds after which the answer is a 504; the server's own limit stays",
    )


def choice_field(name: str) -> Any:
    """The default, range and description of an option of how tokens are chosen."""
    choice = CHOICES[name]
    return Field(
        choice.default, ge=choice.low, le=choice.high, description=choice.help + choice.request_note
    )


class Choices(Request):
    """How symbols are chosen."""

    greedy: bool = choice_field("greedy")
    temperature: float | None = choice_field("temperature")
    top_k: int = choice_field("top_k")
    top_p: float = choice_field("top_p")
    min_length: int = choice_field("min_length")
    max_length: int | None = choice_field("max_length")
    attribute: str | None = choice_field("attribute")

    def options(self) -> dict[str, Any]:
        """As keyword arguments of `Sampler`."""
        return {name: getattr(self, name) for name in CHOICES}


class SampleRequest(Choices):
    n: int = Field(1, ge=0, description="how many texts")
    seed: Seed | None = Field(
        None, description="same seed, same texts; drawn and told if not given"
    )
    first_row: Row = Field(0, description="row of the seed to go on from")


class StreamRequest(Choices):
    seed: Seed | None = Field(None, description="same seed, same text; drawn and told if not given")
    row: Row = Field(0, description="row of the seed")


class Reading(Request):
    unknown: Literal["refuse", "replace"] = Field(
        "refuse", description="characters or words the model never saw"
    )


class TextsRequest(Reading):
    texts: Texts


class InterpolateRequest(Reading):
    first: str
    last: str
    steps: int = Field(7, ge=2, description="texts, ends included")
    path: Literal["linear", "spherical"] = "linear"


class ScoreRequest(Request):
    texts: Texts
    samples: int = Field(1, ge=1, description="codes drawn for each text")
    seed: Seed = 0
    attribute: str | None = Field(None, description="the label of all texts; guessed if not given")
    unknown: Literal["refuse", "replace"] = Field(
        "replace", description="characters or words the model never saw"
    )
    too_long: Literal["refuse", "cut"] = Field("refuse", description="texts longer than the model")


class Sampled(BaseModel):
    text: str
    seed: int
    row: int
    log_probability: float = Field(
        description="log p(text | z) at temperature 1, nats, the end mark included"
    )
    finished: bool = Field(description="whether the model ended the text, or its length did")
    attribute: str | None


class Samples(BaseModel):
    samples: list[Sampled]


class Code(BaseModel):
    text: str
    code: list[float]


class Codes(BaseModel):
    codes: list[Code]


class Reconstruction(BaseModel):
    text: str
    reconstruction: str
    equal: bool


class Reconstructions(BaseModel):
    reconstructions: list[Reconstruction]


class Interpolation(BaseModel):
    interpolation: list[str]


class Scored(BaseModel):
    text: str
    bound: float = Field(description="upper bound on -log p(text): reconstruction + kl, nats")
    reconstruction: float = Field(description="-log p(text | z), nats, the end mark included")
    kl: float = Field(description="what the code costs, nats")
    bits_per_character: float = Field(description="the bound by characters and end mark")
    nats: list[float] = Field(description="the reconstruction token by token, the end mark last")


class Scores(BaseModel):
    scores: list[Scored]


class Status(BaseModel):
    status: str


class Info(BaseModel):
    """The bundle's manifest, and what this server allows."""

    model_config = ConfigDict(
        extra="allow", protected_namespaces=()
    )  # pydantic before 2.10 warns of `model_id`

    model_id: str
    limits: dict[str, float]


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="which kind of problem: urn:kvae:problem:...")
    title: str
    status: int
    detail: str = Field(
        description="one sentence: the argument, the rule, the value received, the way out"
    )


PROBLEMS = {
    400: ("not-json", "the body is not JSON"),
    404: ("not-found", "there is nothing at this address"),
    405: ("method-not-allowed", "this address takes another method"),
    408: ("slow-request", "the body took too long to arrive"),
    413: ("body-too-large", "the body is too large"),
    421: ("other-host", "the request is for another host"),
    422: ("invalid-input", "the request asks for something impossible"),
    429: ("busy", "too many requests wait"),
    500: ("failed", "the server failed"),
    503: ("unavailable", "the server is starting, shutting down, or has more work than time"),
    504: ("deadline", "the answer took too long"),
}
"""Every status of an error: the last part of its type, and its title."""


LONGEST_DETAIL = 1000
"""Characters: a sentence never gives back what a body of a megabyte held."""


def problem(status: int, detail: str) -> dict[str, Any]:
    """An error as its JSON says it."""
    if len(detail) > LONGEST_DETAIL:
        detail = detail[: LONGEST_DETAIL - 3] + "..."
    slug, title = PROBLEMS.get(status) or ("http", HTTPStatus(status).phrase.lower())
    return {"type": f"urn:kvae:problem:{slug}", "title": title, "status": status, "detail": detail}
