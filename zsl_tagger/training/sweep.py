"""Train a model for each combination of some settings, and compare them on validation images.

Each combination is an ordinary run in a folder of its own below ``--output``, named after its settings. Features of a
frozen backbone are computed once for all of them.
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
    """Hold one combination of settings and the figures of its model.

    Attributes:
        settings: ``name=value`` of each swept setting.
        output: its model folder.
    """

    settings: tuple[str, ...]
    output: Path
    figures: ValidationFigures


def sweep(run: TrainRun, sweeps: Sequence[str]) -> list[SweptRun]:
    """Train each combination, and write ``sweep.csv`` beside the model folders.

    Args:
        run: what the combinations share; its ``output`` is the folder of their folders. With ``resume``, finished
            combinations are not trained again.
        sweeps: ``"lr=1e-4,3e-4"`` for each swept setting.

    Returns:
        the combinations, best first.

    Raises:
        UserError: settings that are not known or don't fit, before anything is trained.
        Stopped: a signal came; ``resume`` continues.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("expected one process for --sweep: train each combination by itself with torchrun")
    runs = [_with_settings(run, settings) for settings in combinations(sweeps)]
    found = []
    for number, (settings, one) in enumerate(runs, 1):
        logger.info("combination %d of %d: %s", number, len(runs), ", ".join(settings))
        train(one)
        saved = read_config(one.output).provenance.get("validation", {})
        found.append(SweptRun(settings, one.output, ValidationFigures.from_saved(saved)))
    found.sort(key=_decisive, reverse=True)
    _write(run.output / SWEEP_FILE, found)
    return found


def combinations(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """Return ``("lr=1e-4", "noise=0")`` and so on: each value of each setting with each of the others.

    Raises:
        UserError: a text that is not ``name=value,value``, or a setting that is swept twice.
    """
    values: dict[str, list[str]] = {}
    for text in sweeps:
        name, equals, listed = text.partition("=")
        name = name.strip()
        parts = [part.strip() for part in listed.split(",")]
        if not name or not equals or "" in parts:
            raise UserError(f"expected --sweep name=value,value, got {text!r}")
        if name in values:
            raise UserError(f"expected each setting in one --sweep, got {name} twice: put all its values into one")
        values[name] = list(dict.fromkeys(parts))
    return list(itertools.product(*([f"{name}={part}" for part in parts] for name, parts in values.items())))


def table(found: Sequence[SweptRun]) -> list[str]:
    """Return the lines that a person reads: the combinations, best first, in percent."""
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
    """Return the names of the figures that some combination has."""
    return [name for name in FIGURES if any(name in one.figures.measured() for one in found)]


def _decisive(one: SweptRun) -> float:
    decisive = one.figures.decisive()
    return -1.0 if decisive is None else decisive[1]


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
