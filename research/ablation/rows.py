"""The rows of the paper's ablation tables: what each leaves out, and what the paper measured.

Knows configurations and figures only.
"""

from __future__ import annotations

from dataclasses import dataclass

from calico_model.config import AblationConfig
from calico_model.errors import InvalidConfigError


@dataclass(frozen=True)
class Row:
    """One model of an ablation table.

    Attributes:
        key: names it in JSON, folders and options.
        title: names it in tables, in the paper's words.
        meaning: what is done.
        switches: the parts it has.
        cams: how many context-aware modules it has.
        paper: the paper's figures in percent, in the order of `HEADLINE`; None where it gives none.
    """

    key: str
    title: str
    meaning: str
    switches: AblationConfig
    cams: int = 2
    paper: tuple[float, ...] | None = None


FULL = "full"
"""Key of the row all others are compared with."""

# Paper, table 2 (CALICO-7B on MixedParts): mIoU, AP50, Recall, SS, S-IoU.
COMPONENTS = (
    Row(
        "without_qformer",
        "w/o Q-Former",
        "pooled image tokens through one linear layer, hence no CEM and no CAM either",
        AblationConfig(use_qformer=False),
        paper=(59.2, 38.5, 44.8, 64.5, 55.6),
    ),
    Row(
        "without_dino",
        "w/o DINO",
        "no cross-attention: CAMs ask the plain global tokens",
        AblationConfig(use_dino=False),
        paper=(61.7, 43.9, 57.1, 80.2, 74.5),
    ),
    Row(
        "without_cem",
        "w/o CEM",
        "CAMs inject the adapted hidden state alone, nothing from the images",
        AblationConfig(use_cem=False),
        paper=(61.6, 43.6, 57.5, 80.8, 75.2),
    ),
    Row(
        "without_cam",
        "w/o CAM",
        "CEM features are injected, but the prompt does not shift the queries",
        AblationConfig(use_cam_guidance=False),
        paper=(63.3, 45.9, 59.7, 82.0, 76.5),
    ),
    Row(
        "without_cem_and_cam",
        "w/o CEM and CAM",
        "nothing is injected",
        AblationConfig(inject=False),
        paper=(62.7, 44.1, 58.1, 81.6, 76.3),
    ),
    Row(FULL, "full", "everything", AblationConfig(), paper=(63.7, 45.9, 59.7, 82.7, 77.1)),
)

# Paper, figure 8: two layers are best; the figure gives no numbers.
PLACEMENT = (
    Row("one_layer", "1 layer", "one CAM, in the middle", AblationConfig(), cams=1),
    Row(FULL, "2 layers (full)", "two CAMs, at thirds", AblationConfig()),
    Row("three_layers", "3 layers", "three CAMs, at quarters", AblationConfig(), cams=3),
)


def select_rows(table: tuple[Row, ...], keys: tuple[str, ...]) -> tuple[Row, ...]:
    """Returns the rows of the given keys in table order, all without keys; `full` always is one.

    Raises:
        InvalidConfigError: a key that is no row of the table.
    """
    known = [row.key for row in table]
    for key in keys:
        if key not in known:
            raise InvalidConfigError(f"--rows: expected some of {', '.join(known)}, got {key!r}")
    wanted = {*keys, FULL} if keys else set(known)
    return tuple(row for row in table if row.key in wanted)
