"""The options of ``zsl-tagger tag`` and their validation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zsl_tagger.choices import Device, Engine, Format, Sidecar
from zsl_tagger.errors import UserError
from zsl_tagger.records.writers import LASTING, SUFFIXES, WRITERS


@dataclass(frozen=True, kw_only=True)
class TagRun:
    """Options of one run as given; None and "" mean not given."""

    paths: Sequence[str]
    labels: str | None = None
    labels_file: Path | None = None
    exclude: str = ""
    top_k: int | None = None
    threshold: float | None = None
    format: Format | None = None
    output: Path | None = None
    resume: bool = False
    overwrite: bool = False
    model: Path | None = None
    workers: int | None = None
    skip_unknown: bool = False
    exact: bool = False
    all_levels: bool = False
    precision: float | None = None
    heatmap: Path | None = None
    sidecar: Sidecar | None = None
    sidecar_stem: bool = False
    dry_run: bool = False
    remove: bool = False
    engine: Engine = "local"
    exclude_path: Sequence[str] | None = None
    device: Device = "auto"


def check_options(run: TagRun) -> None:
    """Raise a UserError if options contradict each other or a value is out of range."""
    if run.threshold is not None and not 0 <= run.threshold <= 1:
        raise UserError(f"expected --threshold in 0..1, got {run.threshold}")
    if run.precision is not None and run.threshold is not None:
        raise UserError("give --precision or --threshold, not both")
    if run.top_k is not None and run.top_k < 1:
        raise UserError(f"expected --top-k of at least 1, got {run.top_k}")
    if run.workers is not None and run.workers < 1:
        raise UserError(f"expected --workers of at least 1, got {run.workers}")
    if run.labels is not None and run.labels_file is not None:
        raise UserError("give the labels by --labels or by --labels-file, not both")
    if run.sidecar is None and (run.remove or run.dry_run or run.sidecar_stem):
        option = "--remove" if run.remove else "--dry-run" if run.dry_run else "--sidecar-stem"
        raise UserError(f"{option} applies to sidecars: add --sidecar xmp, --sidecar txt or --sidecar json")
    if run.sidecar_stem and run.sidecar != "xmp":
        raise UserError(f"--sidecar-stem is for --sidecar xmp; {run.sidecar} sidecars use the full name of the photo")
    if (run.dry_run or run.remove) and (run.output is not None or run.heatmap is not None or format_of(run) != "table"):
        raise UserError("--dry-run and --remove print their changes: leave out --output, --format and --heatmap")
    if run.engine == "ray" and (run.heatmap is not None or run.sidecar is not None):
        option = "--sidecar" if run.heatmap is None else "--heatmap"
        raise UserError(f"{option} works on this machine only: leave out --engine ray")
    if run.engine == "ray":
        from zsl_tagger.tagging.ray_pool import require_ray

        require_ray(run.device)
    if run.output is None and sys.stdout is None:
        raise UserError(f"standard output is closed{'' if run.dry_run or run.remove else ': give --output FILE'}")
    if run.resume and run.overwrite:
        raise UserError("give --resume or --overwrite, not both")
    if run.resume and (run.output is None or format_of(run) not in LASTING):
        raise UserError(f"--resume needs an --output FILE in {', '.join(LASTING)}, got {format_of(run)}")
    if run.output is None and format_of(run) not in WRITERS:
        raise UserError(f"{format_of(run)} cannot be printed: give --output FILE")


def format_of(run: TagRun) -> str:
    """Return the output format: the given one, otherwise by the suffix of the output, otherwise table."""
    if run.format is not None:
        return run.format
    return SUFFIXES.get(run.output.suffix.lower(), "table") if run.output is not None else "table"
