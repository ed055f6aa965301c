"""Add-ons: modules that weights may hold or lack, and that serve annotators.

An add-on leaves all other results of the model as they are, bit for bit. The trainings of
`calico_model/training/add_ons` make them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from calico_model.config import CalicoConfig
from calico_model.modeling.dense_head import DenseHead
from calico_model.modeling.domain import Familiarity
from calico_model.modeling.exemplar_prompt import ExemplarPrompt
from calico_model.modeling.mask_decoder import PromptedMaskDecoder
from calico_model.modeling.mask_memory import MaskMemory
from calico_model.modeling.mask_refiner import MaskRefiner
from calico_model.modeling.photo_trunk import widths_of
from calico_model.modeling.region_head import RegionHead
from calico_model.modeling.span_head import SpanHead


def _photo_refiner(config: CalicoConfig, _decoder: PromptedMaskDecoder) -> nn.Module:
    assert config.photo_trunk is not None
    return MaskRefiner(0, widths_of(config.photo_trunk))


_BUILDERS: dict[str, Callable[[CalicoConfig, PromptedMaskDecoder], nn.Module]] = {
    "dense_head": lambda config, _: DenseHead(config),
    "exemplar": lambda config, _: ExemplarPrompt(config),
    "familiarity": lambda config, _: Familiarity(config),
    "mask_memory": lambda config, _: MaskMemory(config),
    "mask_refiner": lambda _, decoder: MaskRefiner(decoder.fine_width),
    "photo_refiner": _photo_refiner,
    "region_head": lambda config, _: RegionHead(config),
    "span_head": lambda config, _: SpanHead(config),
}
ADD_ONS = tuple(_BUILDERS)
"""Names of all add-ons, which are attributes of `ExtensibleModel`."""


class ExtensibleModel(nn.Module):
    """A network to which add-ons can be added; an add-on that it lacks is None."""

    config: CalicoConfig
    mask_decoder: PromptedMaskDecoder

    def __init__(self, config: CalicoConfig) -> None:
        super().__init__()
        self.config = config
        self.dense_head: DenseHead | None = None
        self.exemplar: ExemplarPrompt | None = None
        self.familiarity: Familiarity | None = None
        self.mask_memory: MaskMemory | None = None
        self.mask_refiner: MaskRefiner | None = None
        self.photo_refiner: MaskRefiner | None = None
        self.region_head: RegionHead | None = None
        self.span_head: SpanHead | None = None

    @property
    def add_ons(self) -> tuple[str, ...]:
        """Names of the add-ons that the model has, in the order of `ADD_ONS`."""
        return tuple(name for name in ADD_ONS if getattr(self, name) is not None)

    def add_on(self, names: Collection[str]) -> None:
        """Adds untrained add-ons in place of those of the same name.

        A region head that is there stays: it is fitted at once, and never trained further.

        Args:
            names: some of `ADD_ONS`.
        """
        device = self.mask_decoder.mask_decoder.iou_token.weight.device
        for name, build in _BUILDERS.items():
            is_fitted = name == "region_head" and self.region_head is not None
            if name in names and not is_fitted:
                module = build(self.config, self.mask_decoder)
                setattr(self, name, module.to(device).train(self.training))
