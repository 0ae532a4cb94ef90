"""Serve a web page and a JSON API for one tagger (``zsl-tagger serve``).

In reading order: ``limits.py``, ``work.py`` (the queue), ``uploads.py`` (multipart -> photos in memory), ``tagging.py``
(photos -> records), ``api.py`` (data types and their OpenAPI description), ``guard.py`` (middleware for every request
and response), ``metrics.py``, ``library_api.py`` and ``library_routes.py`` (the library, whose logic is in
:mod:`zsl_tagger.teach.review`), ``app.py`` (the routes), ``run.py`` (the process). ``page/`` has the files that the
browser loads.
"""

from zsl_tagger.errors import require

require("fastapi", "serve")
require("prometheus_client", "serve")
require("python_multipart", "serve")
require("uvicorn", "serve")
