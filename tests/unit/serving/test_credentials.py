"""Who may use the backend: one user, whatever bytes the header holds."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UnauthorizedError
from backend.serving.request_checks import Credentials
from backend.settings import load_settings


def basic(text: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(text.encode(encoding)).decode()


def test_the_right_credentials_are_accepted():
    Credentials("studio", "s3cret:with:colons").check(basic("studio:s3cret:with:colons"))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_other_letters_are_accepted_in_both_spellings(encoding):
    Credentials("müller", "pässwörd").check(basic("müller:pässwörd", encoding))


def test_letters_outside_latin_1_are_accepted():
    Credentials("studio", "пароль").check(basic("studio:пароль"))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Basic \xe9\xe9",
        "Basic " + "A" * 100_000,
        "Bearer abc",
        "Token abc",
        basic("studio:wrong"),
        basic("studio"),
        basic("other:s3cret"),
        basic("studio:s3cret "),
        basic("stüdio:s3cret", "latin-1"),
        basic(":"),
    ],
)
def test_everything_else_is_refused(header):
    with pytest.raises(UnauthorizedError) as caught:
        Credentials("studio", "s3cret").check(header)
    assert caught.value.field == "header Authorization"


@given(st.text())
def test_no_header_breaks_the_comparison(header):
    with pytest.raises(UnauthorizedError):
        Credentials("studio", "s3cret").check(header)


def test_without_settings_everybody_may():
    assert Credentials.of(load_settings()) is None
    guarded = Credentials.of(load_settings(basic_auth_user="a", basic_auth_password="b"))
    assert guarded is not None
    guarded.check(basic("a:b"))
