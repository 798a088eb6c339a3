"""What not every supported Python has."""

from __future__ import annotations

import sys

import pytest

FROM_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
#: These start no thread once the main thread has ended (cpython#113964).
ENDS_EARLY = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2), reason="threads at the end of the interpreter"
)
FROM_3_12 = pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
