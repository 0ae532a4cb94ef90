"""The ``zsl-tagger`` command: parse, call one function, print. It owns no logic."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

app = typer.Typer(
    help="Zero-shot image tagging: give it photos and any words.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would take 60 ms of every start
    context_settings={"help_option_names": ["-h", "--help"]},
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no notes and no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print what is done in more detail.")]


def _command(group: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command of a group, with ``--quiet`` and ``--verbose`` beside its own options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(quiet: bool, verbose: bool, **options: Any) -> None:
            import logging

            from zsl_tagger.system.messages import show_messages

            show_messages(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
            function(**options)

        signature = inspect.signature(function, eval_str=True)
        common = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for option, kind in (("quiet", Quiet), ("verbose", Verbose))
        ]
        parameters = [*signature.parameters.values(), *common]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        group.command(name)(run)
        return function

    return register


ImageRoot = Annotated[Optional[Path], typer.Option(help="Where the images are. [default: as the data says]")]
ExcludePath = Annotated[
    Optional[list[str]],
    typer.Option(
        help='Leave out files and folders of this name or path, e.g. "raw" or "*_small.jpg"; may be repeated.'
    ),
]
Workers = Annotated[Optional[int], typer.Option(help="Images looked at at a time. [default: one a core, at most 16]")]


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


OnDevice = Annotated[
    Device, typer.Option(help="cuda: an NVIDIA GPU, by onnxruntime-gpu; auto: the GPU where it works, else cpu.")
]


Processes = Annotated[int, typer.Option(help="Processes that share the images. The scores are the same.")]


class Sidecar(str, Enum):
    xmp = "xmp"
    txt = "txt"
    json = "json"


class Format(str, Enum):
    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    sqlite = "sqlite"


def _version(asked: bool) -> None:
    if asked:
        import zsl_tagger

        typer.echo(f"zsl-tagger {zsl_tagger.__version__}")
        raise typer.Exit


class Engine(str, Enum):
    local = "local"
    ray = "ray"


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Zero-shot image tagging: give it photos and any words."""


