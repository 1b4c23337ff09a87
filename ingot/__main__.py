"""`python -m ingot`: the verbs behind dvc.yaml and the Makefile."""

import importlib.util
import sys

if importlib.util.find_spec("typer") is None:
    sys.exit(
        "ingot: its packages are not installed for this Python: run `make setup`, then `source .venv/bin/activate`"
    )

from ingot.host.cli import app

app()
