"""Measure `zsl-tagger serve` under load, over many requests and under attack, with a server on loopback.

    python -m benchmarks.serve --photos FOLDER

- load: 50 clients, each with one request at a time of one photo and three labels; a client that gets a 429 waits
  and tries again. Beside it: the same photos and labels by ``Tagger.tag_many`` in a separate process, after its start.
- memory: resident memory of the server every 500 of 5,000 requests of small photos, 8 clients.
- malformed: 1,000 uploads that are cut, random, no photo, too large when decoded, or no form; statuses by kind.
- fuzz: what schemathesis makes from the server's own OpenAPI, well-formed and not.

Clients and server share the processor.
"""

from __future__ import annotations

import argparse
import http.client
import io
import itertools
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import psutil
import schemathesis
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from benchmarks.common import ROOT, write_result
from zsl_tagger.images.finding import find_images

LABELS = "dog,beach,person"
MB = 1e6
Address = tuple[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--memory-requests", type=int, default=5000)
    parser.add_argument("--malformed", type=int, default=1000)
    parser.add_argument("--fuzz", type=int, default=300, help="examples an operation and kind")
    arguments = parser.parse_args()
    paths = [path for path in find_images([str(arguments.photos)]) if isinstance(path, str)]
    photos = [Path(path).read_bytes() for path in paths]
    figures: dict[str, Any] = {"photos": len(photos), "kB a photo": round(sum(map(len, photos)) / len(photos) / 1000)}
    figures["tag_many, photos/s"] = tag_many(paths)
    with server() as (process, address):
        figures["load"] = load(address, photos, arguments.clients, arguments.requests)
    figures["load"]["over tag_many"] = round(figures["load"]["photos/s"] / figures["tag_many, photos/s"], 2)
    with server() as (process, address):
        small = [shrunk(photo) for photo in photos[:20]]
        figures["memory"] = memory(process, address, small, arguments.memory_requests)
        figures["malformed"] = malformed(process, address, photos, arguments.malformed)
        figures["fuzz"] = fuzz(address, arguments.fuzz)
    write_result("serve", figures)


@contextmanager
def server() -> Iterator[tuple[psutil.Process, Address]]:
    command = [sys.executable, "cli.py", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            yield psutil.Process(process.pid), ("127.0.0.1", int(url.rpartition(":")[2]))
        finally:
            process.terminate()
            process.wait(30)


def tag_many(paths: list[str]) -> float:
    """Return photos per second, over at least 200 photos."""
    code = """
import sys, time
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.system.threads import available_cores
tagger = Tagger(workers=available_cores())
labels, paths = tagger.label_set(sys.argv[1].split(",")), sys.argv[2:]
list(tagger.tag_many(paths[:4], labels))
start = time.perf_counter()
list(tagger.tag_many(paths, labels))
print(len(paths) / (time.perf_counter() - start))
"""
    many = list(itertools.islice(itertools.cycle(paths), max(200, len(paths))))
    result = subprocess.run(
        [sys.executable, "-c", code, LABELS, *many], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return round(float(result.stdout), 1)


def form_of(photo: bytes, labels: str = LABELS) -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\n{labels}\r\n--x\r\n'
    head += 'Content-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    return head.encode() + photo + b"\r\n--x--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes, float]:
    """Return (status, answer, seconds to wait if given)."""
    connection.request("POST", "/v1/tag", body, FORM)
    answer = connection.getresponse()
    return answer.status, answer.read(), float(answer.getheader("Retry-After") or 0)


def crowd(address: Address, bodies: Sequence[bytes], clients: int, requests: int, each: Callable[[], None]) -> Any:
    """Send ``requests`` by some clients; return (statuses, seconds of each answered request, total seconds)."""
    statuses: Counter[int] = Counter()
    taken: list[float] = []
    numbers, lock = iter(range(requests)), threading.Lock()

    def client(_: int) -> None:
        connection = http.client.HTTPConnection(*address, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            begun = time.perf_counter()
            status, _answer, wait = ask(connection, bodies[number % len(bodies)])
            while status == 429:
                with lock:
                    statuses[status] += 1
                time.sleep(wait)
                status, _answer, wait = ask(connection, bodies[number % len(bodies)])
            with lock:
                statuses[status] += 1
                taken.append(time.perf_counter() - begun)
                each()

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return statuses, taken, time.perf_counter() - start


def load(address: Address, photos: list[bytes], clients: int, requests: int) -> dict[str, Any]:
    bodies = [form_of(photo) for photo in photos]
    crowd(address, bodies, clients, clients, lambda: None)  # connections, caches
    statuses, taken, seconds = crowd(address, bodies, clients, requests, lambda: None)
    return {
        "clients": clients,
        "statuses": dict(statuses),
        "p50, s": round(float(np.quantile(taken, 0.5)), 3),
        "p95, s": round(float(np.quantile(taken, 0.95)), 3),
        "p99, s": round(float(np.quantile(taken, 0.99)), 3),
        "photos/s": round(requests / seconds, 1),
    }


def memory(process: psutil.Process, address: Address, photos: list[bytes], requests: int) -> dict[str, Any]:
    step, done, sizes = max(1, requests // 10), 0, [process.memory_info().rss]

    def each() -> None:
        nonlocal done
        done += 1
        if done % step == 0:
            sizes.append(process.memory_info().rss)

    statuses, _, _ = crowd(address, [form_of(photo) for photo in photos], 8, requests, each)
    megabytes = [round(size / MB, 1) for size in sizes]
    return {
        "statuses": dict(statuses),
        f"MB at the start and every {step} requests": megabytes,
        "MB more at the end than after the first step": round(megabytes[-1] - megabytes[1], 1),
        "open files": process.num_fds(),
        "threads": process.num_threads(),
    }


def shrunk(photo: bytes) -> bytes:
    with Image.open(io.BytesIO(photo)) as image:
        small = image.convert("RGB")
    small.thumbnail((256, 256))
    file = io.BytesIO()
    small.save(file, "JPEG")
    return file.getvalue()


def malformed(process: psutil.Process, address: Address, photos: list[bytes], count: int) -> dict[str, Any]:
    random_ = random.Random(0)
    kinds = {
        "cut photo": lambda: form_of(_cut(random_, photos)),
        "photo with wrong bytes": lambda: form_of(_spoilt(random_, photos)),
        "random bytes": lambda: form_of(random_.randbytes(random_.randrange(1, 20_000))),
        "another kind of file": lambda: form_of(random_.choice(OTHER_FILES)),
        "too many pixels": lambda: form_of(random_.choice(BOMBS)),
        "cut form": lambda: _cut(random_, [form_of(random_.choice(photos))]),
        "random form": lambda: b"--x\r\n" + random_.randbytes(random_.randrange(0, 5000)),
        "many parts": lambda: b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 5000 + b"--x--\r\n",
        "long header": lambda: b"--x\r\n" + b"A" * 50_000,
        "hung up half-way": lambda: None,
    }
    before = process.memory_info().rss
    statuses: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    longest = 0.0
    for kind, make in itertools.islice(itertools.cycle(kinds.items()), count):
        start = time.perf_counter()
        body = make()
        if body is None:
            statuses[kind][_hang_up(address, random_, photos)] += 1
        else:
            connection = http.client.HTTPConnection(*address, timeout=120)
            status, answer, _ = ask(connection, body)
            told = json.loads(answer)
            error = isinstance(told, list) and "error" in told[0]
            statuses[kind][f"{status}{' with an error record' if error else ''}"] += 1
            connection.close()
        longest = max(longest, time.perf_counter() - start)
    status, answer, _ = ask(http.client.HTTPConnection(*address, timeout=120), form_of(photos[0]))
    return {
        "uploads": count,
        "statuses": {kind: dict(counts) for kind, counts in statuses.items()},
        "of them 5xx": sum(n for counts in statuses.values() for status_, n in counts.items() if status_[0] == "5"),
        "longest, s": round(longest, 2),
        "MB before and after": [round(before / MB, 1), round(process.memory_info().rss / MB, 1)],
        "tags after that": status == 200 and "tags" in json.loads(answer)[0],
    }


def _cut(random_: random.Random, contents: list[bytes]) -> bytes:
    content = random_.choice(contents)
    return content[: random_.randrange(len(content))]


def _spoilt(random_: random.Random, photos: list[bytes]) -> bytes:
    photo = bytearray(random_.choice(photos))
    for _ in range(random_.randrange(1, 200)):
        photo[random_.randrange(len(photo))] = random_.randrange(256)
    return bytes(photo)


def _hang_up(address: Address, random_: random.Random, photos: list[bytes]) -> str:
    body = form_of(random_.choice(photos))
    head = f"POST /v1/tag HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM['Content-Type']}\r\n"
    with socket.create_connection(address) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: random_.randrange(len(body))])
    return "hung up"


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """Return a PNG of 8-bit grey that claims a given size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


BOMBS = [
    _png(50_000, 50_000, b"\0"),
    _png(7_000, 7_000, bytes(7_001 * 7_000)),  # just within the limit: 49 kB that are 49 MB
    _png(2**31 - 1, 2**31 - 1, b""),
    b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    b"GIF89a"
    + struct.pack("<HH", 65_535, 65_535)
    + b"\xf0\0\0"
    + bytes(6)
    + b","
    + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0),
]
OTHER_FILES = [
    b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"PK\x03\x04" + bytes(50), b"\0\0\0\x20ftypisom" + bytes(50), b"MZ" + bytes(90), b"#!/bin/sh\n", b"", b"text",
]  # fmt: skip


def fuzz(address: Address, examples: int) -> dict[str, Any]:
    """Return the number of examples sent for each operation; raise failed checks."""
    schema: Any = schemathesis.openapi.from_url(f"http://{address[0]}:{address[1]}/openapi.json")
    statuses: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if operation.body else [GenerationMode.POSITIVE]
        for mode in modes:

            @hypothesis.settings(
                derandomize=True,
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def holds(case: schemathesis.Case) -> None:
                if isinstance(case.body, dict):  # an empty list adds nothing to a form, so it cannot be refused
                    hypothesis.assume(not any(value == [] for value in case.body.values()))
                answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
                statuses[answer.status_code] += 1

            holds()
    return {"requests": sum(statuses.values()), "statuses": dict(sorted(statuses.items())), "checks failed": 0}


if __name__ == "__main__":
    main()
