"""Features that only some APIs have: the feature and the ability named in the error match."""

from __future__ import annotations

import pytest

from guestctl.core.model import Profile
from guestctl.dialects import NAMES, dialect_class
from guestctl.dialects.capabilities import Ability


@pytest.mark.parametrize("api", NAMES)
def test_a_part_is_there_where_its_ability_is(api: str) -> None:
    dialect = dialect_class(api)(
        Profile("p", api=api, region="r.test", environment="e", org="o", aws_region="a", deployment_id="d"),
        new_id=lambda: "id",
    )
    parts = {Ability.PICK: dialect.rich_content, Ability.FILES: dialect.files, Ability.SIGN_IN: dialect.signing_in}
    assert {ability for ability, part in parts.items() if part is not None} == dialect.abilities.keys() & parts.keys()
    assert (dialect.all_addresses() != dialect.addresses()) == (dialect.deployment_configuration is not None)
