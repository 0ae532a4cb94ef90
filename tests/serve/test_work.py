"""Test the queue of the server: hanging workers are replaced, and do not keep the process from ending."""

from __future__ import annotations

import asyncio
import http.client
import signal
import subprocess
import sys
import threading
import time

import pytest
from paths import ROOT
from serving import picture, until

from zsl_tagger.serve.work import ClientGoneError, LateError, WorkQueue


async def stays() -> None:
    await asyncio.sleep(60)


async def leaves() -> None:
    await asyncio.sleep(0.01)


def test_a_worker_that_hangs_is_replaced() -> None:
    queue, go = WorkQueue(1, 4), threading.Event()

    async def late_then_in_time() -> list[str]:
        with pytest.raises(LateError, match=r"^$"):
            await queue.run([lambda: go.wait(20)], stays, 0.1)
        while queue._unfinished:  # at the first moment it may have been in work for a little less
            await asyncio.sleep(0.01)
        return await queue.run([lambda: "done"], stays, 5)

    assert asyncio.run(late_then_in_time()) == ["done"]
    before = threading.active_count()
    go.set()
    until(lambda: threading.active_count() == before - 1)  # it ends when its job does
    assert (queue._unfinished, queue._abandoned, queue.waiting) == (0, 0, 0)


def test_it_is_replaced_even_if_its_client_has_disconnected() -> None:
    queue, go = WorkQueue(1, 4), threading.Event()

    async def gone_then_in_time() -> list[str]:
        with pytest.raises(ClientGoneError, match=r"^$"):
            await queue.run([lambda: go.wait(20)], leaves, 0.1)
        assert queue._unfinished == 1  # it may be done in time
        return await queue.run([lambda: "done"], stays, 5)

    assert asyncio.run(gone_then_in_time()) == ["done"]
    go.set()


def test_the_number_of_abandoned_workers_is_limited() -> None:
    """Each still uses memory and a processor."""
    queue, go = WorkQueue(1, 4), threading.Event()

    async def late_twice() -> None:
        for _ in range(2):
            with pytest.raises(LateError, match=r"^$"):
                await queue.run([lambda: go.wait(20)], stays, 0.05)
            await asyncio.sleep(0.1)
        assert (queue._unfinished, queue._abandoned) == (1, 1)
        go.set()

    asyncio.run(late_twice())
    until(lambda: (queue._unfinished, queue._abandoned) == (0, 0))


def test_errors_and_order() -> None:
    queue = WorkQueue(2, 9)
    assert asyncio.run(queue.run([lambda: time.sleep(0.05) or 1, lambda: 2], stays, 5)) == [1, 2]  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(queue.run([lambda: int("one")], stays, 5))
    until(lambda: queue._unfinished == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_decode_that_hangs_does_not_keep_the_server(number: signal.Signals, status: int) -> None:
    script = (
        "import ctypes, cli\n"
        "from zsl_tagger.serve import run, tagging\n"
        "run._FINISH_SECONDS = 1\n"
        "tagging.load_upload = lambda *_: print('hangs', flush=True) or ctypes.CDLL(None).sleep(60)\n"
        "cli.app(['serve', '--port', '0', '--workers', '1'])\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split()[0].rpartition(":")[2])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + picture()
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            connection.request("POST", "/v1/tag", part + b"\r\n--x--\r\n", headers)
            assert server.stdout.readline() == "hangs\n"
            server.send_signal(number)
            server.communicate(timeout=20)
            assert server.returncode == status
        finally:
            server.kill()
