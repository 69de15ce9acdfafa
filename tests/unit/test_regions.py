"""The table of regions, and other accepted names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestctl.config.regions import REGIONS, domain_of
from guestctl.core.errors import UsageError


def test_the_table_is_the_references() -> None:
    # web-messaging.md §1.2: eighteen rows.
    assert len(REGIONS) == 18
    assert {region.aws: region.domain for region in REGIONS} == {
        "us-east-1": "mypurecloud.com",
        "us-west-2": "usw2.pure.cloud",
        "us-east-2": "use2.us-gov-pure.cloud",
        "ca-central-1": "cac1.pure.cloud",
        "mx-central-1": "mxc1.pure.cloud",
        "sa-east-1": "sae1.pure.cloud",
        "eu-west-1": "mypurecloud.ie",
        "eu-west-2": "euw2.pure.cloud",
        "eu-central-1": "mypurecloud.de",
        "eu-central-2": "euc2.pure.cloud",
        "me-central-1": "mec1.pure.cloud",
        "ap-south-1": "aps1.pure.cloud",
        "ap-northeast-1": "mypurecloud.jp",
        "ap-northeast-2": "apne2.pure.cloud",
        "ap-northeast-3": "apne3.pure.cloud",
        "ap-southeast-1": "apse1.pure.cloud",
        "ap-southeast-2": "mypurecloud.com.au",
        "eusc-edee1": "edee1.eusc-pure.cloud",
    }


def test_every_region_is_known_by_both_names() -> None:
    for region in REGIONS:
        assert domain_of(region.aws) == domain_of(region.domain.upper()) == region.domain


@pytest.mark.parametrize("domain", ["new1.pure.cloud", "gateway.corp.example", "xn--bcher-kva.example"])
def test_any_domain_is_accepted(domain: str) -> None:
    assert domain_of(domain) == domain


@pytest.mark.parametrize(
    "text",
    ["", "eu", "127.0.0.1", "a..b", "-a.b", "a.b/c", "evil.com#x", "a b.c", "https://mypurecloud.de", "x" * 99999],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        domain_of(text)


def test_a_slip_is_answered_with_what_was_meant() -> None:
    with pytest.raises(UsageError, match="did you mean eu-central-1"):
        domain_of("eu-centrall-1")


@given(st.text())
def test_nothing_else_comes_out(text: str) -> None:
    try:
        assert "." in domain_of(text)
    except UsageError:
        pass
