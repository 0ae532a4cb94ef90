"""Write the tables of README.md, docs/figures.md and docs/search.md from ``benchmarks/results/*.json``.

python -m benchmarks.readme_tables
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import RESULTS, ROOT

COMMAND = "python -m benchmarks.readme_tables"


def main() -> None:
    for path, changed in (
        ("README.md", with_headline),
        ("docs/figures.md", with_tables),
        ("docs/search.md", with_search_tables),
        ("docs/teach.md", with_teach_tables),
    ):
        page = ROOT / path
        page.write_text(changed(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_headline(text: str) -> str:
    """Return the README with its two rows of accuracy from the latest results."""
    return _between(text, "headline", headline())


def with_tables(text: str) -> str:
    """Return docs/figures.md with its tables from the latest results."""
    return _between(text, "figures", tables())


def _between(text: str, name: str, content: str) -> str:
    """Return a page with the content between the two comments of a name replaced."""
    start, end = f"<!-- {name}: {COMMAND} -->\n", f"<!-- /{name} -->"
    before, rest = text.split(start)
    return before + start + content + end + rest.split(end)[1]


def with_search_tables(text: str) -> str:
    """Return docs/search.md with its tables from the latest results."""
    search, stores = _read("search")["figures"], _read("search_stores")["figures"]
    parts = {
        "forms": _form_rows(search), "speed": _speed_rows(search), "scale": _scale_rows(), "stores": _store_rows(stores),
    }  # fmt: skip
    for name, rows in parts.items():
        start, end = f"<!-- {name}: python -m benchmarks.readme_tables -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        text = before + start + rows + "\n" + end + rest.partition(end)[2]
    return text


def with_teach_tables(text: str) -> str:
    """Return docs/teach.md with its tables from the latest results."""
    start, end = "<!-- taught: python -m benchmarks.readme_tables -->\n", "<!-- /taught -->"
    before, _, rest = text.partition(start)
    return before + start + _taught_rows(_read("teach")["figures"]) + "\n" + end + rest.partition(end)[2]


_TAUGHT = {
    "never trained": "20 names that the model was not trained on",
    "trained": "20 names that it was trained on",
    "words with 75 or more": "the names, of these 40, whose word alone reaches 75",
}


def _taught_rows(taught: dict[str, Any]) -> str:
    kinds = ("without an index", "with an index")
    rows = [
        f"| {taught['examples']} examples, {taught['distractors']:,} other photos | word alone | {kinds[0]} | {kinds[1]} |",
        "|---|---|---|---|",
    ]
    for name in [name for name in taught[kinds[0]] if not name.startswith("each")]:
        alone, *of_kinds = taught[kinds[0]][name]["word alone"], *(taught[kind][name]["taught"] for kind in kinds)
        rows.append(f"| {_TAUGHT.get(name, name)} | {alone} | {' | '.join(map(str, of_kinds))} |")
    rows += ["", "| examples | things | word alone | without an index | with an index |", "|---|---|---|---|---|"]
    for count, point in taught["curve"].items():
        alone, *of_kinds = point[kinds[0]]["word alone"], *(point[kind]["taught"] for kind in kinds)
        rows.append(f"| {count.split()[0]} | {point['things']} | {alone} | {' | '.join(map(str, of_kinds))} |")
    return "\n".join(rows)


def _form_rows(search: dict[str, Any]) -> str:
    rows = [
        "| format | bytes | score error: mean | 99.9 % | maximum | tags shared | same ten best |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in search["forms of tokens"].items():
        off = " | ".join(f"{own[f'score off by, {what}']:.4f}" for what in ("mean", "99.9 %", "most"))
        shared, best = 100 * own["tags shared"], 100 * own["same ten best photos"]
        title = name.replace("a scale a", "one scale per").replace("6 x 6 places", "6 x 6 positions")
        title = f"**{title}**" if name.endswith(("by channel", "vocabulary")) else title
        rows.append(f"| {title} | {own['bytes']:,} | {off} | {shared:.1f} % | {best:.1f} % |")
    return "\n".join(rows)


def _speed_rows(search: dict[str, Any]) -> str:
    own, sizes, command = search["search"], search["bytes a photo"], search["command"]
    warm, slowest = own["warm, median s"], own["warm, slowest s"]
    found, worst = own["of the exact 100 best found"], own["worst query"]
    alone = own["of the exact 100 best found by the first step alone"]
    return f"""| {search["photos"]:,} photos, {search["of these mirrored token maps"]:,} of them mirrored token maps | |
