"""The OpenAPI description of the server: answers, events, problems and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from . import schemas
from .choices import default_temperature
from .service import Limits

EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"enum": ["message", "done", "problem"], "default": "message"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
"""An event of /stream, as OpenAPI 3.2 describes the items of a stream."""


def problems(statuses: Sequence[int]) -> dict[int | str, Any]:
    """The OpenAPI responses for these error statuses."""
    responses: dict[int | str, Any] = {}
    for status in statuses:
        responses[status] = {
            "description": schemas.PROBLEMS[status][1],
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
        if status in (429, 503):
            responses[status]["headers"] = {
                "Retry-After": {
                    "description": "seconds",
                    "schema": {"type": "integer", "minimum": 0},
                }
            }
    return responses


def content_of(media_type: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "content": {media_type: {"itemSchema" if schema is EVENT else "schema": schema}},
    }


def openapi_description(app: FastAPI, limits: Limits) -> dict[str, Any]:
    """The OpenAPI description of the application, with the limits and the model's temperature."""
    if not app.openapi_schema:
        schema = get_openapi(
            title="kvae", version="1", description="Texts from a bundle of kvae.", routes=app.routes
        )
        parts = schema["components"]["schemas"]
        parts["Problem"] = schemas.Problem.model_json_schema()
        parts["SampleRequest"]["properties"]["n"]["maximum"] = limits.max_texts
        parts["InterpolateRequest"]["properties"]["steps"]["maximum"] = limits.max_texts
        parts["ScoreRequest"]["properties"]["samples"]["maximum"] = limits.max_texts
        parts["DecodeRequest"]["properties"]["codes"]["maxItems"] = limits.max_texts
        for name in ("TextsRequest", "ScoreRequest"):
            parts[name]["properties"]["texts"]["maxItems"] = limits.max_texts
        sampler = app.state.service.sampler
        if sampler is None:  # the model is still loading
            return schema
        for name in ("SampleRequest", "StreamRequest"):
            default = default_temperature(sampler.manifest)
            parts[name]["properties"]["temperature"]["default"] = default
        app.openapi_schema = schema
    return app.openapi_schema
