"""All settings of a deployment, read once at start: the only file that reads the environment.

Knows names, types, defaults and which settings contradict each other. Opens no file.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.clock import parse_hours
from backend.errors import SettingsError
from calico_model.errors import InvalidConfigError
from calico_model.loading.precision import Precision
from calico_model.sources.registry import read_choices

PREFIX = "CALICO_"
_USER, _PASSWORD = "CALICO_BASIC_AUTH_USER", "CALICO_BASIC_AUTH_PASSWORD"
_MIB = 1024 * 1024
_NO_NAME = re.compile(r"[*\s]")
_ADDRESS = re.compile(r"[^\s:/@]+:[1-9][0-9]{0,4}")
_HOST = re.compile(r"\*|(\*\.)?[^/@*\s]+")


class Settings(BaseSettings):
    """Deployment settings; every field is an environment variable, see `describe_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    host: str = Field("127.0.0.1", description="Address the backend listens on.")
    port: int = Field(
        9090, ge=0, le=65535, description="Port the backend listens on; 0 = any free."
    )
    threads: int = Field(
        32, ge=16, le=256, description="Request threads of the server; each needs little memory."
    )
    basic_auth_user: str | None = Field(
        None, description="User name Label Studio must send; set together with the password."
    )
    basic_auth_password: SecretStr | None = Field(
        None, description="Password Label Studio must send; only / and /health need none."
    )
    allow_open_bind: bool = Field(
        False, description="Listen beyond this machine without credentials (trusted networks only)."
    )

    data_dir: Path = Field(
        Path(".calico"), description="Folder of the database and of all other stored files."
    )
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL (postgresql+psycopg://...); a SQLite file if unset.",
    )
    adapters_url: str | None = Field(
        None,
        description="Where several servers find adapter versions: file:///FOLDER, "
        "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; the data folder alone if unset.",
    )
    commit_timeout_ms: int = Field(
        700,
        ge=1,
        le=60_000,
        description="Longest wait for a commit before 503; Label Studio waits 1000 ms.",
    )
    journal_queue: int = Field(
        1024,
        ge=1,
        description="Events that may wait for the writer thread; others are answered 503.",
    )

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
        None, ge=1, description="CPU threads of one prediction; torch decides if unset."
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

    fleet_address: str | None = Field(
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
    sources: Annotated[tuple[str, ...], NoDecode] = Field(
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

    trainer: bool = Field(
        True, description="Learn from corrections, in a separate process beside the server."
    )
    train_every: int = Field(
        5, ge=1, description="Number of new corrections of a project that starts a training."
    )
    train_age_s: float = Field(
        900.0, ge=0, description="Seconds after which a single new correction starts a training."
    )
    train_seconds: float | None = Field(
        None,
        gt=0,
        description="Longest time one update learns, in seconds of processor time; 30 if unset. "
        "The quality check takes extra time. A busy machine takes up to three times as long.",
    )
    trainer_threads: int = Field(1, ge=1, description="CPU threads of the trainer.")
    trainer_nice: int = Field(15, ge=0, le=19, description="Nice value of the trainer process.")
    refresh: bool = Field(
        True,
        description="Predict the tasks that nobody has begun again with every new version, and "
        "order them by its scores; needs Label Studio's token.",
    )
    refresh_at_once: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Tasks of a project that are predicted again at any hour after a promotion, "
        "the least certain first; all if unset, 200 if only the hours are set.",
    )
    refresh_hours: str | None = Field(
        None,
        description="Hours of the day in UTC in which all other tasks are predicted again, as "
        "20-6; with CALICO_REFRESH_AT_ONCE alone they never are.",
    )
    start_from_project: int | None = Field(
        None,
        description="Project whose version new projects start from; the shipped model if unset.",
    )
    base_data: Path | None = Field(
        None,
        description="Records the weights were trained on, to rehearse and to measure forgetting; "
        "generated for the shipped weights if unset.",
    )
    feature_bytes: int = Field(
        4096 * _MIB, ge=1, description="Bytes of stored image features; others are not stored."
    )

    label_studio_url: str | None = Field(
        None,
        validation_alias="LABEL_STUDIO_URL",
        description="Address of Label Studio for the backend; preferred to the address that Label "
        "Studio announces.",
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias="LABEL_STUDIO_API_KEY",
        description="Legacy token or personal access token, for images and late predictions.",
    )

    label_studio_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Other addresses of the same Label Studio in task data, separated by commas; "
        "addresses it announces are known. Its files are fetched from "
        "LABEL_STUDIO_URL.",
    )
    ca_bundle: Path | None = Field(
        None,
        validation_alias=AliasChoices(
            "ca_bundle", "CALICO_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"
        ),
        description="File or folder of your own certificate authorities, trusted in addition to "
        "the usual ones; SSL_CERT_FILE and REQUESTS_CA_BUNDLE do the same.",
    )

    image_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Hosts besides Label Studio of images, separated by commas."
    )
    local_files_root: Path | None = Field(
        None, description="Folder from which local-file images may be read directly; off if unset."
    )
    max_image_bytes: int = Field(25 * _MIB, ge=1, description="Largest image file, in bytes.")
    max_image_pixels: int = Field(
        40_000_000, ge=1, le=40_000_000, description="Largest number of pixels of one image."
    )
    max_image_side: int = Field(16_384, ge=1, description="Longest side of an image, in pixels.")
    max_group_pixels: int = Field(
        160_000_000,
        ge=1,
        description="Largest number of pixels of all images of a task; each takes three bytes "
        "during a prediction.",
    )
    image_timeout_s: float = Field(
        30.0, gt=0, description="Longest time to fetch one image, in seconds."
    )
    max_body_bytes: int = Field(
        64 * _MIB,
        ge=1024,
        description="Largest request body in bytes; a batch contains earlier masks.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that is logged."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="How log lines look: text or json; auto is text on a terminal and json "
        "elsewhere.",
    )

    @field_validator("image_hosts", "label_studio_names", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(host.strip().lower() for host in value.split(",") if host.strip())

    @field_validator("sources", mode="before")
    @classmethod
    def _split_sources(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(entry.strip() for entry in value.split(",") if entry.strip())

    @field_validator("sources")
    @classmethod
    def _are_sources(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            read_choices(value, Path())
        except InvalidConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("label_studio_url")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if "@" in parts.netloc:
            raise ValueError("expected an address without user name and password")
        is_whole = parts.scheme in ("http", "https") and parts.hostname
        if not is_whole or parts.query or parts.fragment or parts.port == 0:  # reads the port
            raise ValueError("expected http://HOST[:PORT] or https://HOST[:PORT]")
        return value.rstrip("/")

    @field_validator("refresh_hours")
    @classmethod
    def _are_hours(cls, value: str | None) -> str | None:
        if value is not None:
            parse_hours(value)
        return value

    @field_validator("adapters_url")
    @classmethod
    def _is_place_of_adapters(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        is_folder = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
        is_bucket = parts.scheme in ("s3", "gs") and parts.netloc and "@" not in parts.netloc
        if not (is_folder or is_bucket) or parts.query or parts.fragment:
            raise ValueError("expected file:///FOLDER, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        return value.rstrip("/")

    @field_validator("fleet_address")
    @classmethod
    def _is_host_and_port(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise ValueError("expected HOST:PORT")
        return value

    @field_validator("label_studio_names")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            parts = urlsplit(name if "://" in name else f"http://{name}")
            is_whole = parts.scheme in ("http", "https") and parts.hostname and "@" not in name
            if (
                not is_whole
                or parts.query
                or parts.fragment
                or parts.port == 0
                or _NO_NAME.search(name)
            ):
                raise ValueError('expected "name", "name:port" or http(s)://name[:port][/path]')
        return value

    @field_validator("image_hosts")
    @classmethod
    def _are_host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST.fullmatch(host) for host in value):
            raise ValueError('expected "name", "name:port", "*.domain" or "*", without http://')
        return value

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
                "CALICO_FLEET_ADDRESS: a fleet needs one database for all; set "
                "CALICO_DATABASE_URL=postgresql+psycopg://..."
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


def load_settings(**overrides: object) -> Settings:
    """Reads the environment once; `overrides`, from the command line, take precedence.

    Raises:
        SettingsError: names each key, the expected form and, unless secret, the given value.
    """
    values = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(_sentences(error))) from None


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


def _sentences(error: ValidationError) -> list[str]:
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
        sentences.append(f"{name}: {message}{value}" if name else message)
    return sentences