|---|---|
| bytes per photo: file / largest tokens | {sizes["file over photos"]:,} / {sizes["tokens, largest"]:,} |
| `index` again, without new photos | {search["nothing new, s"]:.1f} s |
| query with an open index: vocabulary / phrases / words (slowest) | {warm["vocabulary"]:.3f} / {warm["phrases"]:.2f} / {warm["words"]:.2f} s ({max(slowest.values()):.2f} s) |
| first query, which reads the stored scores | {own["first query, s"]:.2f} s |
| `zsl-tagger search "dog"`, start to exit: from page cache / from disk | {command['"dog", warm, s']:.2f} / {command['"dog", cold, s']:.2f} s |
| the same for `zsl-tagger search "red bicycle"` | {command['"red bicycle", warm, s']:.2f} / {command['"red bicycle", cold, s']:.2f} s |
| recall of the exact 100 best: phrases / words | {100 * found["phrases"]:.1f} / {100 * found["words"]:.1f} % |
| the same for step 1 alone, with the same number of scored photos | {100 * alone["phrases"]:.1f} / {100 * alone["words"]:.1f} % |
| worst query | {100 * worst["phrases"]:.0f} / {100 * worst["words"]:.0f} % |"""


def _scale_rows() -> str:
    scale, million = _read("search_scale")["figures"], _read("search_million")["figures"]
    rows = [
        f"| CPU seconds, start to exit (peak memory) | {scale['photos']:,} photos, before blocks | "
        f"{scale['photos']:,} photos | {million['photos']:,} photos |",
        "|---|---|---|---|",
    ]
    for what in ("a word of the vocabulary", "another phrase", "index again, nothing new"):
        cells = [_cpu(scale[what]["before"]), _cpu(scale[what]["after"])]
        cells.append(_cpu(million[what]["after"]) if what in million else "not measured")
        title = what.replace("index again, nothing new", "`index` again, without new photos")
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cpu(measured: dict[str, Any]) -> str:
    return f"{measured['CPU s, median']:.1f} s ({measured['peak memory, MB']} MB)"


def _store_rows(stores: dict[str, Any]) -> str:
    names = [
        "a row written, ms", "a row replaced, ms", "logits of all rows read, s", "tokens of 1,000 rows read, s",
        "bytes a row", "opens after a kill, of 3", "rows lost", "installed, MB",
    ]  # fmt: skip
    kinds = [kind for kind in stores if kind != "rows"]
    rows = [f"| | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    titles = {
        "a row written, ms": "write a row, ms",
        "a row replaced, ms": "replace a row, ms",
        "logits of all rows read, s": "read the logits of all rows, s",
        "tokens of 1,000 rows read, s": "read the tokens of 1,000 rows, s",
        "bytes a row": "bytes per row",
        "opens after a kill, of 3": "opens after a kill, out of 3",
        "installed, MB": "installed size, MB",
    }
    for name in names:
        rows.append(f"| {titles.get(name, name)} | {' | '.join(_number(stores[kind][name]) for kind in kinds)} |")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "stores none" if value is None else f"{value:,}"


def headline() -> str:
    """Return the README's table: accuracy of the default tags, and of words that were never trained."""
    found = _read("default_tags")["figures"]
    right, useless, wrong, subject = (found[part] for part in ("precision", "useless", "false", "main subject found"))
    names = _read("tagging_accuracy_names_kept_out")["figures"]["zsl-tagger tag"]
    return f"""
| measured on | |
|---|---|
| default tags on {found["photos"]} COCO photos, judged by eye | {right["%"]:.0f} % correct ({right["low"]:.0f} to {right["high"]:.0f}), {useless["%"]:.0f} % correct but useless, {wrong["%"]:.0f} % wrong; the main subject is found in {subject["%"]:.0f} % ({subject["low"]:.0f} to {subject["high"]:.0f}) |
| 80 names that were held out of training, on 100 COCO photos | mAP {_interval(names, "mAP")}, F1@3 {_interval(names, "F1@3")} |

"""


