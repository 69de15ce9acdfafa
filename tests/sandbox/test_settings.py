"""The settings of a sandbox agree with what it implements."""

from __future__ import annotations

from guestctl.sandbox.apis import APIS
from guestctl.sandbox.settings import API_NAMES


def test_the_api_names_are_those_of_the_implemented_apis() -> None:
    assert tuple(api.name for api in APIS) == API_NAMES
