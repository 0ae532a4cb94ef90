"""The options of the commands: stated once, with the library's own choices, and a help that can be read."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

import cli
from zsl_tagger import choices
from zsl_tagger.bulk.options import TagRun, check_options
from zsl_tagger.errors import UserError


def run(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr."""
    result = CliRunner().invoke(
        cli.app, list(map(str, arguments)), env={"COLUMNS": "80", **environment}, prog_name="zsl-tagger"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (cli.tag, "bulk.options.TagRun"),
        (cli.index, "search.run.IndexRun"),
        (cli.search, "search.run.SearchRun"),
        (cli.suggest, "search.run.SuggestRun"),
        (cli.teach, "teach.run.TeachRun"),
        (cli.serve, "serve.run.ServeRun"),
        (cli.evaluate, "evaluation.run.EvaluateRun"),
        (cli.calibrate, "evaluation.calibrate.CalibrateRun"),
        (cli.import_checkpoint, "released.importer.ImportRun"),
        (cli.export, "export.run.ExportRun"),
        (cli.build_zero_shot, "export.zero_shot.ZeroShotRun"),
    ],
)
def test_a_command_and_its_run_have_the_same_options(command: Callable[..., None], options: str) -> None:
    """With the same defaults, since the command hands on what it was given."""
    pytest.importorskip("torch")
    module, _, name = options.rpartition(".")
    kind: Any = getattr(import_module(f"zsl_tagger.{module}"), name)
    parameters = inspect.signature(command).parameters.values()
    of_command = {
        one.name: dataclasses.MISSING if one.default is inspect.Parameter.empty else one.default for one in parameters
    }
    assert of_command == {field.name: field.default for field in dataclasses.fields(kind)}
    assert kind.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind))


def table_of(place: str) -> Any:
    module, _, name = place.rpartition(".")
    package = "" if module.startswith("data_prep") else "zsl_tagger."
    return getattr(import_module(f"{package}{module}"), name)


@pytest.mark.parametrize(
    ("choice", "places"),
    [
        (choices.Device, ["tagging.devices.DEVICES"]),
        (choices.Format, ["records.writers.WRITERS", "records.writers.LASTING"]),
        (choices.Interpolation, ["images.preprocessing._FILTERS"]),
        (choices.NusWideProtocol, ["data_prep.nus_wide.PROTOCOLS"]),
        (choices.LabelGroup, ["evaluation.data.LABELS"]),
        (choices.Protocol, ["evaluation.protocols.PROTOCOLS"]),
        (choices.Recipe, ["training.recipes.RECIPES"]),
        (choices.ScoreKind, ["evaluation.score_files.KINDS"]),
        (choices.SearchFormat, ["search.run._LINES"]),
        (choices.SuggestFormat, ["search.run._SUGGESTED"]),
        (choices.Sidecar, ["sidecars.run.KINDS"]),
        (choices.Split, ["datasets.format.SPLITS"]),
    ],
)
def test_the_choices_are_those_of_the_library(choice: Any, places: list[str]) -> None:
    pytest.importorskip("torch")
    assert set(get_args(choice)) == {name for place in places for name in table_of(place)}


def test_the_precisions_are_those_of_the_library() -> None:
    pytest.importorskip("onnx")
    assert get_args(choices.Precision) == ("fp32", *table_of("export.precision.CONVERSIONS"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("tag", "x.jpg", "--threshold", "1.5"),
        ("tag", "x.jpg", "--threshold", "-1"),
        ("tag", "x.jpg", "--precision", "2"),
        ("tag", "x.jpg", "--top-k", "0"),
        ("tag", "x.jpg", "--workers", "0"),
        ("tag", "x.jpg", "--format", "xml"),
        ("index", "--workers", "0"),
        ("search", "cat", "--top", "0"),
        ("suggest", "--top", "0"),
        ("suggest", "--least", "0"),
        ("suggest", "--format", "jsonl"),
        ("serve", "--port", "99999"),
        ("serve", "--max-photo-mb", "0"),
        ("train", "--data", "d", "--output", "o", "--recipe", "nus-wide"),
        ("prepare", "nus-wide", "--source", "s", "--output", "o", "--protocol", "x"),
        ("prepare", "coco", "--source", "s", "--output", "o", "--task", "zsl"),
        ("prepare", "mirflickr", "--source", "s", "--output", "o", "--labels", "all"),
        ("prepare", "lvis", "--source", "s", "--output", "o", "--task", "rare"),
        ("prepare", "folders", "--source", "s", "--output", "o", "--missing", "zeros"),
        ("evaluate", "--threshold", "2"),
        ("evaluate", "--k", "0"),
        ("evaluate", "--resamples", "-5"),
        ("evaluate", "--protocol", "voc"),
        ("evaluate", "--classes", "some"),
        ("evaluate", "--kind", "logit"),
        ("evaluate", "--processes", "0"),
        ("calibrate", "--model", "m", "--data", "d", "--split", "dev"),
        ("calibrate", "--model", "m", "--data", "d", "--precision", "1.5"),
        ("import-checkpoint", "x.pth", "--output", "o", "--interpolation", "linear"),
        ("export", "--model", "m", "--precision", "fp8"),
    ],
)
def test_a_value_outside_of_the_range_or_the_choices_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert f"Invalid value for '{arguments[-2]}'" in err


COMMANDS = [name for names in cli.SECTIONS.values() for name in names]


