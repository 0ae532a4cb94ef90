"""Build the packaged model folder from photos, step by step.

Run time on two CPU cores (AMD EPYC with AVX2, not idle otherwise): sentence vectors 9 minutes, features 40, targets 3,
training 65 (0.75 to 1.3 s per step in float32), the rest 3. Result with seed 0 and 3,500 steps: mAP 65.9 and F1@3 55.9
on coco100 (benchmarks/results/tagging_accuracy.json).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from zsl_tagger.errors import UserError
from zsl_tagger.export.model_writer import architecture_of, preprocessing_of
from zsl_tagger.export.run import ExportRun, export
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.pretrained import (
    LITE_PACKAGES,
    WEIGHTS_FILE,
    build_model,
    names_not_on_pypi,
    pretrained_backbone,
)
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.packaged import lexicon
from zsl_tagger.packaged.calibration import HeldOutPhotos, Reliability, WordsOfLabels
from zsl_tagger.packaged.card import write_card
from zsl_tagger.packaged.class_words import class_words, write_class_words
from zsl_tagger.packaged.detector import Detector, write_detector
from zsl_tagger.packaged.folders import FOLDERS, photos_in
from zsl_tagger.packaged.labels import THRESHOLD, CalibratedLabels, calibrate_labels, unprobed_scoring
from zsl_tagger.packaged.objects import OBJECTS
from zsl_tagger.packaged.prefilter import write_prefilter
from zsl_tagger.packaged.probes import FittedProbes, factors_of_probes, fit_probes
from zsl_tagger.packaged.reliability import RELIABILITY_FILE, complete_truth, write_reliability
from zsl_tagger.packaged.sampling import Phase, PhasedSchedule, mixture, rarity
from zsl_tagger.packaged.settings import TRAINED_BLOCKS, TUNING
from zsl_tagger.packaged.targets import Knowledge, Targets, build_targets, read_annotations
from zsl_tagger.packaged.tuning import MapCache, TunedTagger, TuningTrainer, has_trained_parts
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.packaged.words import build_word_table
from zsl_tagger.system.files import json_bytes, write_whole
from zsl_tagger.tagging.background import BACKGROUND_FILE, Background
from zsl_tagger.tagging.class_evidence import (
    CLASS_WORDS_FILE,
    OBJECT_WORDS_FILE,
    EvidenceWords,
    Scoring,
    read_object_words,
)
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import (
    TRAIN_CONFIG_FILE,
    ModelConfig,
    VocabularyLabel,
    write_config,
    write_labels,
)
from zsl_tagger.tagging.near_classes import CLASS_VECTORS_FILE
from zsl_tagger.tagging.pooled import pooled_tokens, with_classes
from zsl_tagger.tagging.probes import PROBES_FILE
from zsl_tagger.training.augment import seed_everything
from zsl_tagger.training.checkpoint import fingerprint
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import PartialTargets, Split, parts
from zsl_tagger.training.features import FeatureCache, check_disk_space
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.run import make_accelerator
from zsl_tagger.training.trainer import CHECKPOINT_FILE, Trainer, run_trainer
from zsl_tagger.training.validation import score_cached
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import WordTable

HERE = Path(__file__).parent
BACKGROUND_PHOTOS = 32  # reference photos for the scores of untrained words
PROOF_PHOTOS = 8  # photos on which the export is compared with torch
CLASSES = 1000  # number of ImageNet classes
HELD_OUT_ONE_IN = 12  # one in 12 annotated photos is held out for calibration and for the figures of the model card


@dataclass(frozen=True)
class Exclusions:
    """Words and photos held out of training, to test zero-shot tagging on them.

    Attributes:
        words: words to hold out, with their synonyms.
        folders: folders of photos to hold out, relative to the root of the photos, e.g. "more/coco_captions".
    """

    words: Sequence[str] = ()
    folders: Sequence[str] = ()

    def keep(self, files: set[str]) -> set[str]:
        """Return the photos outside of the folders.

        Raises:
            UserError: a folder has no photos, for example because it is misspelt.
        """
        for folder in self.folders:
            inside = {file for file in files if file.startswith(f"{folder.strip('/')}/")}
            if not inside:
                raise UserError(f"no photos to leave out in {folder}: expected a folder such as more/coco_captions")
            files = files - inside
        return files


@dataclass(frozen=True)
class Photos:
    """N photos; the masks are bool ``(N,)``.

    Attributes:
        files: paths relative to the root of the photos.
        folder_words: words that the folder of each photo implies, by path.
        imagenet: photos of ImageNet classes.
        annotated: photos with an annotation.
        held_out: annotated photos that are not trained on.
    """

    files: list[str]
    folder_words: dict[str, frozenset[str]]
    imagenet: np.ndarray
    annotated: np.ndarray
    held_out: np.ndarray


class Calibration(NamedTuple):
    """Calibrated labels with their probes, and the scoring of words without a probe."""

    labels: CalibratedLabels
    probes: FittedProbes
    scoring: Scoring


@dataclass(frozen=True)
class TrainingData:
    """Data to train and evaluate the head: photos, their targets and features, and words with their vectors.

    Attributes:
        detector: the detector of objects; None: the model has none.
    """

    listing: Photos
    targets: Targets
    table: WordTable
    vocabulary: list[str]
    cache: FeatureCache
    detector: Detector | None = None


def build(
    photos: Path,
    wordnet_folder: Path,
    frequencies: Path,
    work: Path,
    output: Path,
    *,
    config: TrainConfig,
    exclusions: Exclusions,
    detector: Path | None = None,
    tuning_steps: int = 0,
) -> None:
    """Write the model folder ``output``; results of slow steps are cached in ``work``.

    Args:
        detector: ``nanodet.json``, see :mod:`.detector`; None: a model without a detector.
        tuning_steps: number of steps to train the backbone's last blocks after the head; 0 leaves them unchanged.

    Raises:
        UserError: photos, words or weights are missing or do not fit.
        Stopped: a signal stopped the training; the same call resumes it.
    """
    start = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(config)
    backbone = pretrained_backbone(config.backbone, image_size=config.image_size)[0].eval()
    check_backbone(backbone, config)  # before the slow steps
    if tuning_steps and not has_trained_parts(backbone):
        raise UserError(f"cannot train the last blocks of {config.backbone}: expected one of timm's EfficientNets")

    # words and their relations
    wordnet = WordNet(wordnet_folder)
    annotations = read_annotations(HERE / "annotations.csv")
    vocabulary = read_vocabulary(HERE / "vocabulary.txt")
    table = build_word_table(_first_words(annotations, vocabulary), wordnet, frequencies, work / "sentence_vectors.npy")
    table.save(output)
    knowledge = Knowledge(wordnet, table)

    # photos, their features and targets
    listing = list_photos(photos, annotations, knowledge, exclusions)
    wnids = imagenet_wnids(listing.files)
    seed_everything((config.seed, 0))  # for the random weights of the head
    model = make_model(backbone, class_vectors(wnids, wordnet, table), config).to(accelerator.device)
    cache = fill_cache(model, photos, listing.files, config, work, accelerator)
    classes = class_probabilities(model, cache, np.arange(len(listing.files)))
    targets = build_targets(
        listing.files,
        annotations,
        listing.folder_words,
        classes,
        [knowledge.class_words(wnid) for wnid in wnids],
        [normalize_label(name) for name in vocabulary],
        knowledge,
    )
    targets = leave_out(targets, {word for name in exclusions.words for word in synonyms(name, knowledge)})
    print(f"{len(listing.files)} photos, {len(targets.words)} words, {time.monotonic() - start:.0f} s so far")

    # training, thresholds, the model folder
    preprocessing = preprocessing_of(model, config.preprocessing)
    if detector is not None:
        write_detector(output, detector, [photos / file for file in listing.files], preprocessing)
    of_objects = None if detector is None else Detector(output, preprocessing, photos)
    data = TrainingData(listing, targets, table, vocabulary, cache, of_objects)
    model = train_head(model, data, config, work, accelerator).cpu()
    if tuning_steps:
        tuning = config.changed([*TUNING, f"min_epoch_steps={tuning_steps}"])
        model, data = tune(model, data, classes, photos, tuning, work)
    evidence_words = write_evidence(output, model, data, wnids, knowledge)
    calibration = calibrate(model, data, evidence_words, knowledge)
    write_model(model, data, calibration, config, output, photos, exclusions)
    print(f"done in {(time.monotonic() - start) / 60:.0f} min")


def write_model(
    model: TaggerModel,
    data: TrainingData,
    calibration: Calibration,
    config: TrainConfig,
    output: Path,
    photos: Path,
    exclusions: Exclusions,
) -> None:
    """Write the model folder.

    Args:
        photos: root of the photos, some of which are used to check the export.
        exclusions: words and photos held out of training, to record them.
    """
    from_pypi, calibrated = _blocks_of_pypi(model), calibration.labels
    calibration.probes.save(output / PROBES_FILE)
    model = model.plain() if isinstance(model, TunedTagger) else model
    save_file(shipped_weights(model, from_pypi), output / WEIGHTS_FILE)
    trained = set(data.targets.words)
    untrained = [name for name in data.vocabulary if normalize_label(name) not in trained]
    write_labels(output, [*calibrated.labels, *(VocabularyLabel(name, THRESHOLD, seen=False) for name in untrained)])
    written = ModelConfig(
        preprocessing=preprocessing_of(model, config.preprocessing),
        word_dim=data.table.word_dim,
        default_threshold=THRESHOLD,
        scoring=calibration.scoring,
        probed_scoring=calibrated.scoring,
        precision_shifts=calibrated.precision_shifts,
        architecture={**architecture_of(model), **({} if from_pypi is None else {"blocks_of_pypi": from_pypi})},
        provenance={
            "steps": config.epochs * config.min_epoch_steps,
            "seed": config.seed,
            "training_words": len(data.targets.words),
            "kept_out": list(exclusions.words),
            "kept_out_photos": list(exclusions.folders),
            "held_out": calibrated.figures,
        },
        word_source="packaged",
    )
    write_config(output, written)
    write_whole(output / TRAIN_CONFIG_FILE, json_bytes(config.as_dict()))
    held_out = np.flatnonzero(data.listing.held_out)
    images = [photos / data.listing.files[index] for index in held_out[:PROOF_PHOTOS]]
    print(*export(ExportRun(model=output, photos=images)), sep="\n")
    write_reliability(output / RELIABILITY_FILE, reliability_of(data, calibrated, photos))
    print(write_prefilter(output, [photos / name for name in data.listing.files]))
    write_card(output, written, words=len(data.table.words), photos=len(data.listing.files))
    print(calibrated.figures)


def check_backbone(backbone: Backbone, config: TrainConfig) -> None:
    """Raise a UserError unless the backbone has a linear ImageNet-1k classifier over its tokens and fits all sizes."""
    for side in config.sides:
        backbone.check_size(side)
    classifier = backbone.network.get_classifier()
    if not isinstance(classifier, torch.nn.Linear) or classifier.weight.shape != (CLASSES, backbone.channels):
        raise UserError(
            f"expected a backbone with a linear classifier of {CLASSES} classes over its {backbone.channels} channels, "
            f"got {backbone.name} with {classifier}"
        )


def read_vocabulary(path: Path) -> list[str]:
    """Read the default vocabulary: one tag per line; lines that start with ``#`` are headings."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))


