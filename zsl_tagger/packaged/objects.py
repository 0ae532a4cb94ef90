"""COCO's 80 objects, which the packaged model's detector was trained on, and the words that they stand for."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from zsl_tagger.system.files import write_whole
from zsl_tagger.words.spelling import normalize_label

# Objects in the order of COCO's class numbers, with other words for each.
OBJECTS: dict[str, tuple[str, ...]] = {
    "person": ("people", "human", "human being", "somebody"),
    "bicycle": ("bike", "cycle", "pushbike"),
    "car": ("automobile", "auto", "motorcar"),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aeroplane"),
    "bus": ("autobus", "motorbus", "motorcoach"),
    "train": ("railroad train", "railway train"),
    "truck": ("lorry",),
    "boat": (),
    "traffic light": ("traffic signal", "stoplight"),
    "fire hydrant": ("hydrant", "fireplug"),
    "stop sign": (),
    "parking meter": (),
    "bench": (),
    "bird": (),
    "cat": ("kitty", "domestic cat", "house cat"),
    "dog": ("doggy", "domestic dog"),
    "horse": (),
    "sheep": (),
    "cow": ("cattle", "cows"),
    "elephant": (),
    "bear": (),
    "zebra": (),
    "giraffe": (),
    "backpack": ("rucksack", "knapsack", "haversack"),
    "umbrella": (),
    "handbag": ("purse",),
    "tie": ("necktie",),
    "suitcase": (),
    "frisbee": (),
    "skis": ("ski",),
    "snowboard": (),
    "sports ball": (),
    "kite": (),
    "baseball bat": (),
    "baseball glove": ("baseball mitt",),
    "skateboard": (),
    "surfboard": (),
    "tennis racket": ("tennis racquet",),
    "bottle": (),
    "wine glass": ("wineglass",),
    "cup": (),
    "fork": (),
    "knife": (),
    "spoon": (),
    "bowl": (),
    "banana": (),
    "apple": (),
    "sandwich": (),
    "orange": (),
    "broccoli": (),
    "carrot": (),
    "hot dog": ("hotdog",),
    "pizza": (),
    "donut": ("doughnut",),
    "cake": (),
    "chair": (),
    "couch": ("sofa",),
    "potted plant": ("houseplant",),
    "bed": (),
    "dining table": (),
    "toilet": (),
    "tv": ("television", "television set", "tv set"),
    "laptop": ("laptop computer", "notebook computer"),
    "mouse": ("computer mouse",),
    "remote": ("remote control",),
    "keyboard": ("computer keyboard",),
    "cell phone": ("cellphone", "mobile phone", "smartphone", "cellular phone"),
    "microwave": ("microwave oven",),
    "oven": (),
    "toaster": (),
    "sink": (),
    "refrigerator": ("fridge", "icebox"),
    "book": (),
    "clock": (),
    "vase": (),
    "scissors": ("pair of scissors",),
    "teddy bear": ("teddy",),
    "hair drier": ("hair dryer", "blow dryer"),
    "toothbrush": (),
}

# Hypernyms of objects, as far as the detector helps to tell them on held-out photos. It does not for "appliance",
# "electronics", "pet" or "livestock", for instance.
_BEASTS = ("cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
ABOVE: dict[str, tuple[str, ...]] = {
    "animal": ("bird", *_BEASTS),
    "mammal": _BEASTS,
    "vehicle": ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    "motor vehicle": ("car", "motorcycle", "bus", "truck"),
    "aircraft": ("airplane",),
    "food": ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    "fruit": ("banana", "apple", "orange"),
    "vegetable": ("broccoli", "carrot"),
    "dessert": ("donut", "cake"),
    "furniture": ("bench", "chair", "couch", "bed", "dining table"),
    "table": ("dining table",),
    "plant": ("potted plant",),
    "bag": ("backpack", "handbag", "suitcase"),
    "luggage": ("backpack", "suitcase"),
    "baggage": ("backpack", "suitcase"),
    "ball": ("sports ball",),
    "sports equipment": (
        "frisbee", "skis", "snowboard", "sports ball", "baseball bat", "baseball glove", "skateboard", "surfboard",
        "tennis racket",
    ),
    "toy": ("frisbee", "kite", "teddy bear"),
    "cutlery": ("fork", "knife", "spoon"),
    "computer": ("laptop",),
}  # fmt: skip


def object_words() -> dict[str, dict[str, list[int]]]:
    """Return the numbers of the objects that words name, or are hypernyms of: ``{"names": ..., "above": ...}``."""
    numbers = {name: number for number, name in enumerate(OBJECTS)}
    names: dict[str, list[int]] = defaultdict(list)
    for name, others in OBJECTS.items():
        for word in (name, *others):
            names[normalize_label(word)].append(numbers[name])
    above = {normalize_label(word): [numbers[name] for name in below] for word, below in ABOVE.items()}
    return {"names": dict(names), "above": above}


def write_object_words(path: Path) -> None:
    """Write ``object_words.json``.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    write_whole(path, json.dumps({"objects": list(OBJECTS), **object_words()}).encode())
