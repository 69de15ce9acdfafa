"""The regions of the service and their domains (web-messaging.md §1.2).

Knows: names, places and domains. Must not know: which hosts a dialect derives from a domain. The table is only a
convenience: any domain is valid, because regions may be newer than this release.
"""

from __future__ import annotations

import re

from guestctl.core.errors import UsageError
from guestctl.core.suggestions import nearest
from guestctl.core.values import immutable


@immutable
class Region:
    """One region. `aws` is its name in the vendor's documentation."""

    aws: str
    place: str
    domain: str


REGIONS: tuple[Region, ...] = (
    Region("us-east-1", "Americas (US East)", "mypurecloud.com"),
    Region("us-west-2", "Americas (US West)", "usw2.pure.cloud"),
    Region("us-east-2", "US FedRAMP", "use2.us-gov-pure.cloud"),
    Region("ca-central-1", "Canada", "cac1.pure.cloud"),
    Region("mx-central-1", "Mexico", "mxc1.pure.cloud"),
    Region("sa-east-1", "São Paulo", "sae1.pure.cloud"),
    Region("eu-west-1", "Dublin", "mypurecloud.ie"),
    Region("eu-west-2", "London", "euw2.pure.cloud"),
    Region("eu-central-1", "Frankfurt", "mypurecloud.de"),
    Region("eu-central-2", "Zurich", "euc2.pure.cloud"),
    Region("me-central-1", "UAE", "mec1.pure.cloud"),
    Region("ap-south-1", "Mumbai", "aps1.pure.cloud"),
    Region("ap-northeast-1", "Tokyo", "mypurecloud.jp"),
    Region("ap-northeast-2", "Seoul", "apne2.pure.cloud"),
    Region("ap-northeast-3", "Osaka", "apne3.pure.cloud"),
    Region("ap-southeast-1", "Singapore", "apse1.pure.cloud"),
    Region("ap-southeast-2", "Sydney", "mypurecloud.com.au"),
    Region("eusc-edee1", "EU Sovereign (pre-release name)", "edee1.eusc-pure.cloud"),
)


def _short(aws: str) -> str:
    """Return the short form of an AWS name: euw2 for eu-west-2, apne1 for ap-northeast-1."""
    area, *directions, number = aws.split("-")
    words = {"northeast": "ne", "southeast": "se"}
    return area + "".join(words.get(word, word[0]) for word in directions) + number


#: The names that the deployment snippet of the Messenger has in its `environment`.
_SNIPPET = {
    **{f"prod-{_short(region.aws)}": region.domain for region in REGIONS if region.aws.count("-") == 2},
    "prod": "mypurecloud.com",
    "fedramp-use2-core": "use2.us-gov-pure.cloud",
}
_DOMAINS = {region.aws: region.domain for region in REGIONS}
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#: A domain has two labels or more, and the last is not a number: an IP address is not a region.
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+$){_LABEL}", re.ASCII)


def domain_of(region: str) -> str:
    """Return the domain of a region, given as its AWS name or as a domain, in upper or lower case.

    Raises UsageError (config.file), whose text suggests similar names.
    """
    text = region.strip().lower()
    for names in (_DOMAINS, _SNIPPET):
        if text in names:
            return names[text]
    if len(text) <= 240 and _DOMAIN.fullmatch(text):
        return text
    near = nearest(text, [*_DOMAINS, *_DOMAINS.values()], 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`guestctl help profiles` lists the regions"
    raise UsageError(
        f'"{region}" is neither a region (eu-central-1) nor a domain (mypurecloud.de); {hint}', code="config.file"
    )