def _first_words(annotations: dict[str, list[str]], vocabulary: list[str]) -> list[str]:
    """Return the words that the table must contain: the vocabulary, the lexicon and tags used more than once."""
    counts: dict[str, int] = {}
    for tags in annotations.values():
        for tag in tags:
            counts[tag] = counts.get(tag, 0) + 1
    lexicon_words = [word for key, values in lexicon.IMPLIES.items() for word in (key, *values)]
    lexicon_words += [word for values in lexicon.CLASS_NAMES.values() for word in values]
    lexicon_words += [word for values in lexicon.FOLDER_NAMES.values() for word in values]
    tags = sorted(tag for tag, count in counts.items() if count > 1)
    return [normalize_label(word) for word in (*vocabulary, *lexicon_words, *tags)]


def list_photos(root: Path, annotations: dict[str, list[str]], knowledge: Knowledge, exclusions: Exclusions) -> Photos:
    """Find the photos, and hold out one in twelve of the annotated ones."""
    every = {path.relative_to(root).as_posix() for path in photos_in(root)}
    files = sorted(exclusions.keep(every))
    if not files:
        raise UserError(f"no photos in {root}: expected the subfolders {', '.join(FOLDERS)}")
    missing = sorted(annotations.keys() - every)
    if missing:
        raise UserError(f"{len(missing)} annotated photos are not in {root}, e.g. {missing[0]}")
    annotated = np.array([file in annotations for file in files])
    imagenet = np.array([file.startswith("imagenet1k/") for file in files])
    held = annotated & np.array([zlib.crc32(file.encode()) % HELD_OUT_ONE_IN == 0 for file in files])
    folder_words = {file: _folder_words(file, knowledge) for file in files}
    return Photos(files, folder_words, imagenet, annotated, held)


