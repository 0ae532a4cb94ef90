"""HTML pages and text tables."""
