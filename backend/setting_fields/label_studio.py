"""Settings of Label Studio: its address and token, and which images of tasks may be fetched."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, BaseModel, Field, SecretStr

from backend.setting_fields.values import Addresses, Hosts, HttpUrl

_MIB = 1024 * 1024


class LabelStudioSettings(BaseModel):
    """Where Label Studio is, and what may be fetched for its tasks."""

    label_studio_url: HttpUrl | None = Field(
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

    label_studio_names: Addresses = Field(
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

    image_hosts: Hosts = Field(
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