def training_phases(listing: Photos, targets: Targets, vocabulary: list[str]) -> tuple[Phase, ...]:
    """Return two phases: first with rare words sampled more often and many mosaics, then with unweighted photos.

    The first phase learns the appearance of words, the second their frequency (decoupled training, Kang et al. 2020,
    arXiv 1910.09217).
    """
    free = ~listing.held_out
    imagenet, others = listing.imagenet & free, listing.annotated & ~listing.imagenet & free
    rest = ~listing.annotated & ~listing.imagenet
    tags = {normalize_label(name) for name in vocabulary}
    counted = (targets.values > 0.5) & np.array([word in tags for word in targets.words])
    even = mixture((0.3, imagenet), (0.6, others), (0.1, rest))
    return (
        Phase(0.7, (rarity(counted, listing.annotated & free) + even) / 2, mosaics=1.0),
        Phase(1.0, mixture((0.15, imagenet), (0.8, others), (0.05, rest)), mosaics=0.4),
    )


def _folder_words(file: str, knowledge: Knowledge) -> frozenset[str]:
    collection, name = file.split("/")[:2]
    if collection == "imagenet1k":
        return knowledge.class_words(name.split("_")[0])
    if collection == "caltech101":
        names = lexicon.FOLDER_NAMES.get(name, (name.replace("_", " "),))
        return frozenset().union(*(knowledge.implied(normalize_label(one)) for one in names))
    return frozenset()


