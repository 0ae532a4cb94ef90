"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zsl_tagger.export import model_writer


@pytest.fixture(autouse=True)
def _no_exports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave out the export to ONNX, which takes longer than a small run trains, but in tests marked ``exports``.

    Fixtures of a module or a session come before this one and export.
    """
    with pytest.MonkeyPatch.context() as patched:
        if request.node.get_closest_marker("exports") is None:
            patched.setattr(model_writer, "_export", lambda *_: None)
        yield
