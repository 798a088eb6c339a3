"""Whether anybody listens.

The API has no cheap way to ask whether an SDK was set up: a span of its no-op tracer costs as much
as a whole put, and ``get_tracer_provider()`` reads the environment each time. So this reads the two
variables in which the API keeps the global providers. If a later API keeps them elsewhere, the
answer is yes, which is slower but never wrong.
"""

from __future__ import annotations

import opentelemetry.metrics._internal as _metrics
from opentelemetry import trace as _trace

if hasattr(_trace, "_TRACER_PROVIDER") and hasattr(_metrics, "_METER_PROVIDER"):

    def is_set_up() -> bool:
        """Whether a global tracer provider or meter provider has been set."""
        return _trace._TRACER_PROVIDER is not None or _metrics._METER_PROVIDER is not None

else:

    def is_set_up() -> bool:
        """Whether a global tracer provider or meter provider has been set: nobody knows."""
        return True
