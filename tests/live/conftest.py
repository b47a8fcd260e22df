"""A database, where there is its server."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "journal"))
from postgres_server import database, server  # noqa: F401 - fixtures
