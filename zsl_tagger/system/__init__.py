"""Files, threads, signals and pickles. Knows nothing of images or words."""
