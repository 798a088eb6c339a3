"""Cells of Jupyter notebooks, in which a running event loop is no reason to refuse a call."""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio import _get_running_loop
from typing import Any


def blocks_loop() -> bool:
    """Whether a call that waits in this thread would hold up an event loop.

    So it would wherever one runs, but for a cell of a notebook (see :func:`is_cell`).
    """
    return _get_running_loop() is not None and not is_cell()


def advice() -> str:
    """Where to make a blocking call in a notebook, for the end of a refusal; else nothing."""
    return ". In a notebook, call it in a cell without await" if "ipykernel" in sys.modules else ""


def is_cell() -> bool:
    """Whether this is the code of a notebook's cell, called by ipykernel, which waits for it.

    ipykernel handles its messages in an event loop, so in each cell a loop runs. A cell without
    ``await`` is a plain call of ipykernel's own task: the kernel does nothing before the cell ends,
    whether the cell computes, sleeps or waits for a queue. Ctrl-C ("interrupt the kernel") raises
    ``KeyboardInterrupt`` in it. The same holds for handlers of widgets.

    Everything else that runs on that loop is refused as on any other:

    * a task that a cell has started: the cell has ended, and the kernel goes on;
    * a cell with ``await`` at its top level. It is a task as well, and ipykernel waits for that
      one. But an interrupt only asks the loop to cancel the task. While a call blocks the loop, the
      loop does not hear it, and nothing would get out of the call but a restart of the kernel.

    The current task tells these apart: in a plain cell it is the one that runs ipykernel's own
    coroutine. (In ipykernel 6 that is ``Kernel.dispatch_queue``, in 7 ``Kernel.shell_main``. The
    name of the module is asked, since it is the same in both.) A cell with ``await`` is a task of
    IPython's ``run_cell_async``, and other tasks are the user's.

    Only in the main thread: interrupts do not reach ipykernel's other threads, those of subshells
    and the one that receives the order to shut down.
    """
    if "ipykernel" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return False
    coro: Any = None if task is None else task.get_coro()
    frame = getattr(coro, "cr_frame", None)
    module: str = "" if frame is None else frame.f_globals.get("__name__", "")
    return module.partition(".")[0] == "ipykernel"
