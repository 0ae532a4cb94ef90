"""Format the result of an export."""

from __future__ import annotations

from pathlib import Path

from zsl_tagger.export.proof import TOP
from zsl_tagger.export.results import Row
from zsl_tagger.reports.text import aligned
from zsl_tagger.system.threads import available_cores
from zsl_tagger.tagging.model_folder import DECODER_FILE, ENCODER_FILE

_HEAD = (
    "", ENCODER_FILE, DECODER_FILE, "logit off by", "same side of threshold", "same tags", f"same top {TOP}", "moved",
)  # fmt: skip
_WHAT = {
    "fp32": "",
    "fp16": "fp16: weights stored in 16 bits, computed in 32",
    "int8": "int8: linear layers only, convolutions would be slower; scores depend slightly on the other labels",
}


def summary(target: Path, rows: list[Row], photos: int, torch_export: bool, words: int | None) -> list[str]:
    """Return lines that describe the export, and one line per precision.

    Args:
        rows: float32 first, the requested precision last.
        words: number of known words, if words were baked.
    """
    inputs = f"{photos} photos and 3 synthetic images" if photos else "3 synthetic images (--photos adds photos)"
    more = ", encoder.pt2, decoder.pt2 (fp32)" if torch_export else ""
    lines = [
        f"{target}: {ENCODER_FILE}, {DECODER_FILE} ({rows[-1].precision}){more}, compared with torch on {inputs}",
        *(f"  {line}" for line in aligned([_HEAD, *map(_cells, rows)])),
        f"  ms: an image and its {rows[0].labels:,} labels, {available_cores()} core(s), median",
        "  logit off by: maximum; moved: maximum change if a label is scored alone",
        _WHAT[rows[-1].precision] and f"  {_WHAT[rows[-1].precision]}",
        "" if words is None else f"  {words:,} words are known without the source of their vectors",
    ]
    return [line for line in lines if line]


def _cells(row: Row) -> tuple[str, ...]:
    sizes = [f"{size / 1e6:.1f} MB {time:.1f} ms" for size, time in zip(row.bytes, row.milliseconds, strict=True)]
    found = row.agreement
    shares = f"{100 * found.same_side:.3f} %", f"{100 * found.same_tags:.1f} %", f"{100 * found.same_top:.1f} %"
    return row.precision, *sizes, f"{found.difference:.1e}", *shares, f"{found.moved:.1e}"
