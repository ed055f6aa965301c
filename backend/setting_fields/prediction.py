"""Settings of predicting: the model, time and memory, clicks, and segmenters beside the model."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from backend.setting_fields.values import HostAndPort, SourceNames
from calico_model.loading.precision import Precision

_MIB = 1024 * 1024


class PredictionSettings(BaseModel):
    """How tasks and clicks are answered, by which model, and what is kept."""

    weights: Path | None = Field(
        None, description="Folder of the model weights; the shipped calico-tiny if unset."
    )
    device: str = Field("cpu", description="Where the model runs: cpu, cuda or cuda:N.")
    precision: Precision | None = Field(
        None,
        description="Number format of the weights: fp32, bf16, int8 or nf4; the best that fits if "
        "unset.",
    )
    model_threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of one prediction; half of the cores, at least one, if unset.",
    )
    predict_budget_s: float = Field(
        85.0,
        gt=0,
        le=95,
        description="Longest time of /predict; unfinished tasks are answered 'not yet' and "
        "finished later. Label Studio gives up after 100 s.",
    )
    predict_queue: int = Field(
        10_000,
        ge=1,
        description="Tasks that may wait for the model; others are answered 'not yet'.",
    )
    cached_predictions: int = Field(
        40_000,
        ge=0,
        description="Stored answers and predictions kept in the database, two rows for a task; 0 "
        "keeps none.",
    )
    cached_prediction_bytes: int = Field(
        512 * _MIB, ge=1, description="Bytes of stored answers kept; the oldest are deleted first."
    )
    predict_workers: int = Field(
        2,
        ge=1,
        le=64,
        description="Tasks under way at once: while the model works on one, the images of the "
        "others arrive.",
    )
    groups_at_once: int = Field(
        1,
        ge=1,
        le=64,
        description="Tasks the model is asked about at once, of those that are under way: faster, "
        "with more memory; clicks wait longer. In a fleet, of batch replicas.",
    )
    opened_task_bytes: int = Field(
        256 * _MIB, ge=1, description="Bytes of pixels of opened tasks kept in memory for clicks."
    )
    recent_prediction_bytes: int = Field(
        256 * _MIB, ge=1, description="Bytes of predictions kept in memory for clicks."
    )
    click_steps: int = Field(
        512, ge=1, description="Masks after a click kept in memory, which the next click corrects."
    )
    encoded_image_bytes: int = Field(
        512 * _MIB,
        ge=_MIB,
        description="Bytes of image features kept in the memory of the device.",
    )
    loaded_adapters: int = Field(
        16, ge=1, description="Adapter versions kept in memory; each answers for one project."
    )
    loaded_adapter_bytes: int | None = Field(
        None,
        ge=1,
        description="Bytes of adapter versions kept in memory, by the size of their files; "
        "limited by their number alone if unset.",
    )
    prefetch_bytes: int = Field(
        128 * _MIB,
        ge=0,
        description="Bytes of pixels of upcoming tasks encoded in advance when a task is opened; "
        "0 encodes none.",
    )

    fleet_address: HostAndPort | None = Field(
        None,
        description="HOST:PORT of the head of a fleet (docs/fleet.md); this server then loads no "
        "model, and asks the fleet's replicas.",
    )
    fleet_token_file: Path | None = Field(
        None, description="File with the token of the fleet; made by `calico fleet up`."
    )
    fleet_try_s: float = Field(
        20.0,
        gt=0,
        le=90,
        description="Longest wait for a model replica that somebody waits for, before another is "
        "asked; three times as long for other tasks.",
    )

    settle_overlaps: bool = Field(
        False,
        description="Give pixels that two parts share to the more certain part, and clip parts to "
        "their object.",
    )
    unknown_parts: bool = Field(
        False,
        description="Offer the area of an object that no part covers as 'unknown part'; a closed "
        "set of labels must contain it.",
    )

    relations: bool = Field(
        False,
        description="Draw an arrow between the regions that show the same part; needs <Relations> "
        "in the labeling config.",
    )

    refine_clicks: bool = Field(
        True,
        description="Segment what clicks and boxes mark, on every image of the group; otherwise "
        "they select predicted regions.",
    )
    click_budget_s: float = Field(
        10.0,
        gt=0,
        description="Longest time that the clicks and boxes of one request use the model; "
        "unfinished ones are left out.",
    )
    sources: SourceNames = Field(
        (),
        description="Segmenters asked beside the model, separated by commas: names of "
        "docs/sources.md, folders, or NAME=FOLDER; none if unset.",
    )
    source_budget_s: float = Field(
        3.0,
        gt=0,
        le=60,
        description="Longest time that a click waits for the sources; a slower one is left out.",
    )
    source_task_budget_s: float = Field(
        20.0,
        gt=0,
        le=600,
        description="Longest time that a task waits for sources that look for its labels unasked.",
    )
    source_cache_bytes: int = Field(
        512 * _MIB, ge=0, description="Memory of the encoded images that the sources keep."
    )
    name_regions: bool = Field(
        True,
        description="Name regions with the project's labels if these are a closed set, as its "
        "annotators do.",
    )
    name_least_chance: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Smallest probability at which a region gets a label of a closed set; below "
        "it, the region is not sent.",
    )
