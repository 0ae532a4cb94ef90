"""Find and decode image files."""
