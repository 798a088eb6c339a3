"""The progress bar of a batch: tqdm's, behind the extra ``progress``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(wanted: bool, items: Any) -> Iterator[Callable[[], None] | None]:
    """Yield what to call for each item that is done; None if no bar is wanted."""
    if not wanted:
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True needs the package tqdm: pip install 'penstock[progress]'"
        ) from None
    lock = threading.Lock()  # plain worker functions end in their threads
    with tqdm(total=len(items) if isinstance(items, Sized) else None, unit="item") as bar:

        def advance() -> None:
            with lock:
                bar.update()

        yield advance