def imagenet_wnids(files: list[str]) -> list[str]:
    """Return the 1000 WordNet ids in class order, which is alphabetical."""
    wnids = sorted({Path(file).name.split("_")[0] for file in files if file.startswith("imagenet1k/")})
    if len(wnids) != CLASSES:
        raise UserError(f"expected photos of 1000 ImageNet classes in imagenet1k/, found {len(wnids)}")
    return wnids


@torch.inference_mode()
def class_probabilities(model: TaggerModel, cache: FeatureCache, rows: np.ndarray) -> np.ndarray:
    """Return the class probabilities of photos, float32 ``(N, 1000)``, as in the exported encoder."""
    found = []
    for row in rows.tolist():
        tokens = torch.from_numpy(cache.features(row, 0).astype(np.float32)).to(model.mean.device)  # (L, C)
        found.append(model.classes(tokens[None])[0].cpu().numpy())  # (1000,)
    return np.stack(found)


def evidence_probabilities(model: TaggerModel, data: TrainingData, rows: np.ndarray) -> np.ndarray:
    """Return the probabilities of classes and, with a detector, of objects in N photos, float32 ``(N, 1000 + M)``."""
    classes = class_probabilities(model, data.cache, rows)
    if data.detector is None:
        return classes
    objects = data.detector.objects(data.listing.files[row] for row in rows.tolist())
    return np.concatenate([classes, objects], axis=1)


def class_vectors(wnids: list[str], wordnet: WordNet, table: WordTable) -> Tensor:
    """Return unit word vectors of the ImageNet classes ``(1000, word_dim)``, averaged over the names of each class."""
    rows = [table.vectors(_class_names(wnid, wordnet, table)).mean(axis=0) for wnid in wnids]
    return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)))


