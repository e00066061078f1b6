"""The version of swarmlet: what `pyproject.toml`, the API and the CLI tell."""

from typing import Final

VERSION: Final = "0.1.0"
