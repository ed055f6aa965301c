"""Readers of the captured files in tests/golden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIGS = sorted((GOLDEN / "label_configs").glob("*.xml")) + sorted(
    (GOLDEN.parents[1] / "label_config").glob("*.xml")
)


def payload(name: str) -> Any:
    return json.loads((GOLDEN / "payloads" / f"{name}.json").read_text())


def body(name: str) -> bytes:
    return json.dumps(payload(name)["body"]).encode()


def names(prefix: str) -> list[str]:
    return sorted(path.stem for path in (GOLDEN / "payloads").glob(f"{prefix}*.json"))


def config(name: str) -> str:
    return next(path for path in CONFIGS if path.stem == name).read_text()
