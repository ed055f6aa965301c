"""The tree of the backend's errors, with their HTTP status.

BackendError                     500
├── RequestError                 400  a request of another form than expected
│   ├── InvalidTaskError         400  a task without usable images or data
│   ├── InvalidLabelConfigError  400  a labeling config without the needed tags
│   ├── InvalidEventError        400  a webhook body of an unknown form
│   ├── InvalidRleError          400  a brush mask that cannot be decoded
│   ├── UnauthorizedError        401  missing or wrong credentials
│   ├── NotFoundError            404  no such route, project or version
│   └── RequestTooLargeError     413  a body over the limit
├── MediaError                   422  an image that cannot be used; only its own task fails
│   ├── ForbiddenAddressError    422  scheme, host or address outside the allow-list
│   ├── MediaTooLargeError       422  over the byte, pixel or side limit
│   ├── MediaUnavailableError    422  unreachable, too slow, not found, refused by its host
│   └── UnreadableMediaError     422  not an image that can be decoded
├── LabelStudioError             502  Label Studio's API returned an error or did not answer
│   └── LabelStudioAuthError     502  Label Studio refused our token
├── NotReadyError                503  weights are still loading; try again
├── BusyError                    503  a bounded queue is full or the journal is too slow
├── FleetError                   503  no model replica of the fleet answered
├── StoreError                   503  the database cannot be read or written
├── DamagedFilesError            500  a version or a training state is not what was stored
├── FilesUnavailableError        503  a version or a training state cannot be reached now
├── VersionError                 409  a version cannot be published or rolled back to
├── LeaseLostError               500  another trainer has taken a training run over
├── ProcessLostError             500  another process of a training is gone
├── StoppedError                 500  the work was stopped on request
├── FetchError                   502  released weights cannot be downloaded, or are incomplete
└── SettingsError                500  a setting that cannot be used; raised at start only
"""

from __future__ import annotations

from typing import ClassVar


class BackendError(Exception):
    """Base of every error this package raises on purpose.

    Attributes:
        http_status: status of the response when the error ends a request.
        field: path of the wrong value ("tasks[2].data.images"), or None.
        retry_after_s: seconds after which trying again makes sense, or None.
    """

    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, field: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message if field is None else f"{field}: {message}")
        self.field = field
        self.retry_after_s = retry_after_s


class RequestError(BackendError):
    """A request has another form than expected."""

    http_status = 400


class InvalidTaskError(RequestError):
    """A task has no usable images or data."""


class InvalidLabelConfigError(RequestError):
    """A labeling config lacks a needed tag or cannot be read."""


class InvalidEventError(RequestError):
    """A webhook body does not have a known form."""


class InvalidRleError(RequestError):
    """A brush mask cannot be decoded."""


class UnauthorizedError(RequestError):
    """Credentials are missing or wrong."""

    http_status = 401


class NotFoundError(RequestError):
    """The named thing does not exist."""

    http_status = 404


class RequestTooLargeError(RequestError):
    """A request body is over the limit."""

    http_status = 413


class MediaError(BackendError):
    """An image cannot be used; only its own task fails."""

    http_status = 422


class ForbiddenAddressError(MediaError):
    """An image URL's scheme, host or address is not allowed."""


class MediaTooLargeError(MediaError):
    """An image is over the limit of bytes, pixels or side."""


class MediaUnavailableError(MediaError):
    """An image's host is unreachable, too slow, has no such file or refuses it."""


class UnreadableMediaError(MediaError):
    """Fetched bytes are not an image that can be decoded."""


class LabelStudioError(BackendError):
    """Label Studio's API returned an error or did not answer."""

    http_status = 502


class LabelStudioAuthError(LabelStudioError):
    """Label Studio refused our token."""


class NotReadyError(BackendError):
    """Weights are still loading."""

    http_status = 503


class BusyError(BackendError):
    """A bounded queue is full or the journal is too slow."""

    http_status = 503


class FleetError(BackendError):
    """No model replica of the fleet answered, or none of a release this one can talk to."""

    http_status = 503


class StoreError(BackendError):
    """The database cannot be read or written."""

    http_status = 503


class DamagedFilesError(BackendError):
    """Files of an adapter version, or of a state of a training, are not those that were stored."""


class FilesUnavailableError(BackendError):
    """Files of an adapter version, or of a state of a training, cannot be reached now.

    They may come.
    """

    http_status = 503


class VersionError(BackendError):
    """A version cannot be published or rolled back to."""

    http_status = 409


class LeaseLostError(BackendError):
    """Another trainer has taken a training run over."""


class ProcessLostError(BackendError):
    """Another process of a training on several processes is gone."""


class StoppedError(BackendError):
    """The work was stopped on request."""


class FetchError(BackendError):
    """Released weights cannot be downloaded, or are incomplete or damaged."""

    http_status = 502


class SettingsError(BackendError):
    """A setting cannot be used."""
