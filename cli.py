"""The ``zsl-tagger`` command: parse, call one function, print. It owns no logic."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from zsl_tagger import choices

#: The commands in the order of ``zsl-tagger --help``.
SECTIONS = {
    "Photos": ("tag", "index", "search", "suggest", "teach", "serve"),
    "Research": ("prepare", "train", "evaluate", "calibrate"),
    "Engineering": ("export", "import-checkpoint", "build-zero-shot"),
}


class _Sections(TyperGroup):
    """Command group whose help has a section per use and shows every description in full."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # typer has its own click, or the installed one
        rows = {name: self.commands[name].get_short_help_str(limit=1000) for name in self.list_commands(ctx)}
        sections = {title: [name for name in names if name in rows] for title, names in SECTIONS.items()}
        sections["Commands"] = [name for name in rows if not any(name in names for names in sections.values())]
        for title, names in sections.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, rows[name]) for name in names])


app = typer.Typer(
    cls=_Sections,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would take 60 ms of every start
    context_settings={"help_option_names": ["-h", "--help"]},
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more details.")]


def _command(
    group: typer.Typer, name: str | None = None, **renamed: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command of a group and add ``--quiet`` and ``--verbose`` to its options.

    Args:
        renamed: former option names and their current names. They are accepted with a warning and do not appear
            in the help.
    """
    former: list[str] = []  # former names used in this call

    def current_name(option: str) -> str:
        if option in renamed:
            former.append(option)
        return renamed.get(option, option)

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(quiet: bool, verbose: bool, **options: Any) -> None:
            import logging

            from zsl_tagger.system.messages import show_messages

            show_messages(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
            while former:
                option = former.pop()
                logging.getLogger("zsl_tagger").warning("--%s is now called --%s", option, renamed[option])
            function(**options)

        signature = inspect.signature(function, eval_str=True)
        common = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for option, kind in (("quiet", Quiet), ("verbose", Verbose))
        ]
        parameters = [*signature.parameters.values(), *common]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        group.command(name, context_settings={"token_normalize_func": current_name} if renamed else None)(run)
        return function

    return register


# Options that several commands share.
_model = typer.Option(help='A model folder, "packaged" for the packaged model, or hf:USER/MODEL[@REVISION].')
Model = Annotated[Path, _model]
ModelOrPackaged = Annotated[
    Path | None,
    typer.Option(help='A model folder, "packaged", or hf:USER/MODEL[@REVISION]. [default: the packaged model]'),
]
IndexModel = Annotated[
    Path | None,
    typer.Option(help="The model of the index. [default: the one it was made with; packaged for a new index]"),
]
_data = typer.Option(help="A prepared data set folder.")
DataFolder = Annotated[Path, _data]
NewModel = Annotated[Path, typer.Option("--output", "-o", help="Write the model to this folder.")]
NewOrSameModel = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the model to this folder. [default: the folder of --model]"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that wrote --output.")]
OverwriteOutput = Annotated[bool, typer.Option("--overwrite", help="Replace what is in --output.")]
ImageRoot = Annotated[Path | None, typer.Option(help="Folder of the images. [default: as recorded in the data]")]
ExcludePath = Annotated[
    list[str] | None,
    typer.Option(help='Skip files and folders with this name or path, e.g. "raw" or "*_small.jpg"; may be repeated.'),
]
Index = Annotated[Path | None, typer.Option(help="Folder of the index. [default: in your data folder]")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Images processed in parallel. [default: one per core, at most 16]")
]
Processes = Annotated[int, typer.Option(min=1, help="Processes to split the images across; the scores do not change.")]
Device = Annotated[
    choices.Device,
    typer.Option(help="cuda: an NVIDIA GPU, with onnxruntime-gpu; auto: the GPU if it works, otherwise cpu."),
]
Engine = Annotated[
    choices.Engine,
    typer.Option(help="ray: work on many processes or machines with Ray Data; all see the photos under the same path."),
]
Threshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Minimum score of a tag; 0 keeps every label. [default: each label's own]"),
]


def _version(requested: bool) -> None:
    if requested:
        import zsl_tagger

        typer.echo(f"zsl-tagger {zsl_tagger.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Zero-shot image tagging: give it photos and any words.

    \b
    Example:
      zsl-tagger tag holiday --labels "dog, beach, sunset" --output tags.csv
    """


@_command(app)
def tag(
    paths: Annotated[
        list[str], typer.Argument(help="Files, folders (recursive), globs or URLs; - reads a list from stdin.")
    ],
    labels: Annotated[str | None, typer.Option(help='Words to look for, e.g. "dog,beach". [default: packaged]')] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="File of words to look for, one per line; # after a space starts a comment.")
    ] = None,
    exclude: Annotated[str, typer.Option(help="Words to exclude, comma-separated.")] = "",
    exclude_path: ExcludePath = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Maximum number of tags per image.")] = None,
    threshold: Threshold = None,
    format: Annotated[
        choices.Format | None,
        typer.Option(help="Output format. [default: from the suffix of --output, otherwise table]"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the results to this file.")] = None,
    resume: Resume = False,
    overwrite: OverwriteOutput = False,
    model: ModelOrPackaged = None,
    workers: Workers = None,
    skip_unknown: Annotated[bool, typer.Option(help="Skip unknown labels instead of stopping.")] = False,
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the tags that should be correct, e.g. 0.9; sets the thresholds."),
    ] = None,
    all_levels: Annotated[
        bool, typer.Option("--all-levels", help="Print parents and synonyms too: animal and mammal as well as dog.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Score every label: no shortlist of more than 20,000, no prefilter.")
    ] = False,
    heatmap: Annotated[
        Path | None, typer.Option(help="Write heat maps that show where each tag was seen to this folder.")
    ] = None,
    sidecar: Annotated[
        choices.Sidecar | None,
        typer.Option(help="Also write the tags next to each photo: photo.jpg.xmp, .txt or .tags.json."),
    ] = None,
    sidecar_stem: Annotated[
        bool, typer.Option("--sidecar-stem", help="Name new XMP sidecars photo.xmp, as Lightroom does.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what --sidecar would do without writing anything.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what --sidecar wrote; tag nothing.")] = False,
    engine: Annotated[
        choices.Engine,
        typer.Option(help="ray: tag on many processes or machines with Ray Data, from paths or URLs (s3://...)."),
    ] = "local",
    device: Device = "auto",
) -> None:
    """Tag images with any words.

    Exit status: 0 all images tagged, 1 some images could not be read, 2 the command could not run, 130 or 143 stopped
    by a signal.
    """
    options = dict(locals())
    from zsl_tagger.bulk.options import TagRun
    from zsl_tagger.bulk.run import run_tagging

    interrupted = (
        "interrupted: everything written so far is complete and readable; with --output, add --resume to continue"
    )
    with _errors_in_one_line(interrupted):
        failed = run_tagging(TagRun(**options))
    gc.freeze()  # the process ends here: skip 30 ms of garbage collection
    raise typer.Exit(1 if failed else 0)


@_command(app)
def index(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Folders (recursive), files or globs. [default: everything indexed before]"),
    ] = None,
    index: Index = None,
    model: IndexModel = None,
    workers: Workers = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove photos whose folder is empty or missing.")
    ] = False,
    exclude_path: ExcludePath = None,
    engine: Engine = "local",
) -> None:
    """Index photos so that search finds them by any words; run it again for new, changed and deleted photos.

    Exit status: 0 the index is up to date, 1 some photos could not be read, 2 the command could not run.
    """
    options = dict(locals())
    with _errors_in_one_line(
        "interrupted: the photos processed so far are in the index; run the same command again to continue"
    ):
        from zsl_tagger.search.run import IndexRun, run_index

        lines, failed = run_index(IndexRun(**options))
        _print(lines)
    raise typer.Exit(1 if failed else 0)


