"""One tree of errors, one class per failure a caller can act on.

CalicoError
├── InvalidImageError       an image or group that cannot be used
├── InvalidMaskError        a mask, score or region that breaks its invariant
├── InvalidConfigError      a configuration value out of range or in conflict with another
├── InvalidRecordError      a data set file or record that cannot be read; names file and key
├── CheckpointError         weights that are missing, truncated, of wrong shape or wrong base
├── UnclearRequestError     a typed request that names nothing the model can look for
└── InsufficientMemoryError a model that does not fit the device; reported before it is loaded
"""


class CalicoError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidImageError(CalicoError):
    """An image or a group of images does not have the expected form."""


class InvalidMaskError(CalicoError):
    """A mask, score or region breaks its invariant."""


class InvalidConfigError(CalicoError):
    """A configuration value is out of range or contradicts another."""


class InvalidRecordError(CalicoError):
    """A data set file or record cannot be read."""


class CheckpointError(CalicoError):
    """Weights are missing, truncated, of the wrong shape or for another base model."""


class UnclearRequestError(CalicoError):
    """A typed request names nothing that can be looked for; says what can be."""


class InsufficientMemoryError(CalicoError):
    """A model does not fit the device it should run on."""
