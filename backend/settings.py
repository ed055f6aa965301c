"""All settings of a deployment, read once at start: the only file that reads the environment.

Knows which settings contradict each other, and opens no file. The fields are in
`backend/setting_fields/`, by concern.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import AliasChoices, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.errors import SettingsError
from backend.setting_fields.label_studio import LabelStudioSettings
from backend.setting_fields.learning import LearningSettings
from backend.setting_fields.prediction import PredictionSettings
from backend.setting_fields.server import ServerSettings

PREFIX = "CALICO_"
_USER, _PASSWORD = "CALICO_BASIC_AUTH_USER", "CALICO_BASIC_AUTH_PASSWORD"


class Settings(
    LabelStudioSettings, LearningSettings, PredictionSettings, ServerSettings, BaseSettings
):
    """Deployment settings; every field is an environment variable, see `describe_settings`.

    The fields of the last base class are the first in reading order.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Settings:
        if (self.basic_auth_user is None) != (self.basic_auth_password is None):
            raise ValueError(f"{_USER} and {_PASSWORD}: set both or neither")
        if self.basic_auth_user is not None and ":" in self.basic_auth_user:
            raise ValueError(f"{_USER}: expected a name without ':'")
        if self.basic_auth_user is None and not self.allow_open_bind and not is_loopback(self.host):
            raise ValueError(
                f"CALICO_HOST: {self.host!r} is reachable from other machines; set {_USER} and "
                f"{_PASSWORD}, or CALICO_ALLOW_OPEN_BIND=true (--allow-open-bind) on a trusted "
                "network"
            )
        return self

    @model_validator(mode="after")
    def _fleet_is_complete(self) -> Settings:
        if self.fleet_address is not None and not self.is_shared:
            raise ValueError(
                "CALICO_DATABASE_URL: expected postgresql+psycopg://...; a fleet "
                "(CALICO_FLEET_ADDRESS) needs one database for all its processes"
            )
        return self

    @property
    def is_shared(self) -> bool:
        """Whether other servers may use the database at the same time."""
        return self.store_url.startswith("postgresql")

    @property
    def adapters_dir(self) -> Path:
        """Folder of all adapter versions."""
        return self.data_dir / "adapters"

    @property
    def sources_dir(self) -> Path:
        """Folder of the fetched sources, one folder per name."""
        return self.data_dir / "sources"

    @property
    def names_file(self) -> Path:
        """File with the addresses that Label Studio announces, for the trainer."""
        return self.data_dir / "label_studio_names.json"

    @property
    def inference_priority_file(self) -> Path:
        """File of the inference priority, shared by server and trainer."""
        return self.data_dir / "predicting"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the store, SQLite inside the data folder unless configured."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'calico.sqlite3').absolute()}"


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(
    options: Mapping[str, str] = MappingProxyType({}), /, **overrides: object
) -> Settings:
    """Reads the environment once; `overrides`, from the command line, take precedence.

    Args:
        options: field -> the option that overrides it, as messages call it; else its variable.
        overrides: field -> value; None leaves a field to the environment.

    Raises:
        SettingsError: names each key, the expected form and, unless secret, the given value.
    """
    values = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        typed = {variable_name(name): options[name] for name in values if name in options}
        raise SettingsError("; ".join(_sentences(error, typed))) from None


def misspelt_variables() -> dict[str, str]:
    """Returns variables of the environment that look like a setting and are none -> that setting.

    Variables that are like no setting belong to something else and are left alone.
    """
    names = [variable_name(field) for field in Settings.model_fields]
    found = {}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in names:
            for likely in difflib.get_close_matches(name, names, n=1, cutoff=0.85):
                found[name] = likely
    return found


def as_variables(settings: Settings) -> dict[str, str]:
    """Returns the settings that were chosen as environment variables, secrets in plain text."""
    chosen = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    return {
        _variable_of(name): _as_text(value) for name, value in chosen.items() if value is not None
    }


def export_variables(values: Mapping[str, str]) -> None:
    """Sets environment variables of this process, for libraries and processes it starts."""
    os.environ.update(values)


def _variable_of(field_name: str) -> str:
    """An environment variable that sets a field, also where several do."""
    alias = Settings.model_fields[field_name].validation_alias
    return (
        PREFIX + field_name.upper()
        if isinstance(alias, AliasChoices)
        else variable_name(field_name)
    )


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class SettingDoc:
    """One row of the documented table of settings."""

    variable: str
    default: str
    meaning: str


def describe_settings() -> tuple[SettingDoc, ...]:
    """Returns one row per setting, in reading order: the table in docs/settings.md."""
    return tuple(
        SettingDoc(
            variable=variable_name(name),
            default="" if field.default is None else _shown(field.default),
            meaning=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    )


def variable_name(field_name: str) -> str:
    """Name of the environment variable of one field."""
    alias = Settings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field_name.upper()


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default == () else str(default)


def _sentences(error: ValidationError, typed: Mapping[str, str]) -> list[str]:
    # A secret value must never be in a message: hide_input_in_errors drops all values, and only
    # those of fields without a secret are added here.
    sentences = []
    for problem in error.errors(include_input=True):
        location = ".".join(str(step) for step in problem["loc"])
        field_name = location.split(".")[0].lower().removeprefix(PREFIX.lower())
        field = Settings.model_fields.get(field_name)
        value = ""
        # "@": an address may contain a password although its field is not a secret.
        is_secret = field is None or "SecretStr" in str(field.annotation)
        if not is_secret and "@" not in str(problem["input"]):
            value = f", got {problem['input']!r}"
        name = variable_name(field_name) if field is not None else location
        message = problem["msg"].removeprefix("Value error, ")
        where, colon, what = (f"{name}: {message}{value}" if name else message).partition(": ")
        where = " ".join(typed.get(word, word) for word in where.split(" "))
        sentences.append(f"{where}{colon}{what}")
    return sentences
