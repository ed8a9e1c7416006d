"""The contract suite: those quick tests that ask the service over HTTP alone, wherever it runs."""

import os
import re
import subprocess
import sys

from tests.harness import ROOT

NAMES = ("contract", "isolation", "input", "errors", "tokens")
SUITE = [f"tests/test_{name}.py" for name in NAMES]


def run_contract_suite(**environment: str) -> int:
    """Run it with these variables set; return how many tests passed, or fail if one did not."""
    suite = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *SUITE],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert suite.returncode == 0, suite.stdout + suite.stderr
    assert "skipped" not in suite.stdout, suite.stdout
    passed = re.search(r"\b([1-9]\d*) passed", suite.stdout)
    assert passed, suite.stdout
    return int(passed[1])