def test_help_groups_every_command_and_cuts_none_short() -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert "zsl-tagger tag holiday" in out
    assert "..." not in out.replace("COMMAND [ARGS]...", "")
    places = [out.index(f"\n{title}:\n") for title in cli.SECTIONS]
    assert places == sorted(places)
    assert re.findall(r"^  ([a-z-]+)  ", out[places[0] :], re.MULTILINE) == COMMANDS
    assert "\nCommands:\n" not in out


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_fits_into_80_columns(command: str | None) -> None:
    status, out, _ = run(*([] if command is None else [command]), "-h")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("zsl-tagger ca", "calibrate"),
        ("zsl-tagger evaluate --protocol mld --protocol st", "strict"),
        ("zsl-tagger tag --side", "--sidecar"),
        ("zsl-tagger tag --sidecar x", "xmp"),
    ],
)
def test_completion_knows_commands_options_and_choices(words: str, expected: str) -> None:
    count = str(len(words.split()) - 1)
    _, out, _ = run(_ZSL_TAGGER_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert expected in out.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--labels", "unseen"), "warning: --labels is now called --classes"),
        (("evaluate", "--labels=unseen"), "warning: --labels is now called --classes"),
        (
            ("import-checkpoint", "gone.pth", "-o", "out", "--labels", "names.txt"),
            "warning: --labels is now called --labels-file",
        ),
        (("export", "--model", "gone", "--images", "photos"), "warning: --images is now called --photos"),
    ],
)
def test_former_names_of_options_are_accepted_with_a_warning(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*arguments)
    warning, error = err.splitlines()
    assert (status, warning) == (2, message)
    assert error.startswith("error: ")
    assert "is now called" not in run(*arguments[:1], *arguments[1:-2])[2]  # the next call has a clean slate


@pytest.mark.parametrize(
    ("command", "former"), [("evaluate", "--labels"), ("import-checkpoint", "--labels"), ("export", "--images")]
)
def test_help_shows_no_former_name(command: str, former: str) -> None:
    assert former not in run(command, "--help")[1].split()


@pytest.mark.parametrize(
    ("option", "meaning"),
    [
        ("--images", "Folder of the images."),
        ("--labels", "Words to look for, e.g."),
        ("--workers", "Images processed in parallel."),
        ("--resume", "Continue the run that wrote --output."),
        ("--overwrite", "Replace what is in --output."),
    ],
)
def test_an_option_means_the_same_in_every_command(option: str, meaning: str) -> None:
    helps = [run(name, "--help")[1] for name in COMMANDS if name != "prepare"]
    shown = [re.search(rf"^  {option} .*\n?.*", text, re.MULTILINE) for text in helps]
    assert any(shown)
    assert all(meaning in " ".join(one[0].split()) for one in shown if one is not None)


def raised(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "expected --threshold in 0..1, got 1.5"),
        ({"threshold": math.nan}, "expected --threshold in 0..1, got nan"),
        ({"top_k": 0}, "expected --top-k of at least 1, got 0"),
        ({"workers": 0}, "expected --workers of at least 1, got 0"),
    ],
)
def test_the_library_checks_ranges_too(options: dict[str, Any], message: str) -> None:
    assert raised(lambda: check_options(TagRun(paths=["x.jpg"], **options))) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2.0}, "expected --threshold in 0..1, got 2.0"),
        ({"threshold": math.nan}, "expected --threshold in 0..1, got nan"),
        ({"ks": (3, 0)}, "expected --k of at least 1, got 3, 0"),
        ({"resamples": -5}, "expected --resamples of 2 or more, or 0 for none, got -5"),
        ({"protocol": "voc"}, "expected --protocol strict, mld"),
    ],
)
def test_evaluate_checks_ranges_too(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("torch")
    from zsl_tagger.evaluation.run import EvaluateRun, evaluate

    assert raised(lambda: evaluate(EvaluateRun(model=Path("m"), data=Path("d"), **options))).startswith(message)


@pytest.mark.parametrize("precision", [0, 1.5, -1, math.nan])
def test_calibrate_checks_ranges_too(precision: float) -> None:
    pytest.importorskip("torch")
    from zsl_tagger.evaluation.calibrate import CalibrateRun, calibrate

    run = CalibrateRun(model=Path("m"), data=Path("d"), precision=precision)
    assert raised(lambda: calibrate(run)) == f"expected --precision above 0 and at most 1, got {precision}"


def test_the_library_checks_choices_too() -> None:
    pytest.importorskip("torch")
    from zsl_tagger.evaluation.data import data_of_dataset
    from zsl_tagger.training.recipes import read_recipe

    assert raised(lambda: data_of_dataset(Path("d"), "dev", None)) == "expected --split train, val, test; got 'dev'"
    hint = "there is no recipe 'nus-wide'; did you mean 'nus-wide-zsl'? The recipes are: my-photos, "
    assert raised(lambda: read_recipe("nus-wide")).startswith(hint)


def test_search_and_serve_check_ranges_too() -> None:
    pytest.importorskip("torch")
    from zsl_tagger.search.run import IndexRun, SearchRun, SuggestRun, run_index, run_search, run_suggest
    from zsl_tagger.serve.run import ServeRun, _limits

    assert raised(lambda: run_search(SearchRun(queries=["cat"], top=0))) == "expected --top of at least 1, got 0"
    assert raised(lambda: run_suggest(SuggestRun(top=0))) == "expected --top of at least 1, got 0"
    assert raised(lambda: run_suggest(SuggestRun(least=0))) == "expected --least of at least 1, got 0"
    assert raised(lambda: run_index(IndexRun(workers=0))) == "expected --workers of at least 1, got 0"
    assert raised(lambda: _limits(ServeRun(port=99999))) == "expected --port in 0..65535, got 99999"
    assert raised(lambda: _limits(ServeRun(workers=0))) == "expected --workers of at least 1, got 0"
    assert raised(lambda: _limits(ServeRun(max_photo_mb=0))) == "expected --max-photo-mb of at least 1, got 0"
