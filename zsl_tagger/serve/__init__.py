"""``zsl-tagger serve``: a page and a JSON API over one tagger.

In reading order: ``limits.py``, ``work.py`` (the queue), ``uploads.py`` (multipart -> photos in memory), ``tagging.py``
(photos -> records), ``api.py`` (its data, as OpenAPI tells it), ``guard.py`` (what every request and response goes
through), ``metrics.py``, ``library_api.py`` and ``library_routes.py`` (a library, whose logic is in
:mod:`zsl_tagger.teach.review`), ``app.py`` (the routes), ``run.py`` (the process). ``page/`` is what a browser gets.
"""

from zsl_tagger.errors import require

require("fastapi", "serve")
require("prometheus_client", "serve")
require("python_multipart", "serve")
require("uvicorn", "serve")
