"""Measure time and memory of the head against the released algorithm with the same weights.

    python -m benchmarks.head [--device cuda] [--compile]

The released algorithm is reimplemented here from its description (a query for each label and image through the
whole layer, ``nn.MultiheadAttention``, one product per query in a Python loop at the end), since the released code and
timm's copy fail on torch >= 2.1. Sizes: 2,048 channels, 7x7 tokens, width 768, float32; also bfloat16 autocast, ours.

Times are medians of runs in turn, ratios within one run. Peak memory is what a process needs beyond the tensors that
it starts with, each case in a process of its own (on a GPU: torch.cuda.max_memory_allocated).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import ROOT, write_result
from zsl_tagger.model.ml_decoder import MLDecoder
from zsl_tagger.system.threads import keep_freed_memory

CHANNELS, TOKENS, WORD_DIM = 2048, 49, 300
SEED = 0

#: {name: (options of the head, labels)}.
HEADS: dict[str, tuple[dict[str, int], int]] = {
    "925 word queries": ({"word_dim": WORD_DIM}, 925),
    "9,605 classes, 200 groups": ({"num_classes": 9605, "groups": 200}, 9605),
    "80 classes": ({"num_classes": 80}, 80),
}
BATCHES = (1, 8, 64)
DIRECTIONS = ("forward", "forward + backward")
SECONDS, AT_MOST = 5.0, 40.0  # time per case: at least three turns, or one turn of slow cases


class ReleasedHead(nn.Module):
    """Released algorithm with the weights of our head; it has no dropout, so it is for evaluation only."""

    def __init__(self, head: MLDecoder):
        super().__init__()
        self.head = head
        ours = head.layer.attention
        self.attention = nn.MultiheadAttention(head.dim, ours.heads)
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
            self.attention.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        self.attention.out_proj.load_state_dict(ours.out.state_dict())

    def forward(self, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        """Return logits ``(B, K)`` of tokens ``(B, L, C)`` and words ``(K, word_dim)``."""
        head, layer, images = self.head, self.head.layer, len(tokens)
        memory = F.relu(head.embed(tokens)).transpose(0, 1)  # (L, B, D)
        queries = head.group_queries if head.word_embed is None else F.relu(head.word_embed(words))  # (Q, D)
        t = queries.unsqueeze(1).expand(-1, images, -1)  # (Q, B, D)
        t = layer.norm1(t + t)
        t = layer.norm2(t + self.attention(t, memory, memory)[0])
        t = layer.norm3(t + layer.linear2(F.relu(layer.linear1(t))))
        states = t.transpose(0, 1)  # (B, Q, D)
        outputs = tokens.new_zeros(images, len(queries), head.group_weight.shape[2])
        for query in range(len(queries)):
            weight = head.group_weight[query if head.word_embed is None else 0]  # (D, f)
            outputs[:, query] = states[:, query] @ weight
        return outputs.flatten(1)[:, : head.num_classes] + head.bias  # (B, K)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, which needs a C++ compiler")
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)  # head, batch, whose, direction
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.memory_of:
        print(peak_memory(arguments.device, *arguments.memory_of))
        return
    figures: dict[str, object] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for name in HEADS:
        for batch in BATCHES:
            figures[f"{name}, batch {batch}"] = {
                direction: measured(arguments, name, batch, direction) for direction in DIRECTIONS
            }
    suffix = "" if arguments.device == "cpu" else f"_{arguments.device.partition(':')[0]}"
    write_result(f"head{suffix}", figures)


def measured(arguments: argparse.Namespace, name: str, batch: int, direction: str) -> dict[str, object]:
    """Return milliseconds of each variant, ratios to the released one, and peak memory."""
    device = arguments.device
    ours, tokens, words = made(name, batch, device)
    released = ReleasedHead(ours).to(device).eval()
    with torch.no_grad():
        difference = float((ours(tokens, words) - released(tokens, words)).abs().max())
    assert difference < 1e-3, difference
    jobs: dict[str, Callable[[], object]] = {"released": job(released, tokens, words, direction)}
    jobs["ours"] = job(ours, tokens, words, direction)
    if direction == "forward" and words is not None:
        with torch.inference_mode():
            prepared = ours.prepare(words)
        jobs["ours, prepared queries"] = job(ours, tokens, prepared, direction)
    jobs["ours, bfloat16"] = in_bfloat16(job(ours, tokens, words, direction), device)
    if direction == "forward" and words is not None:
        with torch.inference_mode(), autocast(device):
            narrow = ours.prepare(words)
        jobs["ours, bfloat16, prepared queries"] = in_bfloat16(job(ours, tokens, narrow, direction), device)
    if arguments.compile:
        torch.compiler.reset()
        jobs["ours, compiled"] = job(torch.compile(ours), tokens, words, direction)
    times = in_turn(jobs, device)
    told: dict[str, object] = {f"{variant}, ms": round(1000 * median(own), 2) for variant, own in times.items()}
    for variant in list(jobs)[1:]:
        ratios = [a / b for a, b in zip(times["released"], times[variant], strict=True)]
        told[f"released over {variant}"] = [round(value, 2) for value in (median(ratios), min(ratios), max(ratios))]
    told["largest difference of a logit"] = float(f"{difference:.1e}")
    for whose in ("released", "ours"):
        told[f"{whose}, peak MB"] = in_own_process(device, name, batch, whose, direction)
    print(name, batch, direction, told, flush=True)
    return told


def made(name: str, batch: int, device: str) -> tuple[MLDecoder, Tensor, Tensor | None]:
    options, labels = HEADS[name]
    torch.manual_seed(SEED)
    head = MLDecoder(CHANNELS, **options).to(device).eval()
    tokens = torch.randn(batch, TOKENS, CHANNELS, device=device).relu()
    return head, tokens, torch.randn(labels, WORD_DIM, device=device) if "word_dim" in options else None


def job(head: Any, tokens: Tensor, queries: object, direction: str) -> Callable[[], object]:
    def forward() -> object:
        with torch.inference_mode():
            return head(tokens, queries)

    def both() -> object:
        for parameter in head.parameters():
            parameter.grad = None
        return head(tokens, queries).sum().backward()

    return forward if direction == "forward" else both


def in_bfloat16(work: Callable[[], object], device: str) -> Callable[[], object]:
    def cast() -> object:
        with autocast(device):
            return work()

    return cast


def autocast(device: str) -> torch.autocast:
    return torch.autocast(device.partition(":")[0], torch.bfloat16)


def in_turn(jobs: dict[str, Callable[[], object]], device: str) -> dict[str, list[float]]:
    """Return the seconds of each job, run in turn; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    began = time.perf_counter()
    while len(times["released"]) < 2 or not _enough(len(times["released"]), time.perf_counter() - began):
        for name, work in jobs.items():
            start = time.perf_counter()
            work()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: own[1:] for name, own in times.items()}


def _enough(turns: int, seconds: float) -> bool:
    return seconds > AT_MOST or (turns >= 4 and seconds > SECONDS)


def in_own_process(device: str, name: str, batch: int, whose: str, direction: str) -> int:
    command = [sys.executable, "-m", "benchmarks.head", "--device", device]
    command += ["--memory-of", name, str(batch), whose, direction]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def peak_memory(device: str, name: str, batch: str, whose: str, direction: str) -> int:
    """Return the memory in MB beyond the memory before the first call."""
    ours, tokens, words = made(name, int(batch), device)
    work = job(ours if whose == "ours" else ReleasedHead(ours).to(device).eval(), tokens, words, direction)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
    before = _status("VmRSS")
    work()
    return round((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    """Return the peak memory of this process in KB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
