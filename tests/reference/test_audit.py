"""Every family of the zoo keeps what every stage relies on; it takes too long for the plain tier."""

import pytest
from audit_families import audit, families

from fmzoo import zoo

pytestmark = pytest.mark.reference
SMALL = families()


@pytest.mark.parametrize("config", SMALL, ids=lambda config: SMALL[config][0])
def test_a_family_passes(config):
    checks = audit(config)
    assert all(check.passed for check in checks), checks
    assert max(check.error for check in checks) > 0


def test_every_name_is_of_a_family():
    assert sorted(name for names in SMALL.values() for name in names) == sorted(zoo.names())
