"""A mistake in a setting ends the check of the settings with one line."""

import pytest

from tests.harness import CHECK, PASSWORD, started

pytestmark = pytest.mark.system


def test_a_check_that_finds_a_mistake_says_one_line_and_ends_with_status_1():
    with started(*CHECK, BETTER_AUTH_SECRET=PASSWORD) as process:
        output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert error == "BETTER_AUTH_SECRET must have at least 32 bytes (RFC 7518, section 3.2).\n"