@_command(app)
def search(
    queries: Annotated[
        list[str], typer.Argument(help='One search each: "red bicycle", "beach, sunset" (both), "snow -dog" (without).')
    ],
    index: Index = None,
    top: Annotated[int, typer.Option(min=1, help="Maximum number of photos per search.")] = 20,
    html: Annotated[Path | None, typer.Option(help="Also write a contact sheet to this file.")] = None,
    format: Annotated[choices.SearchFormat, typer.Option(help="Output format.")] = "table",
    model: IndexModel = None,
) -> None:
    """Rank the photos of an index by any words, best first.

    Exit status: 0 searched, 2 the command could not run.
    """
    options = dict(locals())
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's products are small: more threads only wait for another
    with _errors_in_one_line("interrupted"):
        from zsl_tagger.search.run import SearchRun, run_search

        _print(run_search(SearchRun(**options)))
    gc.freeze()  # as tag does


@_command(app)
def suggest(
    index: Index = None,
    top: Annotated[int, typer.Option(min=1, help="Maximum length of each list.")] = 10,
    least: Annotated[int, typer.Option(min=1, help="Minimum number of photos that show a word.")] = 3,
    format: Annotated[choices.SuggestFormat, typer.Option(help="Output format.")] = "table",
    model: IndexModel = None,
) -> None:
    """List photos without a tag, near-duplicates, and words worth adding as tags.

    Works from an index: nothing is written and no photo is opened.

    \b
    Example:
      zsl-tagger suggest --top 20

    Exit status: 0 done, 2 the command could not run.
    """
    options = dict(locals())
    with _errors_in_one_line("interrupted"):
        from zsl_tagger.search.run import SuggestRun, run_suggest

        _print(run_suggest(SuggestRun(**options)))
    gc.freeze()  # as tag does


