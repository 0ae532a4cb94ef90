"""The version of the installed package."""

from __future__ import annotations


def installed_version() -> str:
    """Return the installed version of zsl-tagger, or "0" in a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # takes 15 ms, not needed for tagging

    try:
        return version("zsl-tagger")
    except PackageNotFoundError:
        return "0"
