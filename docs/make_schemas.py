"""Write the JSON Schemas of the files that commands write, ``docs/schemas/*.json``, from the dataclasses they hold.

python docs/make_schemas.py
"""

from __future__ import annotations

import inspect
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from data_prep.results import DatasetInfo, SplitReport, WordVectorsRecord
from zsl_tagger.evaluation.results import Report
from zsl_tagger.search.suggest import Suggestions
from zsl_tagger.system.files import json_bytes
from zsl_tagger.system.json_record import JsonRecord

SCHEMAS = Path(__file__).parent / "schemas"

#: The file that a command writes -> what it holds.
RECORDS: dict[str, type[JsonRecord]] = {
    "dataset.json": DatasetInfo,  # prepare
    "report.json": Report,  # evaluate --output
    "split_report.json": SplitReport,  # prepare, prepare report
    "suggestions.json": Suggestions,  # suggest --format json
    "wordvecs.json": WordVectorsRecord,  # prepare wordvecs, beside the .pth file
}


class _Schema(GenerateJsonSchema):
    """Describe each object by its docstring, and give no titles, which would only repeat the keys."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
        return False

    def dataclass_schema(self, schema: dict) -> JsonSchemaValue:
        found = super().dataclass_schema(schema)
        found.pop("title", None)
        return {"description": inspect.getdoc(schema["cls"]), **found}


def schemas() -> dict[str, bytes]:
    """Return the content of each schema, by the name of the file that it describes."""
    draft = {"$schema": GenerateJsonSchema.schema_dialect}
    return {
        name: json_bytes(draft | TypeAdapter(record).json_schema(mode="serialization", schema_generator=_Schema))
        for name, record in RECORDS.items()
    }


if __name__ == "__main__":
    SCHEMAS.mkdir(exist_ok=True)
    for name, content in schemas().items():
        (SCHEMAS / name).write_bytes(content)