@_command(app)
def tag(
    paths: Annotated[list[str], typer.Argument(help="Files, folders (recursive), globs; - reads a list from stdin.")],
    labels: Annotated[Optional[str], typer.Option(help='Words to ask, e.g. "dog,beach". [default: packaged]')] = None,
    labels_file: Annotated[
        Optional[Path], typer.Option(help="The same, one a line; # after a space starts a comment.")
    ] = None,
    exclude: Annotated[str, typer.Option(help="Words to leave out, comma-separated.")] = "",
    exclude_path: ExcludePath = None,
    top_k: Annotated[Optional[int], typer.Option(help="At most so many tags an image.")] = None,
    threshold: Annotated[
        Optional[float], typer.Option(help="Least score, 0..1; 0 shows all. [default: each label's own]")
    ] = None,
    format: Annotated[
        Optional[Format], typer.Option(help="How to write the records. [default: by the suffix of --output, or table]")
    ] = None,
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Write to this file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --output: skip what is done.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --output, whatever it holds.")] = False,
    model: Annotated[Optional[Path], typer.Option(help="A model folder. [default: the packaged model]")] = None,
    workers: Annotated[
        Optional[int], typer.Option(help="Images in work at a time. [default: one a core, at most 16]")
    ] = None,
    skip_unknown: Annotated[bool, typer.Option(help="Go on without labels that are not known.")] = False,
    precision: Annotated[
        Optional[float], typer.Option(help="Share of the tags that should be right, e.g. 0.9, by their thresholds.")
    ] = None,
    all_levels: Annotated[
        bool, typer.Option("--all-levels", help="Print parents and synonyms too: animal and mammal beside dog.")
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Ask every label also of more than 20,000.")] = False,
    heatmap: Annotated[
        Optional[Path], typer.Option(help="Write pictures of where each tag was seen to this folder.")
    ] = None,
    sidecar: Annotated[
        Optional[Sidecar], typer.Option(help="Write the tags beside each photo too: photo.jpg.xmp, .txt, .tags.json.")
    ] = None,
    sidecar_stem: Annotated[
        bool, typer.Option("--sidecar-stem", help="New ones are photo.xmp, as Lightroom's.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what --sidecar would do; write nothing.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take back what --sidecar wrote; tag nothing.")] = False,
    engine: Annotated[
        Engine, typer.Option(help="ray: many processes or machines, paths or URLs (s3://...), with Ray Data.")
    ] = Engine.local,
    device: OnDevice = Device.auto,
) -> None:
    """Tag images with any words.

    Exit status: 0 all tagged, 1 some image could not be read, 2 the command cannot be carried out, 130 or 143 stopped
    by a signal.
    """
    from zsl_tagger.bulk.options import TagRun
    from zsl_tagger.bulk.run import run_tagging

    run = TagRun(
        paths=paths,
        labels=labels,
        labels_file=labels_file,
        exclude=exclude,
        exclude_path=exclude_path or (),
        top_k=top_k,
        threshold=threshold,
        format=format.value if format is not None else None,
        output=output,
        resume=resume,
        overwrite=overwrite,
        model=model,
        workers=workers,
        skip_unknown=skip_unknown,
        exact=exact,
        all_levels=all_levels,
        precision=precision,
        heatmap=heatmap,
        sidecar=None if sidecar is None else sidecar.value,
        sidecar_stem=sidecar_stem,
        dry_run=dry_run,
        remove=remove,
        engine=engine.value,
        device=device.value,
    )
    goes_on = "interrupted: what was written so far is complete and readable; with --output, --resume goes on"
    with _told_in_one_line(goes_on):
        failed = run_tagging(run)
    gc.freeze()  # the process ends here: spares it 30 ms of looking for garbage
    raise typer.Exit(1 if failed else 0)


class SearchFormat(str, Enum):
    table = "table"
    json = "json"
    jsonl = "jsonl"


Index = Annotated[Optional[Path], typer.Option(help="The index's folder. [default: in your data folder]")]


@_command(app)
def index(
    paths: Annotated[
        Optional[list[str]], typer.Argument(help="Folders (recursive), files, globs. [default: all indexed before]")
    ] = None,
    index: Index = None,
    model: Annotated[
        Optional[Path], typer.Option(help="A model folder. [default: the index's, else the packaged model]")
    ] = None,
    workers: Workers = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Forget photos also where their folder is empty or not there.")
    ] = False,
    exclude_path: ExcludePath = None,
) -> None:
    """Look at each photo once, so that search finds it by any words; again for what is new, changed or gone.

    Exit status: 0 the index is up to date, 1 some photo could not be read, 2 the command cannot be carried out.
    """
    with _told_in_one_line("interrupted: the photos looked at so far are in the index; the same command goes on"):
        from zsl_tagger.search.run import IndexRun, run_index

        lines, failed = run_index(IndexRun(paths or [], index, model, workers, prune, exclude_path or ()))
        _print(lines)
    raise typer.Exit(1 if failed else 0)


@_command(app)
def search(
    queries: Annotated[
        list[str], typer.Argument(help='Each a search: "red bicycle", "beach, sunset" (both), "snow -dog" (without).')
    ],
    index: Index = None,
    top: Annotated[int, typer.Option(help="At most so many photos a search.")] = 20,
    html: Annotated[Optional[Path], typer.Option(help="Also write a contact sheet to this file.")] = None,
    format: Annotated[SearchFormat, typer.Option(help="How to print what is found.")] = SearchFormat.table,
    model: Annotated[Optional[Path], typer.Option(help="The model folder of the index, if it was moved.")] = None,
) -> None:
    """Rank the photos of an index by any words, best first.

    Exit status: 0 searched, 2 the command cannot be carried out.
    """
    with _told_in_one_line("interrupted"):
        from zsl_tagger.search.run import SearchRun, run_search

        _print(run_search(SearchRun(queries, index, top, html, format.value, model)))
    gc.freeze()  # as tag does


