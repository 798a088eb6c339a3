"""Two tenants of one API: with fair shares the quiet one does not wait for the busy one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_tenants.py"


def test_the_quiet_tenant_is_done_soon_with_fair_shares_only(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", EXAMPLE],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told = re.findall(r"(.+): 10 calls of the quiet tenant are among the first (\d+)", done.stdout)
    assert [name for name, _ in told] == ["no order", "fair shares"], done.stdout
    first_come, fair = (int(count) for _, count in told)
    assert first_come >= 130
    assert fair < 60, "twenty, and those that were refused and tried again"
