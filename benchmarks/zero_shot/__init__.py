"""Measure the zero-shot accuracy of our method and its peers; see ``__main__``."""