def tables() -> str:
    accuracy, speed, size = (_read(name) for name in ("tagging_accuracy", "tagging_speed", "install_size"))
    nus_wide, photos_run, training = (_read(name) for name in ("prepare_nus_wide", "my_photos", "training_speed"))
    zero_shot, peers = _read("query_augmentation")["figures"], _read("zero_shot")["figures"]
    evaluation, open_images = _read("evaluation_speed")["figures"], _read("prepare_open_images")["figures"]
    maps = _read("heatmaps")["figures"]
    search, scale = _read("search")["figures"], _read("search_scale")["figures"]
    served, sidecars = _read("serve")["figures"], _read("sidecars")["figures"]
    compared, partial = _read("heads")["figures"], _read("partial_labels")["figures"]
    many, heads = _read("shortlist")["figures"], _read("head")["figures"]
    loading, head = training["figures"]["loading"], training["figures"]["head"]
    kept_out = _read("tagging_accuracy_names_kept_out")["figures"]["zsl-tagger tag"]
    ours, conse = accuracy["figures"]["zsl-tagger tag"], accuracy["figures"]["ConSE, same backbone and word vectors"]
    cold, labels, folder = (speed["figures"][part] for part in ("cold", "labels", "folder"))
    new_to_detector = accuracy["figures"]["zsl-tagger tag, only photos of val2017"]
    photos, classes = accuracy["figures"]["photos"], accuracy["figures"]["classes_with_3_positives"]
    return f"""
| {photos} COCO photos, 80 names (the names and other COCO photos are in training; the detector's training had 50 of these photos) | mAP ({classes} names with at least 3 photos) | F1@3 |
|---|---|---|
| `zsl-tagger tag` | {_interval(ours, "mAP")} | {_interval(ours, "F1@3")} |
| on the 50 photos of val2017, which the detector's training did not have (fewer photos: mAP is higher) | {_interval(new_to_detector, "mAP")} | {_interval(new_to_detector, "F1@3")} |
| the same training without the detector, without COCO photos, without the COCO names and without the words that mean or imply them | {_interval(kept_out, "mAP")} | {_interval(kept_out, "F1@3")} |
| ConSE | {_interval(conse, "mAP")} | {_interval(conse, "F1@3")} |

| default tags on 99 COCO photos, judged by eye, percent | correct and useful | useless | wrong | found of what a person names | main subject found | tags per photo |
|---|---|---|---|---|---|---|
{_default_tag_rows()}

| heat maps, percent | map moves with its photo ({maps["number of mosaics"]} mosaics of two; chance 50) | highest position in a box of the label (coco100; chance {maps["boxes"]["heat map"]["by chance"]:.0f}) | share of the map in the boxes (chance {maps["boxes"]["heat map"]["by chance (area)"]:.0f}) |
|---|---|---|---|
{_heat_rows(maps)}

| `train --recipe my-photos`: Caltech-101, {photos_run["figures"]["classes"]} classes, {photos_run["figures"]["training_photos_a_class"]} photos per class | |
|---|---|
| top-1 on the other {photos_run["figures"]["test_photos"]["mean"]:,.0f} photos, percent | {_range(photos_run["figures"]["top1"])} |
| top-1, mean over classes, percent | {_range(photos_run["figures"]["mean_of_classes"])} |
| minutes on two CPU cores, including features and export | {_range(photos_run["figures"]["train_minutes"])} |

| comparison with other methods: same features, vectors and splits; {peers["seeds"]} seeds | ZSL mAP (95 %) | gain of ours (95 %) | ZSL F1@3 / names centred | GZSL mAP | GZSL F1@3 / names centred | coco100 mAP |
|---|---|---|---|---|---|---|
{_peer_rows(peers["methods"])}

| zero-shot training, {zero_shot["labels"]["seen"]} seen and {zero_shot["labels"]["unseen"]} unseen names, {zero_shot["seeds"]} seeds | ZSL mAP | gain (95 %) | ZSL F1@3 | GZSL mAP | GZSL F1@3 | GZSL F1@3 with bias |
|---|---|---|---|---|---|---|
{_zero_shot_rows(zero_shot["variants"])}

| the head compared with the released algorithm: same weights, 2,048 x 7 x 7, width 768 | | released | ours | speedup | with prepared labels | with bfloat16 | with both | peak MB, released / ours |
|---|---|---|---|---|---|---|---|---|
{_head_rows(heads)}

| heads in one trainer, on the same features of Lite2 at 224 px; 18 COCO classes, {compared["photos"]["train"]:,} training photos, {compared["seeds"]} seeds | mAP, {compared["photos"]["coco_captions"]} COCO photos | gain over pooling | mAP, coco100 | gain over pooling | parameters | ms |
|---|---|---|---|---|---|---|
{_compared_rows(compared["heads"])}

| ML-Decoder on the same photos with partial labels | mAP, {partial["photos"]["coco_captions"]} COCO photos | gain over `negative` | mAP, coco100 | gain over `negative` |
|---|---|---|---|---|
{_partial_rows(partial["known"])}

| {speed["machine"]}, medians | |
|---|---|
| `zsl-tagger tag one.jpg --labels "dog,beach"`, process start to exit | {cold["tag_two_labels_s"]["median"]:.2f} s |
| `zsl-tagger tag one.jpg`, all tags of the vocabulary | {cold["tag_vocabulary_s"]["median"]:.2f} s |
| relative to `python -c "import onnxruntime, PIL, numpy"`, two labels / vocabulary | {cold["ratio_two_labels"]:.1f} x / {cold["ratio_vocabulary"]:.1f} x; in CPU time {cold["cpu_ratio_two_labels"]:.1f} x / {cold["cpu_ratio_vocabulary"]:.1f} x |
| peak memory | {cold["peak_memory_mb"]} MB |
| `zsl-tagger --help` minus `python -c pass` | {speed["figures"]["help"]["more_than_python_c_pass_s"]:.2f} s |
| one photo, warm: 1 / 1,000 / 10,000 labels | {" / ".join(_milliseconds(labels, n) for n in (1, 1000, 10_000))} ms |
| the same with {many["labels"]:,} labels: shortlist / all scored | {many["100,000 labels, shortlist, ms"]:.0f} / {many["100,000 labels, each, ms"]:,.0f} ms |
| `zsl-tagger tag one.jpg --labels-file FILE` with {many["labels"]:,} labels, process start to exit | {many["100,000 labels, cold command, s"]:.1f} s, {many["100,000 labels, cold command, peak memory, MB"]} MB |
| recall of the ten best of {many["labels"]:,} labels with the shortlist ({many["photos"]} photos) | {100 * many["of the exact ten best found"]:.1f} % |
| a folder of {folder["photos"]} photos: 2 labels / vocabulary | {folder["two_labels_photos_per_s"]:.0f} / {folder["vocabulary_photos_per_s"]:.0f} photos/s |
| relative to the encoder alone on decoded arrays | {folder["two_labels_ratio"]:.2f} x / {folder["vocabulary_ratio"]:.2f} x |
| search in {search["photos"]:,} photos with an open index: label of the vocabulary / other phrases | {1000 * search["search"]["warm, median s"]["vocabulary"]:.0f} / {1000 * search["search"]["warm, median s"]["phrases"]:,.0f} ms |
| `zsl-tagger search "red bicycle"` in these photos, process start to exit | {search["command"]['"red bicycle", warm, s']:.1f} s |
| `zsl-tagger search` in {scale["photos"]:,} photos, CPU seconds: label of the vocabulary / other phrase | {scale["a word of the vocabulary"]["after"]["CPU s, median"]:.1f} / {scale["another phrase"]["after"]["CPU s, median"]:.1f} s |
| peak memory of these searches | {scale["a word of the vocabulary"]["after"]["peak memory, MB"]} / {scale["another phrase"]["after"]["peak memory, MB"]} MB |
| `zsl-tagger index` again over {scale["photos"]:,} known photos, CPU seconds | {scale["index again, nothing new"]["after"]["CPU s, median"]:.1f} s |
| recall of the exact 100 best photos: phrases / random words | {100 * search["search"]["of the exact 100 best found"]["phrases"]:.1f} / {100 * search["search"]["of the exact 100 best found"]["words"]:.1f} % |
| size of a photo in the index | {search["bytes a photo"]["file over photos"] / 1000:.0f} KB |
| wheel / base install in an empty environment | {size["figures"]["wheel_mb"]:.0f} MB / {size["figures"]["base_install_mb"]:.0f} MB |
| `tag --sidecar xmp` compared with `tag`, {sidecars["photos"]:,} photos: new sidecars / unchanged sidecars | {sidecars["new sidecars"]["overhead, percent"]:+.1f} / {sidecars["sidecars as they are"]["overhead, percent"]:+.1f} % |
{_serve_rows(served)}
| `prepare nus-wide --skip-images`, {nus_wide["figures"]["rows"]:,} rows x {nus_wide["figures"]["columns"]:,} columns | {nus_wide["figures"]["seconds"]["median"]:.0f} s, {nus_wide["figures"]["peak_memory_mb"] / 1000:.1f} GB |
| `prepare open-images --skip-images`, {open_images["rows"]:,} rows, {open_images["labels"]:,} labels | {open_images["seconds"]:.0f} s, {open_images["peak_memory_mb"] / 1000:.1f} GB |
| `evaluate --scores`, {evaluation["images"]:,} images x {evaluation["labels"]:,} labels, without intervals | {evaluation["without intervals"]["seconds"]["median"]:.0f} s, {evaluation["peak_memory_without_intervals_mb"] / 1000:.1f} GB |
| the same with 1,000 resamples | {evaluation["1,000 resamples"]["seconds"]["median"]:.0f} s, {evaluation["peak_memory_mb"] / 1000:.1f} GB |
| speed of training all of Lite0 with reading and augmentation, relative to pixels in memory | {loading["ratio"]["median"]:.2f} x |
| time of a ResNet-50 training step with the head and 925 labels, relative to no head, batch 1 and 8 | {head["batch 1"]["ratio"]["median"]:.2f} x, {head["batch 8"]["ratio"]["median"]:.2f} x |

"""


