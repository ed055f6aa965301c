"""Wiring of the pages: from what serves to the routes below /ui."""

from __future__ import annotations

from dataclasses import asdict

from flask import Blueprint

from backend.app import Parts
from backend.label_studio.client import LabelStudioClient
from backend.learning.derivation import Derivation, StudioPredictions
from backend.learning.overview import Overview
from backend.learning.repository import CorrectionRepository
from backend.learning.trainer_presence import present_trainers
from backend.serving.studio import image_source
from backend.ui.pages import Live, Refreshed, build_pages
from backend.ui.pictures import GroupPictures


def open_pages(parts: Parts, overview: Overview, client: LabelStudioClient | None) -> Blueprint:
    """Returns the pages of one server.

    Args:
        parts: what serves.
        overview: of its database.
        client: Label Studio's API, or None without address or token.
    """
    source = None if client is None else StudioPredictions(client)
    derivation = Derivation(CorrectionRepository(parts.store), source)

    def live() -> Live:
        return Live(
            parts.host.state.value,
            tasks_waiting=parts.service.waiting,
            changes_waiting=parts.store.waiting,
            trainers=len(present_trainers(parts.store)),
        )

    def refreshed(project_id: int) -> Refreshed | None:
        found = None if parts.refresher is None else parts.refresher.status(project_id)
        return None if found is None else Refreshed(**asdict(found))

    pictures = GroupPictures(derivation, image_source(parts.settings, client))
    return build_pages(overview, pictures, live=live, refreshed=refreshed)
