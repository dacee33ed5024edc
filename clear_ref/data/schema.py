"""The configs of CLEAR and TOFU and their columns: schema.json, which data_fetch.py reads too."""

import json
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parent / "schema.json").read_text(encoding="utf-8")
)
