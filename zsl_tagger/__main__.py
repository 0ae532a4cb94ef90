"""Run the command line: ``python -m zsl_tagger``."""

from cli import app

app(prog_name="python -m zsl_tagger")