@_command(app)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    model: Annotated[Optional[Path], typer.Option(help="A model folder. [default: the packaged model]")] = None,
    workers: Annotated[
        Optional[int], typer.Option(help="Photos in work at a time. [default: one a core, at most 16]")
    ] = None,
    queue: Annotated[int, typer.Option(help="Photos that may wait; more are told to come again later.")] = 64,
    max_photo_mb: Annotated[int, typer.Option(help="Size of a photo in MB; a request may have twice as much.")] = 32,
    allow_host: Annotated[
        Optional[list[str]], typer.Option(help="A name by which it is called, may be repeated.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a web page and a JSON API that tag photos. Nothing is stored, nothing leaves this machine.

    Exit status: 0 ended by SIGTERM, 130 by Ctrl-C, 2 it cannot be carried out.
    """
    with _told_in_one_line("stopped"):
        from zsl_tagger.serve.run import ServeRun
        from zsl_tagger.serve.run import serve as run

        options = ServeRun(host, port, model, workers, allow_host or (), max_photo_mb, queue, open_)
        run(options, say=lambda line: _print([line]))


@_command(app)
def train(
    data: Annotated[Path, typer.Option(help="A prepared data set folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model folder to write.")],
    recipe: Annotated[
        Optional[str],
        typer.Option(
            help="my-photos, nus-wide-zsl, nus-wide-zsl-augmented, coco-zsl, coco-multilabel, coco-multilabel-xl, "
            "imagenet-a2, cifar100, stanford-cars. [default: my-photos]"
        ),
    ] = None,
    backbone: Annotated[Optional[str], typer.Option(help="Any timm model. [default: the recipe's]")] = None,
    init: Annotated[
        Optional[str],
        typer.Option(help="timm, scratch, packaged, a model folder, or a file of weights. [default: the recipe's]"),
    ] = None,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", help="name=value of any setting, may be repeated.")
    ] = None,
    config: Annotated[
        Optional[Path], typer.Option(help="train_config.json of another run, in place of a recipe.")
    ] = None,
    images: ImageRoot = None,
    cache: Annotated[
        Optional[Path], typer.Option(help="Keep features of a frozen backbone here for other runs.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew in the output folder.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the settings, their meaning and what the recipe has; train nothing.")
    ] = False,
) -> None:
    """Train a tagger on a prepared data set; the folder it writes is for tag --model.

    Exit status: 0 trained, 2 the command cannot be carried out, 130 or 143 stopped by a signal and saved.
    """
    with _told_in_one_line("interrupted before training began: the same command starts again"):
        from zsl_tagger.training.run import TrainRun, resolve_config

        settings = resolve_config(recipe, backbone, init, set_ or [], config)
        if show:
            from zsl_tagger.training.show import show as shown

            return _print(shown(settings))
        from zsl_tagger.training.checkpoint import Stopped
        from zsl_tagger.training.run import summary
        from zsl_tagger.training.run import train as run

        options = TrainRun(data, output, settings, images, cache, resume, overwrite)
        try:
            _print(summary(run(options), output))
        except Stopped as stopped:
            typer.echo(f"stopped: step {stopped.step:,} is saved; the same command with --resume goes on", err=True)
            raise typer.Exit(128 + stopped.signal) from None


@_command(app)
def evaluate(
    model: Annotated[Optional[Path], typer.Option(help="A model folder, or packaged.")] = None,
    scores: Annotated[
        Optional[Path], typer.Option(help="Or anybody's scores, .npz, .csv or .parquet, and no model.")
    ] = None,
    data: Annotated[Optional[Path], typer.Option(help="A prepared data set folder.")] = None,
    targets: Annotated[
        Optional[Path], typer.Option(help="Or the truth as a file: 1, 0, and empty for unknown.")
    ] = None,
    unseen_file: Annotated[
        Optional[Path], typer.Option(help="With --targets: names of the unseen labels, one a line.")
    ] = None,
    kind: Annotated[
        Optional[str], typer.Option(help="What --scores holds, logits or probabilities. [default: as it says]")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="strict, or as the code of a paper computes: mld, lesa, biam, lesa-openimages, biam-openimages."
        ),
    ] = "strict",
    split: Annotated[str, typer.Option(help="Of the data set: train, val or test.")] = "test",
    labels: Annotated[str, typer.Option(help="unseen (ZSL), seen, or all (both, and GZSL).")] = "all",
    k: Annotated[
        Optional[list[int]], typer.Option(help="K of P/R/F1@K, may be repeated. [default: 3, 5; OpenImages 10, 20]")
    ] = None,
    threshold: Annotated[Optional[float], typer.Option(help="0..1, of every label. [default: the model's own]")] = None,
    against: Annotated[
        Optional[Path], typer.Option(help="Another model folder or scores file: paired comparison.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Of the images, for the 95 % intervals; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    output: Annotated[Optional[Path], typer.Option("--output", "-o", help="Write the report to this folder.")] = None,
    images: ImageRoot = None,
    force: Annotated[bool, typer.Option("--force", help="Also where the model was trained on unseen labels.")] = False,
    workers: Workers = None,
    processes: Processes = 1,
    device: OnDevice = Device.auto,
) -> None:
    """Say how good a model, or anybody's scores, are: mAP, F1@K, seen and unseen, under a named protocol.

    Exit status: 0 evaluated, 2 the command cannot be carried out.
    """
    goes_on = "interrupted: with --output, the same command goes on where it stopped"
    with _told_in_one_line(goes_on):
        from zsl_tagger.evaluation.processes import Compute
        from zsl_tagger.evaluation.run import EvaluateRun
        from zsl_tagger.evaluation.run import evaluate as run

        ks = tuple(k) if k else None
        options = EvaluateRun(
            model, data, scores, targets, unseen_file, kind, protocol, split, labels, ks, threshold, against,
            resamples, seed, output, images, force, Compute(workers, processes, device.value),
        )  # fmt: skip
        _print(run(options).lines)


@_command(app)
def calibrate(
    model: Annotated[Path, typer.Option(help="A model folder, or packaged.")],
    data: Annotated[Path, typer.Option(help="A prepared data set folder.")],
    output: Annotated[
        Optional[Path],
        typer.Option("--output", "-o", help="Write the calibrated model to this folder. [default: the model's own]"),
    ] = None,
    split: Annotated[str, typer.Option(help="On which images: val, train or test.")] = "val",
    precision: Annotated[
        Optional[float], typer.Option(help="Share of a label's tags to be right, 0..1. [default: the best F1]")
    ] = None,
    images: ImageRoot = None,
    workers: Workers = None,
    processes: Processes = 1,
    device: OnDevice = Device.auto,
) -> None:
    """Choose each label's threshold on validation images, and what labels never trained need.

    Exit status: 0 stored in the model folder, 2 the command cannot be carried out.
    """
    with _told_in_one_line("interrupted: the model folder is as it was"):
        from zsl_tagger.evaluation.calibrate import CalibrateRun
        from zsl_tagger.evaluation.calibrate import calibrate as run
        from zsl_tagger.evaluation.processes import Compute

        compute = Compute(workers, processes, device.value)
        _print(run(CalibrateRun(model, data, split, precision, images, compute, output)))


class Interpolation(str, Enum):
    bicubic = "bicubic"
    bilinear = "bilinear"


@_command(app, "import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A released or timm ML-Decoder checkpoint: .pth, .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model folder to write.")],
    backbone: Annotated[
        Optional[str], typer.Option(help="The timm model it was trained on. [default: by its tensors]")
    ] = None,
    labels: Annotated[
        Optional[Path],
        typer.Option(help="Names of its classes in order, or words to ask, one a line. [default: its idx_to_class]"),
    ] = None,
    word_vectors: Annotated[
        Optional[str], typer.Option(help="Of word queries: gensim:NAME or FILE, st:NAME or FOLDER, file:FILE.pth.")
    ] = None,
    image_size: Annotated[
        Optional[int], typer.Option(min=1, help="Side in pixels. [default: 448 for TResNet, else timm's]")
    ] = None,
    crop_pct: Annotated[
        Optional[float], typer.Option(help="It saw the middle of its images, so much of the side, e.g. 0.95.")
    ] = None,
    interpolation: Annotated[
        Interpolation, typer.Option(help="With which its images were resized.")
    ] = Interpolation.bicubic,
) -> None:
    """Bring a released ML-Decoder checkpoint into a model folder, for tag --model.

    Exit status: 0 every tensor has its place, 2 the command cannot be carried out and nothing was written.
    """
    with _told_in_one_line("interrupted: nothing was written"):
        from zsl_tagger.released.importer import ImportRun
        from zsl_tagger.released.importer import import_checkpoint as run

        options = ImportRun(
            file, output, backbone, labels, word_vectors, image_size, _print, crop_pct, interpolation.value
        )
        _print(run(options))


class Precision(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


@_command(app)
def export(
    model: Annotated[Path, typer.Option(help="A model folder that train wrote, or packaged.")],
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="The model folder to write. [default: the model's own]")
    ] = None,
    images: Annotated[
        Optional[list[Path]], typer.Option(help="Photos to compare on, or a folder; may be repeated.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="fp16: half the size; int8: linear layers in 8 bits.")
    ] = Precision.fp32,
    bake_words: Annotated[
        Optional[str],
        typer.Option(help="Also make these words known: a file, one a line, or packaged (100,000 words)."),
    ] = None,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="Write encoder.pt2, decoder.pt2 too.")] = False,
) -> None:
    """Export a model's weights to ONNX, prove that it computes the same as torch, and say how large and how fast it is.

    Exit status: 0 exported, 2 it cannot be done or the proof failed: the folder is as it was.
    """
    with _told_in_one_line("interrupted: the model folder is as it was"):
        from zsl_tagger.export.run import ExportRun
        from zsl_tagger.export.run import export as run

        _print(run(ExportRun(model, output, images or [], precision.value, bake_words, torch_export)))


prepare = typer.Typer(
    help="Build a data set folder to train and evaluate on.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(prepare, name="prepare")

Source = Annotated[Path, typer.Option(help="Where the raw data lies.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")]
WordVectors = Annotated[
    str, typer.Option(help="packaged, gensim:NAME or FILE, st:NAME or FOLDER, file:wordvec_array.pth.")
]
Missing = Annotated[str, typer.Option(help="Labels without a vector: error, drop, or random (a random vector).")]
NoNormalize = Annotated[bool, typer.Option("--no-normalize", help="Keep the lengths of the vectors.")]
Unseen = Annotated[str, typer.Option(help='Labels training shall not see: "cat,dog", a number, or "25%".')]
KeepUnlabelled = Annotated[bool, typer.Option("--keep-unlabelled", help="Keep images without any label.")]


def _prepare_options(
    word_vectors: WordVectors = "packaged",
    missing: Missing = "error",
    no_normalize: NoNormalize = False,
    skip_images: Annotated[bool, typer.Option("--skip-images", help="Don't open the image files.")] = False,
    val_fraction: Annotated[
        float, typer.Option(help="Share of the images for validation, where none is given; 0: none.")
    ] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Share of the images for test, where no split is given.")] = 0.2,
    train_per_class: Annotated[Optional[int], typer.Option(help="So many training images a class.")] = None,
    released_splits: Annotated[
        bool,
        typer.Option(
            "--released-splits",
            help="Also write released/, with the splits under the released code's names: test is val.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another data set in the folder.")] = False,
) -> Any:
    """Return the options that the commands of all data sets share; each is stated here only."""
    from data_prep.pipeline import Options

    return Options(
        word_vectors=word_vectors,
        missing=missing,
        normalize=not no_normalize,
        skip_images=skip_images,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        train_per_class=train_per_class,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
        released_splits=released_splits,
    )


def _prepares(
    name: str, without: dict[str, Any], **defaults: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that returns a source as the command that prepares it, with the shared options.

    Args:
        without: shared options that this command does not have, with the values that take their place.
        defaults: shared options that have another default here.
    """
    shared = {
        option.name: option.replace(default=defaults.get(option.name, option.default))
        for option in inspect.signature(_prepare_options, eval_str=True).parameters.values()
        if option.name not in without
    }

    def register(source_of: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(source_of)
        def run(output: Path, **given: Any) -> None:
            with _told_in_one_line(_GOES_ON):
                from data_prep.pipeline import prepare, summary

                options = _prepare_options(**without, **{option: given.pop(option) for option in shared})
                _print(summary(prepare(source_of(**given), output, options), output))

        source, *own = inspect.signature(source_of, eval_str=True).parameters.values()
        output = source.replace(name="output", annotation=Output)
        run.__signature__ = inspect.Signature([source, output, *own, *shared.values()])  # type: ignore[attr-defined]
        _command(prepare, name)(run)
        return source_of

    return register


#: Shared options that a data set with official splits does not have, and one of the user's own, with their values.
_OFFICIAL_SPLITS = {"test_fraction": 0.0, "train_per_class": None}
_OWN_DATA = {"released_splits": False}


@_prepares("nus-wide", without=_OFFICIAL_SPLITS, missing="random")
def prepare_nus_wide(
    source: Source,
    protocol: Annotated[
        str, typer.Option(help="mld: train images show a seen, test images an unseen label; lesa: all are kept.")
    ] = "mld",
    allow_subset: Annotated[bool, typer.Option("--allow-subset", help="Accept other counts than the papers'.")] = False,
) -> Any:
    """NUS-WIDE 925/81 from the raw archives: data.csv, benchmark_81_v0.json, wordvec_array.pth."""
    from data_prep.nus_wide import NusWide

    return NusWide(source=source, protocol=protocol, allow_subset=allow_subset)


@_prepares("coco", without=_OFFICIAL_SPLITS)
def prepare_coco(
    source: Source,
    task: Annotated[str, typer.Option(help="multi-label, zsl-48-17 or zsl-65-15.")] = "multi-label",
    year: Annotated[Optional[int], typer.Option(help="2014 or 2017. [default: the one that is there]")] = None,
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """MS-COCO 2014 or 2017: all 80 classes, or with unseen ones."""
    from data_prep.coco import Coco

    return Coco(source=source, task=task, year=year, keep_unlabelled=keep_unlabelled)


@_prepares("folders", without=_OWN_DATA)
def prepare_folders(
    source: Source,
    task: Annotated[str, typer.Option(help="single-label, or multi-label (the class as the one known tag).")] = (
        "single-label"
    ),
    unseen: Unseen = "",
    exclude_path: ExcludePath = None,
) -> Any:
    """A folder for each class: ImageNet, CIFAR-100, Stanford-Cars, Caltech-101, your own."""
    from data_prep.folders import Folders

    return Folders(source=source, task=task, unseen=unseen, exclude_path=exclude_path or ())


@_prepares("table", without={**_OWN_DATA, "train_per_class": None})
def prepare_table(
    source: Source,
    images: Annotated[Optional[Path], typer.Option(help="Where the paths start. [default: the table's folder]")] = None,
    path_column: Annotated[str, typer.Option(help="Column of the image paths.")] = "path",
    tags_column: Annotated[str, typer.Option(help="Column of the tags.")] = "tags",
    split_column: Annotated[Optional[str], typer.Option(help="Column with train, val or test.")] = None,
    separator: Annotated[str, typer.Option(help="Between the tags of a cell.")] = ",",
    delimiter: Annotated[Optional[str], typer.Option(help="Between columns. [default: read off the header]")] = None,
    unseen: Unseen = "",
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """A CSV or Parquet table of your own, with a column of paths and a column of tags."""
    from data_prep.tables import Columns, Table

    columns = Columns(path=path_column, tags=tags_column, split=split_column, separator=separator, delimiter=delimiter)
    return Table(source=source, image_root=images, unseen=unseen, columns=columns, keep_unlabelled=keep_unlabelled)


@_command(prepare, "wordvecs")
def prepare_wordvecs(
    labels: Annotated[Path, typer.Option(help="Label names, one a line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .pth file to write.")] = Path("wordvec_array.pth"),
    word_vectors: WordVectors = "packaged",
    missing: Missing = "error",
    no_normalize: NoNormalize = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Label names to word vectors: a tensor (word_dim, labels) in sorted-name order, and how each was found."""
    with _told_in_one_line(_GOES_ON):
        from data_prep.wordvecs import prepare_wordvecs as run

        vectors = run(labels, word_vectors, output, missing=missing, normalize=not no_normalize, overwrite=overwrite)
        _print(vectors.summary(output))


@_command(prepare, "report")
def prepare_report(
    folder: Annotated[Path, typer.Argument(help="A prepared data set folder.")],
    images: Annotated[Optional[Path], typer.Option(help="Where the images are. [default: as it says]")] = None,
) -> None:
    """Write the split report of a prepared folder anew: leaks, twins, near-duplicates, counts."""
    with _told_in_one_line(_GOES_ON):
        from data_prep.report import REPORT_PAGE, report_on

        report_on(folder, images)
        _print([f"written: {folder / REPORT_PAGE}"])


@_command(prepare, "check")
def prepare_check(
    folder: Annotated[Path, typer.Argument(help="A prepared data set folder, also one from elsewhere.")],
    images: Annotated[Optional[Path], typer.Option(help="Look for the images below this folder too.")] = None,
) -> None:
    """Say whether a prepared folder is sound, and what is wrong where.

    Exit status: 0 sound (there may be warnings), 1 there are errors.
    """
    with _told_in_one_line(_GOES_ON):
        from zsl_tagger.datasets.read import read_dataset, summary

        dataset, problems = read_dataset(folder, images)
        _print(summary(folder, dataset, problems))
    raise typer.Exit(0 if dataset is not None else 1)


_GOES_ON = "interrupted: no file was left half-written; the same command goes on where it stopped"


def _print(lines: list[str]) -> None:
    from zsl_tagger.system.untrusted_text import printable

    if hasattr(sys.stdout, "reconfigure"):  # a path that is not UTF-8 must not end the run
        sys.stdout.reconfigure(errors="backslashreplace")
    for line in lines:
        typer.echo(printable(line))


@contextmanager
def _told_in_one_line(interrupted: str) -> Iterator[None]:
    """What a user can put right ends the command with one line on stderr, not with a traceback."""
    from zsl_tagger.errors import UserError
    from zsl_tagger.system.messages import say
    from zsl_tagger.system.signals import Terminated, second_interrupt_ends

    try:
        with second_interrupt_ends():
            yield
    except UserError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        raise typer.Exit(0) from None
    except OSError as error:
        what = f"{error.filename}" if error.filename else "cannot write the output"
        say(f"error: {what}: {error.strerror or error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt as stop:
        typer.echo(interrupted, err=True)
        raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


if __name__ == "__main__":
    app()