@_command(app)
def teach(
    name: Annotated[str | None, typer.Argument(help='The tag, one or more words: "our cat".')] = None,
    photos: Annotated[
        list[str] | None,
        typer.Argument(help="3 to 20 photos that show it, or a folder of them. [default: the ones it was taught with]"),
    ] = None,
    negatives: Annotated[
        list[str] | None,
        typer.Option("--not", help="A photo (or folder) that looks similar but does not show it; may be repeated."),
    ] = None,
    like: Annotated[str | None, typer.Option(help="A known word with a similar meaning, e.g. cat.")] = None,
    new: Annotated[
        bool, typer.Option("--new", help='If NAME is a known word, keep it and teach "NAME (taught)" instead.')
    ] = False,
    model: IndexModel = None,
    index: Index = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a contact sheet of the photos that would get it.")
    ] = None,
    list_tags: Annotated[bool, typer.Option("--list", help="List the taught tags.")] = False,
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Forget a tag.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write all taught tags, or only NAME, to this file.")] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", help="Add the tags from a file that --export wrote.")
    ] = None,
    from_library: Annotated[
        Path | None, typer.Option(help="Teach every keyword of the photos in this folder (XMP or IPTC).")
    ] = None,
    least: Annotated[int, typer.Option(min=3, help="Minimum number of photos per keyword, with --from-library.")] = 5,
) -> None:
    """Teach a tag from a few photos; from then on it works like any other word.

    Photos for an existing tag are added to the ones it has. If there is an index, its photos serve as examples
    without the tag, and the command reports how many of them would get it.

    \b
    Example:
      zsl-tagger teach "our cat" cat1.jpg cat2.jpg cat3.jpg --not other_cat.jpg

    Exit status: 0 done, 2 the command could not run and nothing was changed.
    """
    options = dict(locals())
    with _errors_in_one_line("interrupted: nothing was changed"):
        from zsl_tagger.teach.run import TeachRun, run_teach

        _print(run_teach(TeachRun(**options)))