def _class_names(wnid: str, wordnet: WordNet, table: WordTable) -> list[str]:
    """Return a class's everyday name and WordNet names; if none is in the table, those of the nearest hypernym."""
    known = set(table.words)
    names = [normalize_label(name) for name in lexicon.CLASS_NAMES.get(wnid, ())[:1]]
    names += [name for name in wordnet.synsets[wnid].names if name in known]
    while not names:
        wnid = wordnet.synsets[wnid].parents[0]
        names = [name for name in wordnet.synsets[wnid].names if name in known]
    return list(dict.fromkeys(names))


def make_model(backbone: Backbone, class_vectors: Tensor, config: TrainConfig) -> TaggerModel:
    """Return the initial model: a frozen backbone, its class reading, and a new head."""
    shape = {
        "class_reading": True,
        "class_evidence": True,
        "dim": config.dim,
        "ffn_dim": config.ffn_dim,
        "heads": config.heads,
    }
    model = build_model(backbone, {**shape, "dropout": config.dropout}, class_vectors.shape[1])
    model.reading = ClassReading(backbone.network.get_classifier(), class_vectors)
    torch.nn.init.constant_(model.head.bias, config.bias_init)  # most labels are absent from most photos
    return model


def fill_cache(
    model: TaggerModel,
    photos: Path,
    files: list[str],
    config: TrainConfig,
    work: Path,
    accelerator: Accelerator,
    kind: type[FeatureCache] = FeatureCache,
) -> FeatureCache:
    """Compute the backbone's features of all photos, or reuse those of an earlier run.

    Raises:
        UserError: the disk has no space, or a photo cannot be read.
    """
    check_disk_space(work, len(files), model, config)
    cache = kind(work / "features", photos, files, np.arange(len(files)), config)
    cache.fill(model, accelerator)
    if cache.faults:
        row, reason = next(iter(cache.faults.items()))
        raise UserError(f"{len(cache.faults)} photos cannot be read, the first is {photos / files[row]} ({reason})")
    return cache


def train_head(
    model: TaggerModel, data: TrainingData, config: TrainConfig, work: Path, accelerator: Accelerator
) -> TaggerModel:
    """Train the head to the end, resuming from a checkpoint in ``work`` if there is one; return the averaged model.

    Raises:
        Stopped: a signal stopped the training, after a checkpoint was written.
        UserError: the checkpoint has other settings, photos or words.
    """
    schedule = PhasedSchedule(training_phases(data.listing, data.targets, data.vocabulary), config)
    trainer = Trainer(model, **_trainer_inputs(model, data, schedule, work), config=config, accelerator=accelerator)
    return _run(trainer, work).eval()


def tune(
    model: TaggerModel, data: TrainingData, classes: np.ndarray, photos: Path, config: TrainConfig, work: Path
) -> tuple[TunedTagger, TrainingData]:
    """Train the last blocks of the backbone and the head to the end, resuming from a checkpoint if there is one.

    Args:
        classes: :func:`class_probabilities` of all photos, which the tuned model should keep.
        photos: root of the photos.

    Returns:
        tuple: the averaged model, with trained blocks rounded as they are stored, and the data with the feature maps
            that this model takes.

    Raises:
        Stopped, UserError: see :func:`train_head`.
    """
    accelerator = make_accelerator(config)
    tuned = TunedTagger(model, config.token_dropout).to(accelerator.device)
    folder = work / "tuning"
    folder.mkdir(exist_ok=True)
    maps = fill_cache(tuned, photos, data.listing.files, config, folder, accelerator, MapCache)
    data = replace(data, cache=maps)
    schedule = PhasedSchedule(training_phases(data.listing, data.targets, data.vocabulary), config)
    trainer = TuningTrainer(
        tuned,
        **_trainer_inputs(tuned, data, schedule, folder),
        config=config.changed(["freeze=false", "cache_views=0", "token_dropout=0", "mosaic4=0", "mosaic9=0"]),
        accelerator=accelerator,
    )
    trainer.classes_before = classes
    averaged = _run(trainer, folder)
    assert isinstance(averaged, TunedTagger)  # like the trained model
    averaged.cpu().eval().round_trained()
    return averaged, data


