"""The same backend as a class for the label-studio-ml 2.x framework.

The framework makes one object per request, so everything that lasts (weights, queue, database) is
built once and shared. label-studio-ml 2.x is not on the package index; nothing else needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import ClassVar

from backend.app import AppComponents, build_components
from backend.label_studio.event import parse_events
from backend.label_studio.request import (
    event_request,
    parse_predict_request,
    predict_request,
    read_project_id,
)
from backend.label_studio.response import answer_items
from backend.serving.rendering import render_answers
from backend.settings import load_settings

try:
    from label_studio_ml.model import LabelStudioMLBase
except ImportError as error:
    raise ImportError(
        "backend.model needs label-studio-ml 2.x, which is installed from its GitHub repository; "
        "`calico serve` does not need it"
    ) from error

_JsonObject = dict[str, object]


class CalicoModel(LabelStudioMLBase):  # type: ignore[misc]
    """Pre-annotates groups of images and journals what annotators do."""

    _components: ClassVar[AppComponents | None] = None
    _building: ClassVar[threading.Lock] = threading.Lock()

    def setup(self) -> None:
        """Names the version, once the weights are loaded."""
        service = self._shared().service
        version = service.announced(service.current(read_project_id(self.project_id)))
        if version is not None:
            self.set("model_version", version)

    def predict(
        self,
        tasks: Sequence[_JsonObject],
        context: _JsonObject | None = None,
        **_params: object,
    ) -> list[_JsonObject]:
        """Returns one item per task, in order.

        Raises:
            RequestError: the tasks or the labeling config are not what was expected.
            NotReadyError: the weights cannot be used.
            BusyError: the service is closed.
        """
        components = self._shared()
        body = predict_request(
            tasks, label_config=self.label_config, project=self.project_id, context=context
        )
        request = parse_predict_request(body)
        service = components.service
        version = service.current(request.project_id)
        results = service.predict(request, version)
        return answer_items(render_answers(request, results, service.announced(version)))

    def fit(self, event: str, data: Mapping[str, object], **_params: object) -> None:
        """Journals one event; training is another process's work.

        Raises:
            InvalidEventError: a body of an unknown form.
            BusyError: the journal is too slow; sending again is safe.
        """
        self._shared().store.record_events(parse_events(event_request(event, data)))

    @classmethod
    def share(cls, components: AppComponents) -> None:
        """Uses these components for every object instead of building them from the environment."""
        CalicoModel._components = components

    @classmethod
    def _shared(cls) -> AppComponents:
        with CalicoModel._building:
            if CalicoModel._components is None:
                CalicoModel._components = build_components(load_settings())
                CalicoModel._components.host.start()
            return CalicoModel._components
