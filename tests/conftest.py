"""Share between all tests: example photos, one packaged tagger, made data sets and small models trained on them.

Nothing here is imported that the base install lacks: tests of the base run without torch too (.ci/run).
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
from paths import ROOT

from zsl_tagger.assets import PACKAGED
from zsl_tagger.system import PACKAGES
from zsl_tagger.system.files import sha256_of
from zsl_tagger.tagging import onnx_model
from zsl_tagger.tagging.model_folder import ENCODER_FILE
from zsl_tagger.tagging.network_cache import CACHE_VARIABLE
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.tagging.taught import FOLDER_VARIABLE

# On a busy machine, drawing examples may take long, which says nothing about the code.
hypothesis.settings.register_profile("busy", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None)
hypothesis.settings.load_profile("busy")

if TYPE_CHECKING:
    from browsing import Visit
    from playwright.sync_api import Browser, Playwright

SLOW = ("ray", "browser", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of slow tests first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in SLOW])


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep optimised networks out of the cache of whoever runs the tests; commands that tests start share them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread, so that small runs don't crawl where others use the processor too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A prepared multi-label data set."""
    from small_runs import tagged_data

    folder = tagged_data(tmp_path_factory.mktemp("tagged"))
    yield from unchanged(folder)


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A prepared single-label data set."""
    from small_runs import animal_data

    folder = animal_data(tmp_path_factory.mktemp("animals"))
    yield from unchanged(folder)


@pytest.fixture(scope="session")
def tagged_model(tagged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model with word queries, trained on every seen label of ``tagged``."""
    from small_runs import small_run

    from zsl_tagger.training.run import train

    folder = tmp_path_factory.mktemp("tagged_model") / "model"
    train(small_run(tagged, folder))
    yield from unchanged(folder)


@pytest.fixture(scope="session")
def animal_model(animals: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A closed set trained on ``animals`` with cross entropy."""
    from small_runs import small_run

    from zsl_tagger.training.run import train

    folder = tmp_path_factory.mktemp("animal_model") / "model"
    train(small_run(animals, folder, recipe="cifar100"))
    yield from unchanged(folder)


@pytest.fixture(scope="session")
def evidence_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model of random weights whose words hear its backbone's classifier."""
    from evidence_folder import write_evidence_folder

    folder = write_evidence_folder(tmp_path_factory.mktemp("evidence") / "model")
    yield from unchanged(folder)


def unchanged(folder: Path) -> Iterator[Path]:
    """Share a folder between tests; a test that changes it must work on a copy."""
    before = state(folder)
    yield folder
    assert state(folder) == before, f"a test has changed {folder}, which others share"


def state(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def ray_runs() -> Iterator[None]:
    """One Ray for all tests: to start it takes seconds.

    On a busy machine its workers may take so long to start that progress would be shown, which tests do not expect.
    """
    from zsl_tagger.system import progress
    from zsl_tagger.tagging.ray_pool import STORE_BYTES, session

    with session(2, STORE_BYTES), pytest.MonkeyPatch.context() as patched:
        patched.setattr(progress, "SECONDS_A_MESSAGE", float("inf"))
        yield


@pytest.fixture(autouse=True)
def _loggers_as_in_a_new_process() -> Iterator[None]:
    """Take back what a command that ran in this process, or in a fixture, set up."""
    _reset_loggers()
    yield
    _reset_loggers()


def _reset_loggers() -> None:
    for logger in map(logging.getLogger, PACKAGES):
        logger.handlers, logger.propagate, logger.disabled = [logging.NullHandler()], True, False
        logger.setLevel(logging.NOTSET)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith(PACKAGES)]:
        logging.getLogger(name).disabled = False  # a library that sets up logging disables what is there
    logging.root.setLevel(logging.WARNING)  # Ray and others set it for the whole process
    logging.disable(logging.NOTSET)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Capture what both packages log, from INFO on, and of other packages the warnings only.

    A test that reads ``caplog`` without setting a level depends on the level of the root logger, which libraries
    change in the middle of a test.
    """
    for name in PACKAGES:
        caplog.set_level(logging.INFO, name)
    return caplog


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out matplotlib's drawing, most of the time of a small run, but in tests marked ``plots``.

    Fixtures of a module or a session come before this one and draw. The patch is not by ``monkeypatch``, which a test's
    own fixtures would then outlive.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:  # the base install has none
        yield
        return

    def savefig(figure: Figure, file: Any, format: str, **_: Any) -> None:  # noqa: A002, ARG001
        file.write("<svg></svg>" if format == "svg" else b"")

    with pytest.MonkeyPatch.context() as patched:
        if request.node.get_closest_marker("plots") is None:
            patched.setattr(Figure, "savefig", savefig)
        yield


class SeesOnce:
    """The session of an encoder, which runs once for each input: tests look at the same few photos again and again."""

    def __init__(self, session: Any):
        self._session = session
        self._answers: dict[tuple[str, ...], list[np.ndarray]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = inputs["images"]
        key = (*names, str(images.shape), str(images.dtype), hashlib.sha256(images.tobytes()).hexdigest())
        if key not in self._answers:
            self._answers[key] = self._session.run(names, inputs)
        return [answer.copy() for answer in self._answers[key]]


@pytest.fixture(scope="session", autouse=True)
def _packaged_encoder_is_opened_once() -> Iterator[None]:
    """Share the packaged model's encoder between the taggers of a process: to open it takes longer than to run it."""
    plain = onnx_model.open_session

    @cache
    def once(path: Path, threads: int, device: str) -> SeesOnce:
        return SeesOnce(plain(path, threads, device, keep=True))

    @wraps(plain)
    def open_session(path: Path, threads: int, device: str = "cpu", keep: bool = False) -> Any:
        if path == PACKAGED / ENCODER_FILE:
            return once(path, threads, device)
        return plain(path, threads, device, keep)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnx_model, "open_session", open_session)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_taught_tags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave out what the user of this machine has taught, also in processes that a test starts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("taught") / "none"))
        yield


@pytest.fixture
def few_exports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out the export to ONNX, which takes longer than a small run trains, but in tests marked ``exports``.

    Fixtures of a module or a session come before this one and export.
    """
    from zsl_tagger.export import model_writer

    with pytest.MonkeyPatch.context() as patched:
        if request.node.get_closest_marker("exports") is None:
            patched.setattr(model_writer, "_export", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@pytest.fixture(scope="session")
def tagger() -> Tagger:
    return Tagger()


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    from playwright.sync_api import sync_playwright  # not of the base install

    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium") or "chromium", args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    from browsing import Visit

    visit = Visit(browser)
    yield visit
    for context in browser.contexts:
        context.close()
    own = {origin for origin in visit.origins if origin.startswith(("http://127.0.0.1:", "blob:http:"))}
    assert visit.origins == own
    assert not [text for text in visit.complaints if "willReadFrequently" not in text]  # of canvas_alpha
