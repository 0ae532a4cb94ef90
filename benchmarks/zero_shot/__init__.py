"""Zero-shot accuracy of the project's method and of its peers; see ``__main__``."""
