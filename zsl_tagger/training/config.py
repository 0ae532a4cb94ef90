"""Hold everything that can be set in a training run, validated, and read or write it as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from zsl_tagger.choices import Interpolation
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.system.files import parse_json


@dataclass(frozen=True)
class TrainConfig:
    """Hold the settings of one run. "Step" is one update of the weights; "share" is a number in 0..1.

    Raises:
        UserError: a value of another type or outside its range; the message has what was expected.
    """

    recipe: str = "custom"  # the recipe the settings began as

    # --- the network
    backbone: str = "tf_efficientnet_lite0"  # any timm model
    init: str = "timm"  # timm, scratch, packaged, a model folder, or a file of backbone weights
    image_size: int = 224  # pixels a side, of training and tagging
    resize: Literal["squash", "center_crop"] = "squash"  # validation and tagging: the whole image, or its middle
    crop_pct: float | None = None  # center_crop: image_size over the resized image's shorter side, e.g. 0.95
    interpolation: Interpolation = "bicubic"  # of training and tagging
    project_tokens: bool = False  # CLIP towers: put each token into the space of the text tower's queries
    drop_path: float = 0.0  # stochastic depth in the backbone, share
    head: Literal["words", "closed", "linear", "csra", "query2label", "local-global"] = "words"
    groups: int | None = None  # closed: group queries, default min(100, classes); words: default a query a label
    dim: int = 768  # D of the decoder
    ffn_dim: int = 2048
    heads: int = 8
    dropout: float = 0.1
    local_top: int = 16  # local-global: how many patches a label is compared with, those most like it
    csra_lambda: float = 0.1  # csra: weight of the class-specific pooling beside the average
    csra_heads: int = 1  # csra: 1, 2, 4, 6 or 8
    csra_temperature: float = 1.0  # csra with one head; several have the paper's
    bias_init: float = 0.0  # of the logits; -3 says "most labels are false of most images"

    # --- what is trained
    freeze: bool = False  # the backbone's weights and statistics stay as they are
    class_evidence: bool = False  # freeze only: words that mean ImageNet classes hear the backbone's own classifier
    cache_views: int = 0  # freeze only: views of each photo that are drawn and computed once
    mosaic4: float = 0.0  # cache_views only: share of images that are four photos, each at half size
    mosaic9: float = 0.0  # cache_views only: share of images that are nine photos, each at a third of the size
    token_dropout: float = 0.0  # cache_views only: share of an image's tokens left out of a step
    epochs: int = 40
    min_epoch_steps: int = 1  # an epoch of few images shows them several times
    batch_size: int = 56  # images a step
    batch_size_per: Literal["step", "process"] = "step"  # step: batch_size is over all processes; process: of each
    sync_batch_norm: bool = False  # several GPUs: batch norm over the step's images, not over each process's own
    drop_last: bool = True  # the images of an epoch that do not fill a batch are left out, else they are a short batch
    accumulate: int = 1  # parts a step is computed in; lowers memory, changes nothing else
    optimizer: str = "adam"  # a timm optimiser
    lr: float = 1e-4
    backbone_lr_scale: float = 1.0  # the backbone's learning rate over the head's
    layer_decay: float = 1.0  # learning rate of each backbone layer over the one above it
    weight_decay: float = 1e-4  # not of biases and norms
    schedule: Literal["onecycle", "cosine", "constant", "timm_cosine"] = "onecycle"
    warmup: float = 0.2  # share of the steps in which the learning rate rises
    warmup_lr: float = 0.0  # timm_cosine: learning rate of the first epoch
    min_lr: float = 0.0  # timm_cosine: learning rate at the end
    cooldown_epochs: int = 0  # timm_cosine: more epochs, at min_lr
    clip_grad: float | None = None  # largest norm of the gradient
    ema: float = 0.9997  # decay of the averaged weights, which are what is validated and saved; 0 for none
    ema_warmup: bool = True  # the decay rises to ema over many steps; false: it is ema from the first, as released
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False  # torch.compile
    seed: int = 0

    # --- the loss
    loss: Literal["asl", "asl_single", "bce", "ce"] = "asl"  # asl_single and ce: closed sets, one label an image
    gamma_neg: float = 4.0  # asl, asl_single
    gamma_pos: float = 0.0
    focal_gradient: bool = True  # asl, asl_single: differentiate the focal weight; false: a constant, as released
    clip: float = 0.05
    reduction: Literal["mean", "sum"] = "sum"  # over images and labels
    smoothing: float = 0.0  # of targets, share (asl_single, bce, ce)
    target_threshold: float | None = None  # bce: mixed targets above it count as 1, others as 0

    # --- partial labels: what is made of the unknown ones (asl, bce)
    unknown_labels: Literal["ignore", "negative", "weak", "reject", "selective"] = "ignore"  # no loss, or as absent
    gamma_unknown: float | None = None  # asl: gamma of unknown labels taken as absent; none: gamma_neg
    reject_rate: float = 0.002  # reject: share of the unknown ones, largest losses first, left out more each epoch
    likelihood_top: int = 5  # selective: unknown labels an image that are left out, the likeliest of the batch
    prior_threshold: float = 0.05  # selective: unknown labels with a larger prior are left out
    label_priors: str = ""  # selective: a file of priors, run/label_priors.csv of a training with ignore

    # --- the queries
    query_noise: float = 0.0  # length of the noise on each query, over the query's own
    query_noise_unit: bool = False  # scale a query with its noise to length 1 again
    random_queries: int = 0  # queries of random direction a step
    random_queries_per: Literal["batch", "image"] = "batch"  # the same ones for every image, or others for each
    random_query_target: float = 1.0  # 0..1; the paper's is 1
    random_query_weight: float = 1.0  # weight of each in the loss
    query_dropout: float = 0.0  # chance of a label to be left out of a step
    labels_per_step: int | None = None  # most labels a step, those of its images first
    negative_share: float = 0.0  # least share of labels_per_step that are on no image of the step
    negative_weight: float = 1.0  # weight of those labels in the loss: each stands for others that were not drawn
    holdout_labels: float = 0.0  # share of the seen labels kept out of training, to judge zero-shot on validation

    # --- the images
    crop: Literal["squash", "random"] = "squash"  # the whole image, or a random part of it
    crop_scale: float = 0.08  # random: least share of the area
    flip: float = 0.5  # chance
    rand_augment: str = ""  # in timm's words, e.g. rand-m7-mstd0.5-inc1; or released, as the released code has it
    cutout: float = 0.0  # side of a box of one colour, over the image's
    mixup: float = 0.0  # alpha
    cutmix: float = 0.0  # alpha
    repeats: int = 1  # draws of an image among an epoch's (repeated augmentation, Hoffer et al. 2020)

    # --- the run
    workers: int | None = None  # processes that read images; default one a core of this process, at most 16
    validate_every: int = 1  # epochs
    checkpoint_every: int = 500  # steps; also at each epoch's end
    bake_words: int = 20_000  # words the model folder can tag at once, beside the labels (word queries)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"expected {name} in {low:g}..{high:g}, got {value!r}")
        for fault, message in self._rules():
            if fault:
                raise UserError(message)

    def _rules(self) -> list[tuple[Any, str]]:
        """Return (whether it is violated, message) of each rule for settings that do not go together."""
        closed, queries = self.closed, self.query_noise or self.random_queries or self.holdout_labels
        return [
            ((self.resize == "center_crop") != (self.crop_pct is not None),
             f"resize=center_crop and crop_pct go together, got resize={self.resize} and crop_pct={self.crop_pct}"),
            (self.resize == "center_crop" and self.crop == "squash",
             "resize=center_crop tags a part of each image, crop=squash trains on the whole: set crop=random"),
            (self.dim % self.heads != 0, f"expected heads that divide dim={self.dim}, got heads={self.heads}"),
            ((self.warmup_lr or self.min_lr or self.cooldown_epochs) and self.schedule != "timm_cosine",
             "warmup_lr, min_lr and cooldown_epochs need schedule=timm_cosine"),
            (self.cache_views and not self.freeze, "cache_views needs freeze=true: a trained backbone changes"),
            (not self.cache_views and (self.mosaic4 or self.mosaic9 or self.token_dropout),
             "mosaic4, mosaic9 and token_dropout work on cached features: set freeze=true and cache_views"),
            (self.mosaic4 + self.mosaic9 > 1, "expected mosaic4 and mosaic9 to add up to at most 1"),
            (self.cache_views and (self.mixup or self.cutmix), "mixup and cutmix mix pixels: set cache_views=0"),
            ((self.negative_share or self.negative_weight != 1) and not self.labels_per_step,
             "negative_share and negative_weight choose among labels: set labels_per_step"),
            (closed and (queries or self.query_dropout or self.labels_per_step),
             "query_noise, random_queries, query_dropout, labels_per_step and holdout_labels need head=words or "
             "local-global"),
            (self.head not in ("words", "closed") and self.groups is not None, "groups needs head=words or closed"),
            (self.head == "local-global" and not self.project_tokens,
             "head=local-global compares tokens with text vectors of one space: set project_tokens=true"),
            (self.head == "local-global" and (self.mosaic4 or self.mosaic9 or self.token_dropout),
             "mosaic4, mosaic9 and token_dropout are for heads of places alone, and head=local-global has a token of "
             "the whole image: set them to 0"),
            (self.head != "local-global" and self.local_top != 16, "local_top needs head=local-global"),
            (self.head != "csra" and (self.csra_lambda, self.csra_heads, self.csra_temperature) != (0.1, 1, 1.0),
             "csra_lambda, csra_heads and csra_temperature need head=csra"),
            (self.csra_heads not in (1, 2, 4, 6, 8), f"expected csra_heads 1, 2, 4, 6 or 8, got {self.csra_heads}"),
            (self.csra_heads > 1 and self.csra_temperature != 1.0,
             "csra_temperature is for one head: several have those of the paper. Set csra_heads=1"),
            (self.softmax and not closed,
             f"loss={self.loss} needs head=closed: a word's score must not depend on others"),
            (self.gamma_unknown is not None and self.loss != "asl", "gamma_unknown needs loss=asl"),
            (self.gamma_unknown is not None and self.unknown_labels == "ignore",
             "gamma_unknown is of unknown labels that are taken as absent: set unknown_labels=negative or selective"),
            (self.reject_rate != 0.002 and self.unknown_labels != "reject", "reject_rate needs unknown_labels=reject"),
            (self.unknown_labels != "selective"
             and (self.likelihood_top, self.prior_threshold, self.label_priors) != (5, 0.05, ""),
             "likelihood_top, prior_threshold and label_priors need unknown_labels=selective"),
            (self.batch_size % self.accumulate != 0,
             f"expected accumulate that divides batch_size={self.batch_size}, got {self.accumulate}"),
        ]  # fmt: skip

    def changed(self, settings: Iterable[str]) -> TrainConfig:
        """Return the settings with e.g. ``["lr=1e-3", "freeze=true"]`` changed.

        Raises:
            UserError: no ``=``, no such name (the nearest are named), or a value that does not fit.
        """
        values: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise UserError(f"expected --set name=value, got {setting!r}")
            values[name.strip()] = _parsed(name.strip(), text.strip())
        return dataclasses.replace(self, **values)

    @property
    def preprocessing(self) -> Preprocessing:
        """Return how validation and tagging read an image, but for the backbone's mean and deviation."""
        return Preprocessing(self.image_size, self.resize, self.interpolation, crop_pct=self.crop_pct)

    def for_processes(self, processes: int) -> TrainConfig:
        """Return the settings with ``batch_size`` counted over all of so many processes."""
        if self.batch_size_per == "step":
            return self
        return dataclasses.replace(self, batch_size=self.batch_size * processes, batch_size_per="step")

    @property
    def layouts(self) -> tuple[int, ...]:
        """Return how many photos an image may consist of: 1, and 4 and 9 where there are such mosaics."""
        return (1, *((4,) if self.mosaic4 else ()), *((9,) if self.mosaic9 else ()))

    @property
    def sides(self) -> tuple[int, ...]:
        """Return the pixels a side at which the backbone reads a photo, by layout: mosaics show it smaller."""
        return tuple(self.image_size // round(layout**0.5) for layout in self.layouts)

    @property
    def closed(self) -> bool:
        """Return whether the head has a closed set of classes."""
        return self.head not in ("words", "local-global")

    @property
    def softmax(self) -> bool:
        """Return whether the loss takes the logits as those of a softmax over all classes."""
        return self.loss in ("asl_single", "ce")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str = "the configuration") -> TrainConfig:
        """Return the settings of a dictionary, the inverse of :meth:`as_dict`; absent ones have their defaults."""
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected an object of settings, got {type(values).__name__}")
        for name in values:
            _known(name)
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON: {error}") from None
        return cls.from_dict(values, str(path))


