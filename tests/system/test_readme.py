"""The commands in README.md work as they stand, in a new clone, in bash and in zsh."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from better_auth import program
from programs import output_of, running_program

from tests.harness import ROOT, client_of, free_port

pytestmark = pytest.mark.system

README = (ROOT / "README.md").read_text()
ENVIRONMENT = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}


def block(heading: str, language: str) -> str:
    """Return the first program under a heading of README.md that is fenced as this language."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[0]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing was done yet, with a blank in its path."""
    folder = tmp_path_factory.mktemp("readme") / "a clone"
    shutil.copytree(ROOT / "backend", folder / "backend")
    for name in (".env", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def port(clone: Path) -> Iterator[int]:
    """The port of the service that runs as README.md says."""
    port = free_port()
    command = block("Run", "sh").replace("backend.main:app", f"backend.main:app --port {port}")
    with (
        client_of(f"http://localhost:{port}") as client,
        running_program(
            ["bash", "-c", command],
            lambda: client.get("/health").is_success,
            seconds=120,
            cwd=clone,
            env=ENVIRONMENT,
        ),
    ):
        yield port


@pytest.mark.parametrize("shell", ["bash --norc", "zsh --no-rcs"])
def test_its_commands_can_be_pasted_twice_and_print_its_answers(
    clone: Path, port: int, shell: str
) -> None:
    name, option = shell.split()
    output = output_of(
        *(program(name), option, "-i"),
        input=block("Try it", "sh").replace("localhost:8000", f"localhost:{port}") * 2,
        cwd=clone,
        env=ENVIRONMENT,
        start_new_session=True,  # an interactive shell would take the terminal of the tests
    )
    lines = without_ids_and_times(output)
    half = len(lines) // 2
    # README.md shows the first answer and the last two.
    answers = without_ids_and_times(block("Try it", "json"))
    for printed in (lines[:half], lines[half:]):
        assert [*printed[:1], *printed[-2:]] == answers, output


def without_ids_and_times(text: str) -> list[str]:
    text = re.sub(r'"id":[0-9]+', '"id":1', text)
    return re.sub(r'"[0-9-]+T[0-9:.]+Z"', '"time"', text).splitlines()