def _interval(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_95%"]
    return f"{figures[name]:.1f} ({low:.1f} to {high:.1f})"


def _range(figure: dict[str, float]) -> str:
    spread = f" ({figure['low']:.1f} to {figure['high']:.1f})" if figure["low"] < figure["high"] else ""
    return f"{figure['mean']:.1f}{spread}"


def _zero_shot_rows(variants: dict[str, Any]) -> str:
    names = ("ZSL F1@3", "GZSL mAP", "GZSL F1@3", "GZSL F1@3 with the bias")
    rows = []
    for variant, figures in variants.items():
        gain = figures["gain in ZSL mAP"]
        change = "" if variant == "none" else f"{gain['mean']:+.1f} ({gain['95%'][0]:+.1f} to {gain['95%'][1]:+.1f})"
        others = " | ".join(f"{figures[name]['mean']:.1f}" for name in names)
        rows.append(f"| query augmentation: {variant} | {_range(figures['ZSL mAP'])} | {change} | {others} |")
    return "\n".join(rows)


def _compared_rows(heads: dict[str, Any]) -> str:
    return "\n".join(
        f"| {name} | {_test_sets(own, 'gain over pooling, mAP')} | {own['parameters']:,} | {own['ms']:.2f} |"
        for name, own in heads.items()
    )


def _partial_rows(known: dict[str, Any]) -> str:
    rows = []
    for share, losses in known.items():
        for name, own in losses.items():
            if name != "known":
                rows.append(f"| {share} known: `{name}` | {_test_sets(own, 'gain over negative, mAP')} |")
    return "\n".join(rows).replace("100 % known: `all known`", "all labels known")


def _test_sets(own: dict[str, Any], gain: str) -> str:
    """Return the mAP and the gain on both test sets, as four cells."""
    cells = []
    for tested in ("coco_captions", "coco100"):
        figures, gained = own[tested], own.get(gain, {}).get(tested)
        cells.append(f"{figures['mAP']:.1f} ({figures['95%'][0]:.1f} to {figures['95%'][1]:.1f})")
        cells.append(f"{gained['mean']:+.1f} ({gained['95%'][0]:+.1f} to {gained['95%'][1]:+.1f})" if gained else "")
    return " | ".join(cells)


def _head_rows(figures: dict[str, Any]) -> str:
    rows = []
    for case, directions in figures.items():
        if not isinstance(directions, dict) or not (case.startswith("925") or case.endswith("batch 8")):
            continue  # the others are in the file
        for direction, own in directions.items():
            variants = ("ours", "ours, prepared queries", "ours, bfloat16", "ours, bfloat16, prepared queries")
            ratios = [own.get(f"released over {variant}") for variant in variants]
            speedups = " | ".join("" if ratio is None else f"{ratio[0]:.2f} x" for ratio in ratios)
            memory = f"{own['released, peak MB']:,} / {own['ours, peak MB']:,}"
            times = f"{own['released, ms']:,.0f} ms | {own['ours, ms']:,.0f} ms"
            rows.append(f"| {case} | {direction} | {times} | {speedups} | {memory} |")
    return "\n".join(rows)


def _default_tag_rows() -> str:
    rows = []
    for name, file in (("`zsl-tagger tag`", "default_tags"), ("the previous model", "default_tags_before")):
        found = _read(file)["figures"]
        shares = [
            found[part] for part in ("precision", "useless", "false", "recall of the named", "main subject found")
        ]
        cells = [f"{share['%']:.0f} ({share['low']:.0f} to {share['high']:.0f})" for share in shares]
        rows.append(f"| {name} | {' | '.join(cells)} | {found['tags a photo']} |")
    return "\n".join(rows)


def _heat_rows(maps: dict[str, Any]) -> str:
    names = {"heat map": "`tag --heatmap`", "attention": "raw attention"}
    return "\n".join(
        f"| {name} | {maps['mosaics'][kind]['moves with the photo']:.0f} "
        f"| {maps['boxes'][kind]['highest place in a box']:.0f} | {maps['boxes'][kind]['share in the boxes']:.0f} |"
        for kind, name in names.items()
    )


def _serve_rows(served: dict[str, Any]) -> str:
    load, memory, malformed = served["load"], served["memory"], served["malformed"]
    others = sum(count for status, count in load["statuses"].items() if status not in ("200", "429"))
    sizes = next(value for name, value in memory.items() if name.startswith("MB at the start"))
    return f"""| `serve`, {load["clients"]} simultaneous clients with one photo each ({served["kB a photo"]} kB): p50 / p95 | {load["p50, s"]:.1f} / {load["p95, s"]:.1f} s |
| the same: photos/s, relative to `tag_many`; responses other than 200 and 429 | {load["photos/s"]:.0f}, {load["over tag_many"]:.2f} x; {others} of {sum(load["statuses"].values()):,} |
| `serve`, memory after {memory["statuses"]["200"] // 10:,} / {memory["statuses"]["200"]:,} requests | {sizes[1]:.0f} / {sizes[-1]:.0f} MB |
| `serve`, {malformed["uploads"]:,} malformed uploads: crashes, 5xx | {0 if malformed["tags after that"] else 1}, {malformed["of them 5xx"]} |"""


def _peer_rows(methods: dict[str, Any]) -> str:
    rows = []
    for name, figures in methods.items():
        gain = figures.get("gain of ours")
        change = "" if gain is None else f"{gain:+.1f} ({_edges(figures['gain of ours_95%'], '+')})"
        zsl, gzsl = (
            f"{figures[f'{kind} F1@3']:.1f} / {figures[f'{kind} F1@3, names centred']:.1f}" for kind in ("ZSL", "GZSL")
        )
        others = f"{zsl} | {figures['GZSL mAP']:.1f} | {gzsl} | {figures['coco100 mAP']:.1f}"
        rows.append(f"| {name} | {figures['ZSL mAP']:.1f} ({_edges(figures['ZSL mAP_95%'])}) | {change} | {others} |")
    return "\n".join(rows)


def _edges(edges: list[float], sign: str = "") -> str:
    return " to ".join(f"{edge:{sign}.1f}" for edge in edges)


def _milliseconds(labels: dict[str, Any], count: int) -> str:
    return f"{1000 * labels[f'{count}_labels_s']['median']:.0f}"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
