"""Define and validate the settings of a training run, and convert them to and from JSON."""

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
    """Settings of one run. A step is one update of the weights; a share is a number in 0..1.

    ``zsl-tagger train --show`` prints the comments.

    Raises:
        UserError: a value has the wrong type or is out of range, or settings contradict each other.
    """

    recipe: str = "custom"  # the recipe that the settings are based on

    # --- the network
    backbone: str = "tf_efficientnet_lite0"  # any timm model
    init: str = "timm"  # timm, scratch, packaged, a model folder, or a file of backbone weights
    image_size: int = 224  # side in pixels, for training and tagging
    resize: Literal["squash", "center_crop"] = "squash"  # for validation and tagging
    crop_pct: float | None = None  # center_crop: image_size / shorter side of the resized image, e.g. 0.95
    interpolation: Interpolation = "bicubic"  # resize filter, for training and tagging
    project_tokens: bool = False  # CLIP towers: project each token into the text tower's embedding space
    drop_path: float = 0.0  # stochastic depth in the backbone, share
    head: Literal["words", "closed", "linear", "csra", "query2label", "local-global"] = "words"
    groups: int | None = None  # group queries; default: min(100, classes) if closed, else one query per label
    dim: int = 768  # width of the decoder
    ffn_dim: int = 2048
    heads: int = 8
    dropout: float = 0.1
    local_top: int = 16  # local-global: number of patches compared with each label, the most similar ones
    csra_lambda: float = 0.1  # csra: weight of class-specific attention relative to average pooling
    csra_heads: int = 1  # csra: 1, 2, 4, 6 or 8
    csra_temperature: float = 1.0  # csra with one head; several heads use the paper's temperatures
    bias_init: float = 0.0  # initial bias of the logits; -3 for data in which most labels are absent from most images

    # --- what is trained
    freeze: bool = False  # keep the backbone's weights and statistics fixed
    class_evidence: bool = False  # freeze only: add the backbone's class probabilities to words for ImageNet classes
    cache_views: int = 0  # freeze only: number of augmented views per photo whose features are computed once
    mosaic4: float = 0.0  # cache_views only: share of images that are mosaics of four photos at half size
    mosaic9: float = 0.0  # cache_views only: share of images that are mosaics of nine photos at a third of the size
    token_dropout: float = 0.0  # cache_views only: share of each image's tokens to drop
    epochs: int = 40
    min_epoch_steps: int = 1  # minimum steps per epoch; small data sets are repeated within an epoch
    batch_size: int = 56  # images per step
    batch_size_per: Literal["step", "process"] = "step"  # step: batch_size counts all processes; process: each one
    sync_batch_norm: bool = False  # several GPUs: compute batch norm over all processes
    drop_last: bool = True  # drop the last, incomplete batch of an epoch; false: train on it
    accumulate: int = 1  # gradient accumulation: split each step into this many parts to save memory
    optimizer: str = "adam"  # name of a timm optimiser
    lr: float = 1e-4
    backbone_lr_scale: float = 1.0  # backbone's learning rate / head's
    layer_decay: float = 1.0  # learning rate of each backbone layer / that of the layer above
    weight_decay: float = 1e-4  # not applied to biases and norms
    schedule: Literal["onecycle", "cosine", "constant", "timm_cosine"] = "onecycle"
    warmup: float = 0.2  # share of the steps with a rising learning rate
    warmup_lr: float = 0.0  # timm_cosine: learning rate in the first epoch
    min_lr: float = 0.0  # timm_cosine: learning rate at the end
    cooldown_epochs: int = 0  # timm_cosine: additional epochs at min_lr
    clip_grad: float | None = None  # maximum norm of the gradient
    ema: float = 0.9997  # decay of the averaged weights, which are validated and saved; 0: no averaging
    ema_warmup: bool = True  # raise the decay to ema gradually; false: constant, as in the released code
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False  # use torch.compile
    seed: int = 0

    # --- the loss
    loss: Literal["asl", "asl_single", "bce", "ce"] = "asl"  # asl_single and ce: closed sets with one label per image
    gamma_neg: float = 4.0  # asl and asl_single
    gamma_pos: float = 0.0
    focal_gradient: bool = True  # asl, asl_single: differentiate the focal weight; false: constant, as released
    clip: float = 0.05
    reduction: Literal["mean", "sum"] = "sum"  # over images and labels
    smoothing: float = 0.0  # share; asl_single, bce and ce
    target_threshold: float | None = None  # bce: mixed targets above it count as 1, others as 0

    # --- partial labels: handling of unknown labels (asl, bce)
    unknown_labels: Literal["ignore", "negative", "weak", "reject", "selective"] = "ignore"
    gamma_unknown: float | None = None  # asl: gamma for unknown labels treated as absent; none: gamma_neg
    reject_rate: float = 0.002  # reject: share of unknown labels, largest losses first, to ignore, times the epoch
    likelihood_top: int = 5  # selective: number of unknown labels to ignore per image, the likeliest of the batch
    prior_threshold: float = 0.05  # selective: ignore unknown labels with a larger prior
    label_priors: str = ""  # selective: file of priors, e.g. run/label_priors.csv of a run with ignore

    # --- the queries
    query_noise: float = 0.0  # length of the noise / length of the query
    query_noise_unit: bool = False  # normalise each noisy query to unit length
    random_queries: int = 0  # number of random queries per step
    random_queries_per: Literal["batch", "image"] = "batch"  # share them in the batch, or draw them for each image
    random_query_target: float = 1.0  # 0..1; 1 in the paper
    random_query_weight: float = 1.0  # weight of each random query in the loss
    query_dropout: float = 0.0  # probability of leaving a label out of a step
    labels_per_step: int | None = None  # maximum number of labels per step; labels on its images come first
    negative_share: float = 0.0  # minimum share of labels_per_step that are on no image of the step
    negative_weight: float = 1.0  # weight of those labels in the loss, to make up for the labels not drawn
    holdout_labels: float = 0.0  # share of seen labels to hold out, to measure zero-shot mAP on validation

    # --- the images
    crop: Literal["squash", "random"] = "squash"  # squash the whole image, or crop it at random
    crop_scale: float = 0.08  # random: minimum share of the area
    flip: float = 0.5  # probability
    rand_augment: str = ""  # timm's notation, e.g. rand-m7-mstd0.5-inc1; or released: the released code's
    cutout: float = 0.0  # side of a box filled with one colour / side of the image
    mixup: float = 0.0  # alpha
    cutmix: float = 0.0  # alpha
    repeats: int = 1  # repeated augmentation (Hoffer et al. 2020): number of draws of each image of an epoch

    # --- the run
    workers: int | None = None  # processes that read images; default: one per available core, at most 16
    validate_every: int = 1  # epochs
    checkpoint_every: int = 500  # steps; a checkpoint is also written after each epoch
    bake_words: int = 20_000  # number of words to store with the model besides its labels (word queries)

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
        """Return (is violated, message) for each rule about combinations of settings."""
        closed, queries = self.closed, self.query_noise or self.random_queries or self.holdout_labels
        return [
            ((self.resize == "center_crop") != (self.crop_pct is not None),
             f"resize=center_crop and crop_pct go together, got resize={self.resize} and crop_pct={self.crop_pct}"),
            (self.resize == "center_crop" and self.crop == "squash",
             "resize=center_crop tags a part of each image, crop=squash trains on the whole: set crop=random"),
            (self.dim % self.heads != 0, f"expected heads to divide dim={self.dim}, got heads={self.heads}"),
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
             "mosaic4, mosaic9 and token_dropout do not work with head=local-global, which uses a token of the whole "
             "image: set them to 0"),
            (self.head != "local-global" and self.local_top != 16, "local_top needs head=local-global"),
            (self.head != "csra" and (self.csra_lambda, self.csra_heads, self.csra_temperature) != (0.1, 1, 1.0),
             "csra_lambda, csra_heads and csra_temperature need head=csra"),
            (self.csra_heads not in (1, 2, 4, 6, 8), f"expected csra_heads 1, 2, 4, 6 or 8, got {self.csra_heads}"),
            (self.csra_heads > 1 and self.csra_temperature != 1.0,
             "csra_temperature applies to a single head; several heads use the paper's temperatures: set csra_heads=1"),
            (self.softmax and not closed,
             f"loss={self.loss} needs head=closed: a word's score must not depend on other words"),
            (self.gamma_unknown is not None and self.loss != "asl", "gamma_unknown needs loss=asl"),
            (self.gamma_unknown is not None and self.unknown_labels == "ignore",
             "gamma_unknown applies to unknown labels treated as absent: set unknown_labels=negative or selective"),
            (self.reject_rate != 0.002 and self.unknown_labels != "reject", "reject_rate needs unknown_labels=reject"),
            (self.unknown_labels != "selective"
             and (self.likelihood_top, self.prior_threshold, self.label_priors) != (5, 0.05, ""),
             "likelihood_top, prior_threshold and label_priors need unknown_labels=selective"),
            (self.batch_size % self.accumulate != 0,
             f"expected accumulate to divide batch_size={self.batch_size}, got {self.accumulate}"),
        ]  # fmt: skip

    def changed(self, settings: Iterable[str]) -> TrainConfig:
        """Return a copy with changes such as ``["lr=1e-3", "freeze=true"]``.

        Raises:
            UserError: a text has no ``=``, an unknown name (the message suggests similar ones) or an invalid value.
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
        """Return how validation and tagging read an image, without the backbone's mean and standard deviation."""
        return Preprocessing(self.image_size, self.resize, self.interpolation, crop_pct=self.crop_pct)

    def for_processes(self, processes: int) -> TrainConfig:
        """Return the settings with ``batch_size`` counted over all processes."""
        if self.batch_size_per == "step":
            return self
        return dataclasses.replace(self, batch_size=self.batch_size * processes, batch_size_per="step")

    @property
    def layouts(self) -> tuple[int, ...]:
        """Return the possible numbers of photos per image: 1, plus 4 and 9 if such mosaics are drawn."""
        return (1, *((4,) if self.mosaic4 else ()), *((9,) if self.mosaic9 else ()))

    @property
    def sides(self) -> tuple[int, ...]:
        """Return the side in pixels of a photo in each of :attr:`layouts`; photos in mosaics are smaller."""
        return tuple(self.image_size // round(layout**0.5) for layout in self.layouts)

    @property
    def closed(self) -> bool:
        """Return whether the head has a closed set of classes."""
        return self.head not in ("words", "local-global")

    @property
    def softmax(self) -> bool:
        """Return whether the loss applies a softmax over all classes."""
        return self.loss in ("asl_single", "ce")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str = "the configuration") -> TrainConfig:
        """Return the settings from a dictionary, as by :meth:`as_dict`; missing ones have their defaults."""
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


@functools.cache  # evaluating the annotations is slow
def _types() -> dict[str, Any]:
    return typing.get_type_hints(TrainConfig)


def _known(name: str) -> Any:
    kinds = _types()
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the settings are: {', '.join(kinds)}"
        raise UserError(f"there is no setting {name!r}; {hint}")
    return kinds[name]


def _parsed(name: str, text: str) -> Any:
    """Convert the text of ``--set`` to a value of the setting's type."""
    if _known(name) is str or get_origin(_known(name)) is Literal:
        return text
    try:
        return parse_json({"none": "null", "None": "null", "True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError):
        return text  # reported as a value of the wrong type


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