def _trainer_inputs(model: TaggerModel, data: TrainingData, schedule: PhasedSchedule, folder: Path) -> dict[str, Any]:
    """Return the arguments of a trainer except its model, settings and accelerator."""
    listing, targets = data.listing, data.targets
    vectors = data.table.vectors(targets.words)
    rows = np.arange(len(listing.files))
    split = Split(
        labels=tuple(targets.words), columns=np.arange(len(targets.words)), vectors=vectors,
        held_out=(), held_out_columns=rows[:0],
        train=rows[~listing.held_out], val=rows[listing.held_out],
    )  # fmt: skip
    return {
        "split": split,
        "targets": PartialTargets(targets.values, targets.weights),
        "schedule": schedule,
        "from_features": True,
        "parts_from": lambda step: data.cache.load(parts(schedule, step, 0, 1)),
        "validate": lambda _: ValidationFigures(),  # the last weights are kept
        "folder": folder,
        "data": fingerprint(
            listing.files, listing.held_out, targets.words, targets.values, targets.weights, vectors,
            *(phase.photos for phase in schedule.phases), *model.state_dict().values(),
        ),
    }  # fmt: skip


def _run(trainer: Trainer, folder: Path) -> TaggerModel:
    """Run a trainer to the end, resuming from a checkpoint in ``folder`` if there is one; return the averaged model."""
    if (folder / CHECKPOINT_FILE).is_file():
        trainer.resume()
        print(f"resumed at step {trainer.step:,}")
    run_trainer(trainer, folder)
    return trainer.averaged()


def synonyms(name: str, knowledge: Knowledge) -> set[str]:
    """Return a word, its synonyms in WordNet, and the words that imply it according to the lexicon.

    Words that it implies ("keyboard" implies "computer keyboard") are not included, even if they are near-synonyms.
    """
    word = normalize_label(name)
    same = {other for other, implied in lexicon.IMPLIES.items() if word in implied}
    synset = knowledge.synset(word)
    return {word, *same, *(knowledge.wordnet.synsets[synset].names if synset else ())}


def leave_out(targets: Targets, words: set[str]) -> Targets:
    """Return the targets without the columns of the given words."""
    keep = [column for column, word in enumerate(targets.words) if word not in words]
    return Targets([targets.words[column] for column in keep], targets.values[:, keep], targets.weights[:, keep])


def write_evidence(
    output: Path, model: TaggerModel, data: TrainingData, wnids: list[str], knowledge: Knowledge
) -> EvidenceWords:
    """Write the words, vectors and background for class evidence and the detector's; return the words."""
    words_for_classes = class_words(data.table.words, wnids, knowledge)
    write_class_words(output / CLASS_WORDS_FILE, words_for_classes)
    background_of(model, data).save(output / BACKGROUND_FILE)
    vectors = class_vectors(wnids, knowledge.wordnet, data.table).numpy()  # (N, word_dim)
    if data.detector is None:
        write_class_vectors(output, vectors)
        return EvidenceWords(words_for_classes)
    write_class_vectors(output, np.concatenate([vectors, data.table.vectors(list(OBJECTS))]))  # (N + M, word_dim)
    words_for_objects, _ = read_object_words(output / OBJECT_WORDS_FILE)
    return EvidenceWords.joint(words_for_classes, words_for_objects, CLASSES)


def write_class_vectors(folder: Path, vectors: np.ndarray) -> None:
    """Write ``class_vectors.npy`` from word vectors ``(N + M, word_dim)``, as float16."""
    write_whole(folder / CLASS_VECTORS_FILE, lambda file: np.save(file, vectors.astype(np.float16)))


@torch.inference_mode()
def background_of(model: TaggerModel, data: TrainingData) -> Background:
    """Return the encoded background photos, evenly spaced among the annotated ones."""
    listing = data.listing
    rows = np.flatnonzero(listing.annotated & ~listing.imagenet & ~listing.held_out)
    rows = np.unique(rows[np.linspace(0, len(rows) - 1, BACKGROUND_PHOTOS).astype(np.int64)])
    tokens = [model.embed(data.cache.stack([row]).float())[0].numpy() for row in rows.tolist()]  # (L, D) each
    return Background(Encoded(np.stack(tokens), evidence_probabilities(model, data, rows)))


