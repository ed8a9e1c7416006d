"""What the tests that compile TypeScript share: a folder with packages, and programs run there."""

import os
import shutil
from pathlib import Path

from better_auth import DIRECTORY, packages, program
from programs import output_of


def workspace(directory: Path, *files: str) -> None:
    """Copy these files of frontend/ into a folder, where they can import its packages."""
    program("node")
    (directory / "node_modules").symlink_to(packages())
    for name in ("package.json", *files):
        shutil.copy(DIRECTORY / name, directory)


def run(directory: Path, *command: str, **environment: str) -> str:
    """Run a program of the packages, or another one, in a folder; return what it prints."""
    programs = directory / "node_modules" / ".bin"
    path = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return output_of(*command, cwd=directory, env=os.environ | path | environment)