_HUGE = 1e12
_SHARE, _POSITIVE = (0.0, 1.0), (1, _HUGE)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("drop_path", "dropout", "warmup", "ema", "smoothing", "target_threshold", "random_query_target", "crop_scale",
         "query_dropout", "holdout_labels", "flip", "cutout", "clip", "backbone_lr_scale", "layer_decay",
         "negative_share", "mosaic4", "mosaic9", "reject_rate", "prior_threshold"), _SHARE),
    "token_dropout": (0.0, 0.99),
    "crop_pct": (0.01, 1.0),
    **dict.fromkeys(
        ("image_size", "groups", "dim", "ffn_dim", "heads", "epochs", "batch_size", "accumulate", "labels_per_step",
         "repeats", "validate_every", "checkpoint_every", "min_epoch_steps", "local_top"), _POSITIVE),
    **dict.fromkeys(("warmup_lr", "min_lr", "cooldown_epochs"), (0, _HUGE)),
    **dict.fromkeys(
        ("cache_views", "lr", "weight_decay", "gamma_neg", "gamma_pos", "query_noise", "random_queries", "mixup",
         "random_query_weight", "negative_weight", "cutmix", "clip_grad", "workers", "bake_words", "seed",
         "gamma_unknown", "likelihood_top"), (0, _HUGE)),
    "bias_init": (-_HUGE, _HUGE),
    "csra_lambda": (0, _HUGE),
    "csra_temperature": (0, _HUGE),
}  # fmt: skip


@functools.cache  # it reads the annotations' text
def _types() -> dict[str, Any]:
    return typing.get_type_hints(TrainConfig)


def _known(name: str) -> Any:
    kinds = _types()
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=3)
        raise UserError(f"there is no setting {name!r}; the nearest are: {', '.join(near) or ', '.join(kinds)}")
    return kinds[name]


def _parsed(name: str, text: str) -> Any:
    """Convert the text of ``--set`` to a value of the setting's type."""
    if _known(name) is str or get_origin(_known(name)) is Literal:
        return text
    try:
        return parse_json({"none": "null", "None": "null", "True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError):
        return text  # told as a value of the wrong type


def _checked(name: str, value: Any) -> Any:
    kind = _known(name)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"expected {name} to be one of {', '.join(get_args(kind))}; got {value!r}")
        return value
    accepted = get_args(kind) if get_origin(kind) is types.UnionType else (kind,)
    if float in accepted and type(value) is int and abs(value) < 1e300:
        return float(value)
    if int in accepted and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) not in accepted or value != value:  # NaN
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
        raise UserError(f"expected {name} to be {' or '.join(words[one] for one in accepted)}, got {value!r}")
    return value
