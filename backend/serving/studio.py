"""Label Studio as serving sees it: where images come from and where late answers go."""

from __future__ import annotations

from collections.abc import Callable

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.download import MediaLimits
from backend.label_studio.media import MediaFetcher
from backend.serving.prediction import Answer
from backend.settings import Settings
from backend.types import Task


def connect_client(settings: Settings) -> LabelStudioClient | None:
    """Returns a client of the configured Label Studio, or None without address or token."""
    if settings.label_studio_url is None or settings.label_studio_api_key is None:
        return None
    token = settings.label_studio_api_key.get_secret_value()
    return LabelStudioClient(settings.label_studio_url, token)


def image_source(settings: Settings, client: LabelStudioClient | None) -> MediaFetcher:
    """Returns the fetcher of images, with the client's token for Label Studio's own files."""
    return MediaFetcher(
        label_studio_url=settings.label_studio_url,
        authorization=None if client is None else client.authorization,
        hosts=settings.image_hosts,
        local_files_root=settings.local_files_root,
        limits=MediaLimits(
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            max_side=settings.max_image_side,
            timeout_s=settings.image_timeout_s,
        ),
    )


def prediction_sender(client: LabelStudioClient) -> Callable[[Task, Answer], None]:
    """Returns what stores one answer in Label Studio; it raises LabelStudioError."""

    def send(task: Task, answer: Answer) -> None:
        if task.id is not None:
            client.create_prediction(
                task.id, answer.regions, score=answer.score, version=answer.version or ""
            )

    return send