@_command(app)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    library: Annotated[
        Path | None,
        typer.Option(metavar="INDEX", help="Also review the photos of this index (zsl-tagger index) in the page."),
    ] = None,
    model: ModelOrPackaged = None,
    workers: Workers = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Photos that may wait; further requests are refused until there is room.")
    ] = 64,
    max_photo_mb: Annotated[
        int, typer.Option(min=1, help="Maximum size of a photo in MB; a request may be twice as large.")
    ] = 32,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another host name that browsers may use; may be repeated.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a web page and a JSON API that tag photos. Photos sent to it are not stored, nothing leaves this machine.

    With --library, also search an index, mark photos yes or no, teach tags from the marks, and write sidecars.

    Exit status: 0 stopped by SIGTERM, 130 stopped by Ctrl-C, 2 the command could not run.
    """
    options = dict(locals())
    with _errors_in_one_line("stopped"):
        from zsl_tagger.serve.run import ServeRun
        from zsl_tagger.serve.run import serve as run

        run(ServeRun(**options), show=lambda line: _print([line]))


@_command(app)
def train(
    data: Annotated[Path | None, typer.Option(help="A prepared data set folder. Needed without --show.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the model to this folder. Needed without --show.")
    ] = None,
    recipe: Annotated[
        choices.Recipe | None,
        typer.Option(metavar="NAME", help=f"{', '.join(get_args(choices.Recipe))}. [default: my-photos]"),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm model. [default: the recipe's]")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="timm, scratch, packaged, a model folder, or a weights file. [default: the recipe's]"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="name=value for any setting; may be repeated. --show lists them.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="train_config.json of another run, instead of a recipe.")] = None,
    images: ImageRoot = None,
    cache: Annotated[
        Path | None, typer.Option(help="Cache the features of a frozen backbone in this folder for other runs.")
    ] = None,
    resume: Resume = False,
    overwrite: OverwriteOutput = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the settings, their meaning and the recipe's values; train nothing.")
    ] = False,
    sweeps: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="name=a,b,c for a setting: train every combination and compare; may be repeated."),
    ] = None,
) -> None:
    """Train a tagger on a prepared data set; use the folder it writes with tag --model.

    Exit status: 0 trained, 2 the command could not run, 130 or 143 stopped by a signal and saved.
    """
    with _errors_in_one_line("interrupted before training began: run the same command again"):
        from zsl_tagger.training.run import TrainRun, resolve_config

        resolved = resolve_config(recipe=recipe, backbone=backbone, init=init, settings=settings or (), file=config)
        if show:
            from zsl_tagger.training.show import show as settings_page

            return _print(settings_page(resolved))
        if data is None or output is None:
            from zsl_tagger.errors import UserError

            raise UserError("expected --data FOLDER and --output FOLDER; only --show needs neither")
        from zsl_tagger.training.checkpoint import Stopped
        from zsl_tagger.training.run import summary
        from zsl_tagger.training.run import train as run

        options = TrainRun(
            data=data, output=output, config=resolved, images=images, cache=cache, resume=resume, overwrite=overwrite
        )
        try:
            if sweeps:
                from zsl_tagger.training.sweep import sweep, table

                return _print(table(sweep(options, sweeps)))
            _print(summary(run(options), output))
        except Stopped as stopped:
            typer.echo(
                f"stopped: step {stopped.step:,} is saved; run the same command with --resume to continue", err=True
            )
            raise typer.Exit(128 + stopped.signal) from None


@_command(app, labels="classes")
def evaluate(
    model: Annotated[Path | None, _model] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Scores from any other tool, .npz, .csv or .parquet, instead of a model.")
    ] = None,
    data: Annotated[Path | None, _data] = None,
    targets: Annotated[
        Path | None, typer.Option(help="File of true labels, instead of --data: 1, 0, or empty for unknown.")
    ] = None,
    unseen: Annotated[
        Path | None, typer.Option("--unseen-file", help="With --targets: names of the unseen labels, one per line.")
    ] = None,
    kind: Annotated[
        choices.ScoreKind | None, typer.Option(help="Unit of --scores. [default: as recorded in the file]")
    ] = None,
    protocol: Annotated[
        choices.Protocol, typer.Option(help="strict, or a paper's released evaluation code.")
    ] = "strict",
    split: Annotated[choices.Split, typer.Option(help="Split of the data set.")] = "test",
    labels: Annotated[
        choices.LabelGroup,
        typer.Option("--classes", help="Labels to evaluate: unseen (ZSL), seen, or all (both, plus GZSL)."),
    ] = "all",
    ks: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="K of P/R/F1@K; may be repeated. [default: 3, 5; OpenImages 10, 20]"),
    ] = None,
    threshold: Threshold = None,
    against: Annotated[Path | None, typer.Option(help="Another model folder or scores file to compare with.")] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Bootstrap resamples of the images for the 95 % intervals; 0: none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the report to this folder.")] = None,
    images: ImageRoot = None,
    force: Annotated[
        bool, typer.Option("--force", help="Evaluate even if the model was trained on unseen labels.")
    ] = False,
    workers: Workers = None,
    processes: Processes = 1,
    device: Device = "auto",
    engine: Engine = "local",
) -> None:
    """Evaluate a model, or scores from any tool: mAP, F1@K, seen and unseen, under a named protocol.

    Exit status: 0 evaluated, 2 the command could not run.
    """
    options = dict(locals())
    interrupted = "interrupted: with --output, run the same command again to continue where it stopped"
    with _errors_in_one_line(interrupted):
        from zsl_tagger.evaluation.run import EvaluateRun
        from zsl_tagger.evaluation.run import evaluate as run

        _print(run(EvaluateRun(**options)).lines)


@_command(app)
def calibrate(
    model: Model,
    data: DataFolder,
    output: NewOrSameModel = None,
    split: Annotated[choices.Split, typer.Option(help="Split of the data set.")] = "val",
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of each label's tags that should be correct. [default: the best F1]"),
    ] = None,
    images: ImageRoot = None,
    workers: Workers = None,
    processes: Processes = 1,
    device: Device = "auto",
    engine: Engine = "local",
) -> None:
    """Choose each label's threshold on validation images, and the bias of untrained labels.

    Exit status: 0 stored in the model folder, 2 the command could not run.
    """
    options = dict(locals())
    with _errors_in_one_line("interrupted: the model folder is unchanged"):
        from zsl_tagger.evaluation.calibrate import CalibrateRun
        from zsl_tagger.evaluation.calibrate import calibrate as run

        _print(run(CalibrateRun(**options)))


@_command(app, "import-checkpoint", labels="labels-file")
def import_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="A released or timm ML-Decoder checkpoint: .pth, .safetensors.")
    ],
    output: NewModel,
    backbone: Annotated[
        str | None, typer.Option(help="The timm model it was trained on. [default: recognised from its tensors]")
    ] = None,
    labels_file: Annotated[
        Path | None,
        typer.Option(help="File of its class names in order, or of words, one per line. [default: its idx_to_class]"),
    ] = None,
    word_vectors: Annotated[
        str | None,
        typer.Option(help="Source of its word queries: gensim:..., st:..., open_clip:... or file:..., as for prepare."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Image side in pixels. [default: 448 for TResNet, otherwise timm's]")
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Centre crop as a share of the side, e.g. 0.95."),
    ] = None,
    interpolation: Annotated[
        choices.Interpolation, typer.Option(help="Filter that resized its training images.")
    ] = "bicubic",
) -> None:
    """Convert a released ML-Decoder checkpoint to a model folder, for tag --model.

    Exit status: 0 every tensor was imported, 2 the command could not run and nothing was written.
    """
    options = dict(locals())
    with _errors_in_one_line("interrupted: nothing was written"):
        from zsl_tagger.released.importer import ImportRun
        from zsl_tagger.released.importer import import_checkpoint as run

        _print(run(ImportRun(**options), show=_print))


@_command(app, "build-zero-shot")
def build_zero_shot(
    backbone: Annotated[str, typer.Option(help="A CLIP or SigLIP image tower in timm, with its tag.")],
    word_vectors: Annotated[str, typer.Option(help="Its text tower: open_clip:NAME:PRETRAINED, st:NAME or st:FOLDER.")],
    labels_file: Annotated[Path, typer.Option(help="File of the words that tag looks for by default, one per line.")],
    output: NewModel,
    init: Annotated[
        str,
        typer.Option(help="timm, or a weights file of the image tower; open_clip's files with both towers work too."),
    ] = "timm",
    templates: Annotated[
        Path | None, typer.Option(help='Prompts, one per line, {} for the label. [default: "a photo of a {}."]')
    ] = None,
    phrases: Annotated[
        Path | None,
        typer.Option(help="Other names and sentences for labels, .csv or .jsonl; a label's vector is their mean."),
    ] = None,
    pool: Annotated[
        choices.Pool,
        typer.Option(
            help="global: the tower's vector of the image; tokens: the mean of its projected tokens; local-global: "
            "the mean of that vector's cosine and that of the most similar patches (MKT)."
        ),
    ] = "global",
    scale: Annotated[float | None, typer.Option(help="Factor for the cosines. [default: the checkpoint's]")] = None,
    bias: Annotated[
        float | None,
        typer.Option(help="Added to the scaled cosines. [default: the checkpoint's, otherwise -0.25 x scale]"),
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(help="Centre crop of a photo, e.g. 1 for the largest square. [default: squash the photo]"),
    ] = None,
) -> None:
    """Build a tagger from the two towers of a CLIP model, without training.

    Exit status: 0 written, 2 the command could not run and nothing was written.
    """
    options = dict(locals())
    with _errors_in_one_line("interrupted: nothing was written"):
        from zsl_tagger.export.zero_shot import ZeroShotRun
        from zsl_tagger.export.zero_shot import build_zero_shot as run

        _print(run(ZeroShotRun(**options)))


@_command(app, images="photos")
def export(
    model: Model,
    output: NewOrSameModel = None,
    photos: Annotated[
        list[Path] | None, typer.Option(help="Photos (or a folder) to compare torch and ONNX on; may be repeated.")
    ] = None,
    precision: Annotated[
        choices.Precision,
        typer.Option(help="Precision of the weights. fp16: half the size; int8: linear layers in 8 bits."),
    ] = "fp32",
    bake_words: Annotated[
        str | None,
        typer.Option(help="Also store the vectors of these words: a file, one per line, or packaged (100,000 words)."),
    ] = None,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="Also write encoder.pt2 and decoder.pt2.")
    ] = False,
) -> None:
    """Export a model to ONNX, verify it against torch, and report its size and speed.

    Exit status: 0 exported, 2 the export failed or does not match torch; the folder is unchanged.
    """
    options = dict(locals())
    with _errors_in_one_line("interrupted: the model folder is unchanged"):
        from zsl_tagger.export.run import ExportRun
        from zsl_tagger.export.run import export as run

        _print(run(ExportRun(**options)))


prepare = typer.Typer(
    cls=_Sections, help="Build a data set folder to train and evaluate on.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(prepare, name="prepare")

Source = Annotated[Path, typer.Option(help="Folder or file of the raw data.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")]
WordVectors = Annotated[
    str,
    typer.Option(
        help="packaged, gensim:NAME or FILE, st:NAME or FOLDER, open_clip:NAME:PRETRAINED, file:wordvec_array.pth."
    ),
]
Templates = Annotated[
    Path | None,
    typer.Option(
        help='Prompts for open_clip and st, one per line, {} for the label. [default for CLIP: "a photo of a {}."]'
    ),
]
PhrasesFile = Annotated[
    Path | None,
    typer.Option(
        "--phrases",
        help="Other names and sentences for labels, .csv or .jsonl; a label's vector is the mean over its phrases.",
    ),
]
Missing = Annotated[
    choices.Missing,
    typer.Option(help="Labels without a vector: stop with an error, drop them, or use a random vector."),
]
NoNormalize = Annotated[bool, typer.Option("--no-normalize", help="Do not normalise the vectors.")]
Unseen = Annotated[str, typer.Option(help='Labels to hold out of training: "cat,dog", a number, or "25%".')]
KeepUnlabelled = Annotated[bool, typer.Option("--keep-unlabelled", help="Keep images without labels.")]


def _prepare_options(
    word_vectors: WordVectors = "packaged",
    templates: Templates = None,
    phrases: PhrasesFile = None,
    missing: Missing = "error",
    no_normalize: NoNormalize = False,
    skip_images: Annotated[bool, typer.Option("--skip-images", help="Don't open the image files.")] = False,
    val_fraction: Annotated[
        float, typer.Option(help="Share of the images for validation if the data has no validation split; 0: none.")
    ] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Share of the images for test if the data has no splits.")] = 0.2,
    train_per_class: Annotated[
        int | None, typer.Option(help="Training images per class, instead of these shares.")
    ] = None,
    released_splits: Annotated[
        bool,
        typer.Option(
            "--released-splits",
            help="Also write released/ for the released ML-Decoder code, where the test split is called val.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    workers: Workers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data set in the output folder.")] = False,
) -> Any:
    """Return the options that all data set commands share."""
    from data_prep.pipeline import Options

    return Options(
        word_vectors=word_vectors,
        templates=templates,
        phrases=phrases,
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


def _prepare_command(
    name: str, without: dict[str, Any], **defaults: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that returns a source as a ``prepare`` command with the shared options.

    Args:
        without: shared options that this command lacks, with the values to use instead.
        defaults: shared options with a different default here.
    """
    shared = {
        option.name: option.replace(default=defaults.get(option.name, option.default))
        for option in inspect.signature(_prepare_options, eval_str=True).parameters.values()
        if option.name not in without
    }

    def register(source_of: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(source_of)
        def run(output: Path, **given: Any) -> None:
            with _errors_in_one_line(_INTERRUPTED):
                from data_prep.pipeline import prepare, summary

                options = _prepare_options(**without, **{option: given.pop(option) for option in shared})
                _print(summary(prepare(source_of(**given), output, options), output))

        source, *own = inspect.signature(source_of, eval_str=True).parameters.values()
        output = source.replace(name="output", annotation=Output)
        run.__signature__ = inspect.Signature([source, output, *own, *shared.values()])  # type: ignore[attr-defined]
        _command(prepare, name)(run)
        return source_of

    return register


#: Values of the shared options that data sets with official splits, and the user's own data, do not offer.
_OFFICIAL_SPLITS = {"test_fraction": 0.0, "train_per_class": None}
_OWN_DATA = {"released_splits": False}


@_prepare_command("nus-wide", without=_OFFICIAL_SPLITS, missing="random")
def prepare_nus_wide(
    source: Source,
    protocol: Annotated[
        choices.NusWideProtocol,
        typer.Option(help="mld: keep train images with a seen and test images with an unseen label; lesa: keep all."),
    ] = "mld",
    allow_subset: Annotated[
        bool, typer.Option("--allow-subset", help="Accept image counts that differ from the papers'.")
    ] = False,
) -> Any:
    """NUS-WIDE 925/81 from the raw archives: data.csv, benchmark_81_v0.json, wordvec_array.pth."""
    from data_prep.nus_wide import NusWide

    return NusWide(source=source, protocol=protocol, allow_subset=allow_subset)


@_prepare_command("coco", without=_OFFICIAL_SPLITS)
def prepare_coco(
    source: Source,
    task: Annotated[
        choices.CocoTask, typer.Option(help="All classes, or a split into seen and unseen ones.")
    ] = "multi-label",
    year: Annotated[int | None, typer.Option(help="2014 or 2017. [default: the one found]")] = None,
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """MS-COCO 2014 or 2017: all 80 classes, or with unseen ones."""
    from data_prep.coco import Coco

    return Coco(source=source, task=task, year=year, keep_unlabelled=keep_unlabelled)


@_prepare_command("lvis", without={**_OFFICIAL_SPLITS, **_OWN_DATA}, missing="random")
def prepare_lvis(
    source: Source,
    task: Annotated[choices.LvisTask, typer.Option(help="zsl-rare: rare categories are unseen.")] = "multi-label",
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """LVIS v1: 1,203 categories on COCO's photos, with partial labels."""
    from data_prep.lvis import Lvis

    return Lvis(source=source, task=task, keep_unlabelled=keep_unlabelled)


@_prepare_command("voc", without={**_OFFICIAL_SPLITS, **_OWN_DATA})
def prepare_voc(
    source: Source,
    year: Annotated[int | None, typer.Option(help="2007 or 2012. [default: the one found]")] = None,
    trainval: Annotated[bool, typer.Option("--trainval", help="Train on trainval; part of it becomes val.")] = False,
    count_difficult: Annotated[
        bool, typer.Option("--count-difficult", help="Count objects marked as difficult like any other.")
    ] = False,
    unseen: Unseen = "",
) -> Any:
    """PASCAL VOC 2007 or 2012: 20 classes, with VOC's own lists."""
    from data_prep.voc import Voc

    return Voc(source=source, year=year, trainval=trainval, count_difficult=count_difficult, unseen=unseen)


@_prepare_command("visual-genome", without={**_OWN_DATA, "train_per_class": None}, missing="random")
def prepare_visual_genome(
    source: Source,
    objects: Annotated[str, typer.Option(help="Labels: the N most frequent names, or a file, one per line.")] = "500",
    attributes: Annotated[str, typer.Option(help="Attributes to use as labels, as in --objects; 0: none.")] = "0",
    test_images: Annotated[
        Path | None, typer.Option(help="File of the test images. [default: drawn at random]")
    ] = None,
    unseen: Unseen = "",
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """Visual Genome: the most frequent object names, or a list of names."""
    from data_prep.visual_genome import VisualGenome

    return VisualGenome(
        source=source, objects=objects, attributes=attributes, test_images=test_images, unseen=unseen,
        keep_unlabelled=keep_unlabelled,
    )  # fmt: skip


@_prepare_command("open-images", without={**_OFFICIAL_SPLITS, **_OWN_DATA, "val_fraction": 0.0}, missing="random")
def prepare_open_images(
    source: Source,
    seen_classes: Annotated[
        Path | None, typer.Option(help="File of the seen classes, one per line. [default: the trainable ones]")
    ] = None,
    unseen_classes: Annotated[
        Path | None, typer.Option(help="File of the unseen classes, one per line. [default: none]")
    ] = None,
    machine_labels: Annotated[
        float | None,
        typer.Option(help="Also train on machine-generated labels of at least this confidence. [default: no]"),
    ] = None,
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """OpenImages V4 to V7: human-verified labels, as partial labels."""
    from data_prep.open_images import OpenImages

    return OpenImages(
        source=source, seen_classes=seen_classes, unseen_classes=unseen_classes, machine_labels=machine_labels,
        keep_unlabelled=keep_unlabelled,
    )  # fmt: skip


@_prepare_command("mirflickr", without={**_OWN_DATA, "train_per_class": None})
def prepare_mirflickr(
    source: Source,
    labels: Annotated[
        choices.MirflickrLabels, typer.Option(help="24 potential labels, 14 relevant ones, or both.")
    ] = "potential",
    unseen: Unseen = "",
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """MIRFLICKR-25k: 25,000 photos with manual annotations."""
    from data_prep.mirflickr import Mirflickr

    return Mirflickr(source=source, labels=labels, unseen=unseen, keep_unlabelled=keep_unlabelled)


@_prepare_command("folders", without=_OWN_DATA)
def prepare_folders(
    source: Source,
    task: Annotated[
        choices.FoldersTask, typer.Option(help="multi-label: the class is the only known tag.")
    ] = "single-label",
    unseen: Unseen = "",
    exclude_path: ExcludePath = None,
) -> Any:
    """One folder per class: ImageNet, CIFAR-100, Stanford-Cars, Caltech-101, or your own."""
    from data_prep.folders import Folders

    return Folders(source=source, task=task, unseen=unseen, exclude_path=exclude_path or ())


@_prepare_command("table", without={**_OWN_DATA, "train_per_class": None})
def prepare_table(
    source: Source,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the paths are relative to. [default: the table's folder]")
    ] = None,
    path_column: Annotated[str, typer.Option(help="Column with the image paths.")] = "path",
    tags_column: Annotated[str, typer.Option(help="Column with the tags.")] = "tags",
    split_column: Annotated[str | None, typer.Option(help="Column with train, val or test.")] = None,
    negatives_column: Annotated[
        str | None, typer.Option(help="Column with tags known to be absent; tags in neither column are unknown.")
    ] = None,
    separator: Annotated[str, typer.Option(help="Separator between the tags of a cell.")] = ",",
    delimiter: Annotated[str | None, typer.Option(help="Separator between columns. [default: from the header]")] = None,
    unseen: Unseen = "",
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """Your own CSV or Parquet table with a column of paths and a column of tags."""
    from data_prep.tables import Columns, Table

    columns = Columns(
        path=path_column, tags=tags_column, split=split_column, negatives=negatives_column, separator=separator,
        delimiter=delimiter,
    )  # fmt: skip
    return Table(source=source, image_root=images, unseen=unseen, columns=columns, keep_unlabelled=keep_unlabelled)


@_prepare_command("library", without={**_OWN_DATA, "train_per_class": None}, missing="random")
def prepare_library(
    source: Source,
    least: Annotated[int, typer.Option(min=1, help="Minimum number of photos for a keyword to become a label.")] = 5,
    unseen: Unseen = "",
    keep_unlabelled: KeepUnlabelled = False,
) -> Any:
    """Your photos with the keywords you gave them (XMP or IPTC); missing keywords count as unknown."""
    from data_prep.library import PhotoLibrary

    return PhotoLibrary(source=source, least=least, unseen=unseen, keep_unlabelled=keep_unlabelled)


@_command(prepare, "wordvecs")
def prepare_wordvecs(
    labels: Annotated[Path, typer.Option(help="Label names, one per line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .pth file to write.")] = Path("wordvec_array.pth"),
    word_vectors: WordVectors = "packaged",
    templates: Templates = None,
    phrases: PhrasesFile = None,
    missing: Missing = "error",
    no_normalize: NoNormalize = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Word vectors for label names: a tensor (word_dim, labels) in sorted order, and how each was found."""
    with _errors_in_one_line(_INTERRUPTED):
        from data_prep.wordvecs import prepare_wordvecs as run

        vectors = run(
            labels, word_vectors, output, missing=missing, normalize=not no_normalize, overwrite=overwrite,
            templates=templates, phrases=phrases,
        )  # fmt: skip
        _print(vectors.summary(output))


@_command(prepare, "report")
def prepare_report(
    folder: Annotated[Path, typer.Argument(help="A prepared data set folder.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images. [default: as recorded in the folder]")
    ] = None,
) -> None:
    """Rewrite the split report of a prepared folder: leaks, exact and near-duplicates, counts."""
    with _errors_in_one_line(_INTERRUPTED):
        from data_prep.report import REPORT_PAGE, report_on

        report_on(folder, images)
        _print([f"written: {folder / REPORT_PAGE}"])


@_command(prepare, "check")
def prepare_check(
    folder: Annotated[Path, typer.Argument(help="A prepared data set folder, written by any tool.")],
    images: Annotated[Path | None, typer.Option(help="Also check that the images exist in this folder.")] = None,
) -> None:
    """Check a prepared folder and list every problem with its location.

    Exit status: 0 valid (perhaps with warnings), 1 there are errors.
    """
    with _errors_in_one_line(_INTERRUPTED):
        from zsl_tagger.datasets.read import read_dataset, summary

        dataset, problems = read_dataset(folder, images)
        _print(summary(folder, dataset, problems))
    raise typer.Exit(0 if dataset is not None else 1)


_INTERRUPTED = "interrupted: no half-written file was left; run the same command again to continue where it stopped"


def _print(lines: list[str]) -> None:
    from zsl_tagger.system.untrusted_text import printable

    if hasattr(sys.stdout, "reconfigure"):  # a path that is not UTF-8 must not stop the run
        sys.stdout.reconfigure(errors="backslashreplace")
    for line in lines:
        typer.echo(printable(line))


@contextmanager
def _errors_in_one_line(interrupted: str) -> Iterator[None]:
    """Report errors that a user can fix as one line on stderr, without a traceback."""
    from zsl_tagger.errors import UserError
    from zsl_tagger.system.messages import say
    from zsl_tagger.system.signals import Terminated, second_interrupt_ends

    try:
        with second_interrupt_ends():
            yield
    except UserError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from None
    except BrokenPipeError:  # the reader, e.g. head, has closed the pipe
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
