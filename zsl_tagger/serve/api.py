"""The data of the API as its clients see it: fields, answers, errors, and how OpenAPI tells them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from zsl_tagger.serve.limits import HEATMAPS, LABELS, LABELS_TEXT, Limits

_COMMAS = f"with commas between, at most {LABELS:,}"


def _left_out(schema: dict[str, Any]) -> None:
    """Leave out a field's default, since null is none of its values."""
    del schema["default"]


class Words(BaseModel):
    """The form of POST /v1/labels."""

    model_config = ConfigDict(extra="forbid")

    labels: Annotated[
        str, Field(max_length=LABELS_TEXT, description=f"Words, {_COMMAS}.", examples=["dog,beach,zebar"])
    ]


class Ask(BaseModel):
    """The form of POST /v1/tag, beside the photos."""

    model_config = ConfigDict(extra="forbid")

    labels: Annotated[
        str,
        Field(
            max_length=LABELS_TEXT,
            description=f"Words to ask, {_COMMAS}. Empty: the vocabulary of the model.",
            examples=["dog,beach"],
        ),
    ] = ""
    threshold: Annotated[
        Annotated[float, Field(ge=0, le=1)] | SkipJsonSchema[None],
        Field(
            description="Least score of a tag; 0 gives every label. Left out: each label's own.",
            examples=[0.3],
            json_schema_extra=_left_out,
        ),
    ] = None
    top_k: Annotated[
        Annotated[int, Field(ge=1, le=100_000)] | SkipJsonSchema[None],
        Field(description="At most so many tags a photo.", examples=[10], json_schema_extra=_left_out),
    ] = None
    heatmaps: Annotated[
        int, Field(ge=0, le=HEATMAPS, description="So many of a photo's best tags come with a heat map.", examples=[3])
    ] = 0


class Tag(BaseModel):
    """Hold a tag of a photo."""

    label: str
    score: Annotated[float, Field(ge=0, le=1)]
    heatmap: Annotated[
        list[list[float]] | SkipJsonSchema[None],
        Field(
            description="Where it was looked for: rows of the upright photo (of its part `seen`, if that is given) "
            "from the top, 0 to 1 each. Where asked.",
            json_schema_extra=_left_out,
        ),
    ] = None


class TaggedPhoto(BaseModel):
    """Hold a photo with its tags."""

    path: Annotated[str, Field(description="The file name, as it was sent.")]
    tags: Annotated[list[Tag], Field(description="Best first.")]
    seen: Annotated[
        tuple[float, float, float, float] | SkipJsonSchema[None],
        Field(
            description="Left, top, right, bottom of the part that the model sees, shares of the upright photo's width "
            "and height. With heat maps of a model that does not see the whole photo.",
            json_schema_extra=_left_out,
        ),
    ] = None


class FailedPhoto(BaseModel):
    """Hold a photo that could not be tagged."""

    path: Annotated[str, Field(description="The file name, as it was sent.")]
    error: Annotated[str, Field(description="Why this photo has no tags, in one line.")]


class KnownLabel(BaseModel):
    """Hold a label that the model knows."""

    label: str
    threshold: Annotated[float, Field(ge=0, le=1, description="The least score that makes it a tag.")]


class Labels(BaseModel):
    """Hold the answer of /v1/labels."""

    labels: Annotated[list[KnownLabel], Field(description="Those that are known.")]
    unknown: Annotated[dict[str, list[str]], Field(description="The others, with the nearest known spellings.")]


class LimitsTold(BaseModel):
    """Hold the answer of /v1/limits."""

    photo_bytes: int
    request_bytes: int
    photos: Annotated[int, Field(description="In one request.")]
    pixels: Annotated[int, Field(description="Of one photo.")]
    labels: int
    heatmaps: Annotated[int, Field(description="Of one photo; 0 where the model has none.")]


class Health(BaseModel):
    """Hold the answer of /healthz."""

    status: Annotated[str, Field(examples=["ok"])]


class Error(BaseModel):
    """Hold the answer to a request that cannot be carried out."""

    error: Annotated[str, Field(description="What was expected, what came, in one line.")]


_MEANINGS = {
    400: "The request cannot be read, or its Host is not a name of this server.",
    401: "The token of the library is missing or wrong.",
    403: "Sent by the page of another web site.",
    404: "No photo of the index has this number.",
    405: "Another method than this path has.",
    408: "The request did not arrive in time.",
    409: "The marks or the sidecars have changed since the preview.",
    410: "The photo was deleted or changed since it was indexed.",
    413: "Too many bytes.",
    415: "The body is not multipart/form-data.",
    422: "A field is missing or wrong, or a label is not known.",
    429: "Too many photos are waiting: send it again after so many seconds as Retry-After says.",
    431: "Too many bytes before the body: the path and the headers.",
    503: "It was not done in time, or there are too many connections.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI tells these statuses."""
    told: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        told[status] = {"model": Error, "description": _MEANINGS[status]}
        if status in (429, 503):
            told[status]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return told


def body_of(form: type[BaseModel]) -> dict[str, Any]:
    """Describe a multipart form without photos."""
    schema = form.model_json_schema()
    return _form(schema["properties"], *schema.get("required", ()))


def words_body() -> dict[str, Any]:
    """Hold the multipart form of POST /v1/labels."""
    return body_of(Words)


def ask_body(limits: Limits) -> dict[str, Any]:
    """Hold the multipart form of POST /v1/tag."""
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": limits.photos,
        "description": f"Photos in any format that zsl-tagger tag reads; at most {limits.photo_bytes:,} bytes each.",
    }
    return _form({"files": files, **Ask.model_json_schema()["properties"]}, "files")


def _form(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
