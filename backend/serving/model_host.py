"""Loads the model in the background, hands it out, and tells how loading stands.

Importing the network and reading the weights takes seconds, while Label Studio gives /health one
second and /setup three; so both happen in a thread of their own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from backend.errors import NotReadyError
from backend.served_model import NamedWeights
from calico_model.errors import CalicoError

W_co = TypeVar("W_co", bound=NamedWeights, covariant=True)
_log = logging.getLogger(__name__)


class ModelState(StrEnum):
    """How loading stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ModelHost(Generic[W_co]):
    """Loads a model once, in the background.

    Args:
        load: builds the model; called in the loading thread, may take long and may raise.
    """

    def __init__(self, load: Callable[[], W_co]) -> None:
        self._load = load
        self._model: W_co | None = None
        self._problem: str | None = None
        self._is_settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-loader", daemon=True)

    def start(self) -> None:
        """Begins loading; returns at once."""
        self._thread.start()

    @property
    def state(self) -> ModelState:
        """How loading stands right now."""
        if not self._is_settled.is_set():
            return ModelState.LOADING
        return ModelState.FAILED if self._model is None else ModelState.READY

    @property
    def model(self) -> W_co | None:
        """The base weights, or None while there are none."""
        return self._model

    @property
    def version(self) -> str | None:
        """Version of the loaded weights, or None while there are none."""
        return None if self._model is None else self._model.version

    def wait(self, timeout_s: float | None = None) -> W_co:
        """Returns the base weights, waiting for them while they load.

        Raises:
            NotReadyError: still loading after `timeout_s`, or the weights cannot be used; the
                message says which and, for weights, what is wrong with them.
        """
        if not self._is_settled.wait(timeout_s):
            raise NotReadyError("the weights are still loading", retry_after_s=5)
        if self._model is None:
            raise NotReadyError(f"the weights cannot be used: {self._problem}")
        return self._model

    def check(self) -> None:
        """Raises NotReadyError when loading has failed; loading or loaded is fine."""
        if self.state is ModelState.FAILED:
            self.wait(0)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._model = self._load()
            _log.info(
                "model loaded",
                extra={
                    "event": "model_loaded",
                    "version": self._model.version,
                    "seconds": round(time.monotonic() - began, 2),
                },
            )
        except CalicoError as error:
            self._problem = str(error)
            _log.error("model cannot be loaded: %s", error, extra={"event": "model_failed"})
        except Exception as error:  # the thread has no caller, and serving goes on
            self._problem = f"{type(error).__name__} while loading; see the log"
            _log.exception("model cannot be loaded", extra={"event": "model_failed"})
        finally:
            self._is_settled.set()
