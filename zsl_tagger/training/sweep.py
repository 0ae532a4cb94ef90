"""Train a model for each combination of some settings, and compare them on validation images.

Each combination is an ordinary run, in a folder below ``--output`` named after its settings. Features of a frozen
backbone are computed once for all combinations.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from zsl_tagger.errors import UserError
from zsl_tagger.reports.text import aligned
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.model_folder import read_config
from zsl_tagger.training.figures import FIGURES, ValidationFigures
from zsl_tagger.training.run import CACHE_FOLDER, TrainRun, train

logger = logging.getLogger(__name__)

SWEEP_FILE = "sweep.csv"


@dataclasses.dataclass(frozen=True)
class SweptRun:
    """One combination of settings and the figures of its model.

    Attributes:
        settings: ``name=value`` for each swept setting.
        output: the model folder.
    """

    settings: tuple[str, ...]
    output: Path
    figures: ValidationFigures


def sweep(run: TrainRun, sweeps: Sequence[str]) -> list[SweptRun]:
    """Train each combination, and write ``sweep.csv`` next to the model folders.

    Args:
        run: options shared by all combinations; ``output`` is the parent of the model folders. With ``resume``,
            finished combinations are not trained again.
        sweeps: texts such as ``"lr=1e-4,3e-4"``, one for each swept setting.

    Returns:
        the combinations, best first.

    Raises:
        UserError: unknown settings or invalid values; nothing was trained.
        Stopped: a signal stopped the run; ``resume`` continues.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--sweep works with a single process: with torchrun, train each combination separately")
    runs = [_with_settings(run, settings) for settings in combinations(sweeps)]
    found = []
    for number, (settings, one) in enumerate(runs, 1):
        logger.info("combination %d of %d: %s", number, len(runs), ", ".join(settings))
        train(one)
        saved = read_config(one.output).provenance.get("validation", {})
        found.append(SweptRun(settings, one.output, ValidationFigures.from_saved(saved)))
    found.sort(key=_selection_value, reverse=True)
    _write(run.output / SWEEP_FILE, found)
    return found


def combinations(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all combinations of the values of the settings, such as ``("lr=1e-4", "query_noise=0")``.

    Raises:
        UserError: a text is not ``name=value,value``, or a setting appears twice.
    """
    values: dict[str, list[str]] = {}
    for text in sweeps:
        name, equals, listed = text.partition("=")
        name = name.strip()
        parts = [part.strip() for part in listed.split(",")]
        if not name or not equals or "" in parts:
            raise UserError(f"expected --sweep name=value,value, got {text!r}")
        if name in values:
            raise UserError(f"expected one --sweep per setting, got {name} twice: list all its values in one")
        values[name] = list(dict.fromkeys(parts))
    return list(itertools.product(*([f"{name}={part}" for part in parts] for name, parts in values.items())))


def table(found: Sequence[SweptRun]) -> list[str]:
    """Return the table to print: the combinations, best first, with figures in percent."""
    shown = _measured(found)
    names = [setting.partition("=")[0] for setting in found[0].settings]
    rows = [[*names, *shown]]
    for one in found:
        measured = one.figures.measured()
        figures = [f"{100 * measured[name]:.1f}" if name in measured else "-" for name in shown]
        rows.append([*(setting.partition("=")[2] for setting in one.settings), *figures])
    return [*aligned(rows), "", f"best: {found[0].output}"]


def _with_settings(run: TrainRun, settings: tuple[str, ...]) -> tuple[tuple[str, ...], TrainRun]:
    folder = run.output / ",".join(settings).replace("/", "_").replace("\\", "_")
    config = run.config.changed(settings)
    cache = run.cache or (run.output / CACHE_FOLDER if config.freeze else None)
    return settings, dataclasses.replace(run, config=config, output=folder, cache=cache)


def _measured(found: Sequence[SweptRun]) -> list[str]:
    """Return the names of the figures that any combination has."""
    return [name for name in FIGURES if any(name in one.figures.measured() for one in found)]


def _selection_value(one: SweptRun) -> float:
    selected_by = one.figures.selection_metric()
    return -1.0 if selected_by is None else selected_by[1]


def _write(path: Path, found: Sequence[SweptRun]) -> None:
    shown = _measured(found)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(setting.partition("=")[0] for setting in found[0].settings), *shown, "model"])
    for one in found:
        measured = one.figures.measured()
        figures = [measured.get(name, "") for name in shown]
        writer.writerow([*(setting.partition("=")[2] for setting in one.settings), *figures, one.output.name])
    write_whole(path, text.getvalue().encode())
