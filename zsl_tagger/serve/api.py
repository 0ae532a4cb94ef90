"""Define the forms, responses and errors of the API, and their OpenAPI description."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from zsl_tagger.serve.limits import HEATMAPS, LABELS, LABELS_TEXT, Limits

_SEPARATED = f"separated by commas, at most {LABELS:,}"


def _without_default(schema: dict[str, Any]) -> None:
    """Remove the default of a field from its schema, because null is not a valid value."""
    del schema["default"]


class LabelsForm(BaseModel):
    """Form of POST /v1/labels."""

    model_config = ConfigDict(extra="forbid")

    labels: Annotated[
        str, Field(max_length=LABELS_TEXT, description=f"Labels, {_SEPARATED}.", examples=["dog,beach,zebar"])
    ]


class PhotosForm(BaseModel):
    """Form of POST /v1/tag, without the photos."""

    model_config = ConfigDict(extra="forbid")

    labels: Annotated[
        str,
        Field(
            max_length=LABELS_TEXT,
            description=f"Labels to score, {_SEPARATED}. Empty: the vocabulary of the model.",
            examples=["dog,beach"],
        ),
    ] = ""
    threshold: Annotated[
        Annotated[float, Field(ge=0, le=1)] | SkipJsonSchema[None],
        Field(
            description="Minimum score of a tag; 0 returns every label. Default: the threshold of each label.",
            examples=[0.3],
            json_schema_extra=_without_default,
        ),
    ] = None
    top_k: Annotated[
        Annotated[int, Field(ge=1, le=100_000)] | SkipJsonSchema[None],
        Field(description="Maximum number of tags per photo.", examples=[10], json_schema_extra=_without_default),
    ] = None
    heatmaps: Annotated[
        int,
        Field(ge=0, le=HEATMAPS, description="Number of best tags per photo to return with a heat map.", examples=[3]),
    ] = 0


class Tag(BaseModel):
    """Describe a tag of a photo."""

    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    heatmap: Annotated[
        list[list[float]] | SkipJsonSchema[None],
        Field(
            description="Heat map, if requested: rows of values from 0 to 1, top row first, for the upright photo (or "
            "its part `seen`, if given).",
            json_schema_extra=_without_default,
        ),
    ] = None


class TaggedPhoto(BaseModel):
    """Describe a photo with its tags."""

    path: Annotated[str, Field(description="The file name, as it was sent.")]
    tags: Annotated[list[Tag], Field(description="Best first.")]
    seen: Annotated[
        tuple[float, float, float, float] | SkipJsonSchema[None],
        Field(
            description="Left, top, right and bottom of the part that the model sees, as fractions of the upright "
            "photo's width and height. Returned with heat maps if the model does not see the whole photo.",
            json_schema_extra=_without_default,
        ),
    ] = None


class FailedPhoto(BaseModel):
    """Describe a photo that could not be tagged."""

    path: Annotated[str, Field(description="The file name, as it was sent.")]
    error: Annotated[str, Field(description="Why this photo has no tags, in one line.")]


class KnownLabel(BaseModel):
    """Describe a label that the model knows."""

    label: str
    threshold: Annotated[float, Field(ge=0, le=1, description="Minimum score of a tag.")]


class Labels(BaseModel):
    """Response of /v1/labels."""

    labels: Annotated[list[KnownLabel], Field(description="Known labels.")]
    unknown: Annotated[dict[str, list[str]], Field(description="Unknown labels, with similar known spellings.")]


class ServerLimits(BaseModel):
    """Response of /v1/limits."""

    photo_bytes: int
    request_bytes: int
    photos: Annotated[int, Field(description="Per request.")]
    pixels: Annotated[int, Field(description="Per photo.")]
    labels: int
    heatmaps: Annotated[int, Field(description="Per photo; 0 if the model has none.")]


class Health(BaseModel):
    """Response of /healthz."""

    status: Annotated[str, Field(examples=["ok"])]


class Error(BaseModel):
    """Response to a request that failed."""

    error: Annotated[str, Field(description="What was expected and what was received, in one line.")]


_MEANINGS = {
    400: "The request cannot be parsed, or its Host is not a name of this server.",
    401: "The token of the library is missing or wrong.",
    403: "The request comes from a page of another web site.",
    404: "The index has no photo with this SHA-256.",
    405: "The path does not support this method.",
    408: "The request did not arrive in time.",
    409: "The marks or the sidecars have changed since the preview.",
    410: "The photo was deleted or changed since it was indexed.",
    413: "Too many bytes.",
    415: "The body is not multipart/form-data.",
    422: "A field is missing or invalid, or a label is unknown.",
    429: "Too many photos are waiting: retry after the number of seconds in Retry-After.",
    431: "The path and the headers are too large.",
    503: "The request was not completed in time, or there are too many connections.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the responses with these statuses for OpenAPI."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        described[status] = {"model": Error, "description": _MEANINGS[status]}
        if status in (429, 503):
            described[status]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return described


def body_of(form: type[BaseModel]) -> dict[str, Any]:
    """Describe a multipart form without photos for OpenAPI."""
    schema = form.model_json_schema()
    return _form(schema["properties"], *schema.get("required", ()))


def labels_body() -> dict[str, Any]:
    """Describe the multipart form of POST /v1/labels for OpenAPI."""
    return body_of(LabelsForm)


def tag_body(limits: Limits) -> dict[str, Any]:
    """Describe the multipart form of POST /v1/tag for OpenAPI."""
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": limits.photos,
        "description": f"Photos in any format that zsl-tagger tag reads, at most {limits.photo_bytes:,} bytes each.",
    }
    return _form({"files": files, **PhotosForm.model_json_schema()["properties"]}, "files")


def _form(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
