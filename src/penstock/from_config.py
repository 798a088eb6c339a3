"""What makes a ``WorkQueue`` of a ``QueueConfig``.

Imports pydantic, which takes as long as all the rest of penstock, when the first queue is made so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from penstock._util import checks
from penstock._util.compat import Self
from penstock.limits import Limit
from penstock.policies.observer import ObserverProvider

if TYPE_CHECKING:
    from penstock.config import QueueConfig


class FromConfig:
    """What gives a ``WorkQueue`` its ``from_config``."""

    @classmethod
    def from_config(
        cls,
        config: QueueConfig,
        *,
        logger: logging.Logger | None = None,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
        limits: Iterable[Limit | str] = (),
    ) -> Self:
        """Make a queue with the settings of ``config``; ``limits`` are added to its own.

        Raises:
            TypeError: ``config`` is not a ``QueueConfig``, or an argument is not allowed.
            ValueError: an argument is not allowed.
        """
        from penstock.config import QueueConfig, settings_of

        if not isinstance(config, QueueConfig):
            raise TypeError(f"config must be a QueueConfig, got {checks.shown(config)}")
        if not isinstance(limits, Iterable):
            raise TypeError(f"limits must be an iterable of Limit, got {checks.shown(limits)}")
        settings = settings_of(config, name)
        settings["limits"] += limits
        make: Any = cls  # of a subclass: this class does not have the arguments
        queue: Self = make(logger=logger, name=name, telemetry=telemetry, **settings)
        return queue
