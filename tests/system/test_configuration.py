"""A mistake in a setting ends the check with one line, and a mere import does nothing."""

import socket

import pytest

from tests.harness import CHECK, PASSWORD, started

pytestmark = pytest.mark.system


def test_a_check_that_finds_a_mistake_says_one_line_and_ends_with_status_1():
    with started(*CHECK, BETTER_AUTH_SECRET=PASSWORD) as process:
        output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "")
    assert error == "BETTER_AUTH_SECRET must have at least 32 bytes (RFC 7518, section 3.2).\n"


@pytest.mark.parametrize("module", ["backend.models", "backend.routes.tasks", "backend.auth.jwt"])
def test_importing_a_module_alone_touches_no_database_and_no_network(module):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = {
            "NEON_DATABASE_URL": f"postgresql://127.0.0.1:{port}/todo",
            "BETTER_AUTH_URL": f"http://127.0.0.1:{port}",
        }
        with started("-c", f"import {module}", **settings) as process:
            assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