def calibrate(model: TaggerModel, data: TrainingData, words: EvidenceWords, knowledge: Knowledge) -> Calibration:
    """Fit the probes of all trained words on the training photos, then calibrate the words on the held-out photos."""
    listing, targets, held_out = data.listing, data.targets, data.listing.held_out
    classes = evidence_probabilities(model, data, np.arange(len(listing.files)))  # (N, C)
    features = with_classes(pooled_tokens_of(model, data), classes)  # (N, F)
    probes = fit_probes(features[~held_out], targets.select(~held_out))

    listed = {normalize_label(name): name for name in data.vocabulary}
    names = [listed.get(word, word) for word in targets.words]
    default = np.array([word in listed for word in targets.words])
    trained = (targets.values[~held_out] > 0.5).any(axis=0)
    scores = score_cached(model, torch.from_numpy(data.table.vectors(names)), data.cache, np.flatnonzero(held_out))
    truth, known = targets.values[held_out] == 1, targets.weights[held_out] > 0  # exactly 1: annotated, not predicted
    photos = HeldOutPhotos(scores.logits, classes[held_out], truth, known)
    of_labels = WordsOfLabels.of(targets.words, words)
    scoring = unprobed_scoring(photos, of_labels)
    probes = probes.scaled(factors_of_probes(photos, of_labels, default))
    photos = replace(photos, logits=photos.logits + probes.log_odds(features[held_out]))
    labels = calibrate_labels(photos, names, default, trained, words, knowledge, probes.numbers)
    return Calibration(labels, probes, scoring)


@torch.inference_mode()
def pooled_tokens_of(model: TaggerModel, data: TrainingData) -> np.ndarray:
    """Return the pooled tokens of all photos, float32 ``(N, 2 D)``."""
    rows = range(len(data.listing.files))
    return np.concatenate([pooled_tokens(model.embed(data.cache.stack([row]).float()).numpy()) for row in rows])


def reliability_of(data: TrainingData, calibrated: CalibratedLabels, photos: Path) -> dict[str, Reliability]:
    """Return the reliability of scores on held-out photos: by the annotation, and by complete labels if available."""
    rows = np.flatnonzero(data.listing.held_out)
    curves = {"all words, as annotated": calibrated.reliability}
    numbers, names, complete = complete_truth(photos, [data.listing.files[row] for row in rows])
    column_of = {label.name: column for column, label in enumerate(calibrated.labels)}
    known = [number for number, name in enumerate(names) if name in column_of]
    if known:
        scores = calibrated.scores[np.ix_(numbers, [column_of[names[number]] for number in known])]
        title = f"{len(known)} COCO classes, labelled in full"
        curves[title] = Reliability.of(scores.ravel(), complete[:, known].ravel())
    return curves


def shipped_weights(model: TaggerModel, blocks_of_pypi: int | None = None) -> dict[str, Tensor]:
    """Return the weights to store, without those of the backbone that are on PyPI.

    Args:
        blocks_of_pypi: number of unchanged blocks, see :func:`names_not_on_pypi`; if given, weights are stored in
            float16 if that is exact.
    """
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if model.backbone.name.partition(".")[0] not in LITE_PACKAGES:
        return state
    names = sorted(names_not_on_pypi(state, blocks_of_pypi))
    return {name: state[name] if blocks_of_pypi is None else _as_half_if_exact(state[name]) for name in names}


def _blocks_of_pypi(model: TaggerModel) -> int | None:
    """Return the number of blocks of a tuned backbone that are unchanged from PyPI; None if all or none are."""
    if not isinstance(model, TunedTagger) or model.backbone.name.partition(".")[0] not in LITE_PACKAGES:
        return None
    return len(model.backbone.network.blocks) - TRAINED_BLOCKS


def _as_half_if_exact(value: Tensor) -> Tensor:
    """Convert a float32 tensor to float16 if that changes no value."""
    half = value.half() if value.dtype == torch.float32 else value
    return half if torch.equal(half.to(value.dtype), value) else value
