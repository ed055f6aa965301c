"""Brings in `segment_anything.modeling` also where torchvision is missing or broken.

The package's `__init__` imports its predictor, which needs torchvision; the modules we compose do
not. When that import fails, a bare package object takes its place so the submodules still load.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType


def _modeling() -> ModuleType:
    try:
        importlib.import_module("segment_anything")
    except (ImportError, OSError, RuntimeError):
        spec = importlib.util.find_spec("segment_anything")
        if spec is None or spec.submodule_search_locations is None:
            raise
        package = ModuleType("segment_anything")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        for name in [n for n in sys.modules if n.split(".")[0] == "segment_anything"]:
            del sys.modules[name]
        sys.modules["segment_anything"] = package
    return importlib.import_module("segment_anything.modeling")


_sam = _modeling()

ImageEncoderViT = _sam.ImageEncoderViT
LayerNorm2d = _sam.common.LayerNorm2d
MaskDecoder = _sam.MaskDecoder
PromptEncoder = _sam.PromptEncoder
TwoWayTransformer = _sam.TwoWayTransformer
