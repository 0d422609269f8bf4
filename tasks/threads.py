"""Long blocking work beside the event loop, in a thread that does not hold the process back when it ends.

`asyncio.to_thread` waits for its threads at exit: a cancelled run would hang until pip has finished downloading.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(function: Callable[[], T], stop: threading.Event) -> T:
    """The function's value, or its exception.

    When the waiting task is cancelled, `stop` is set for the function to see, and the thread is left behind.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(act: Callable[[], None]) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if future.done() else act())
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def body() -> None:
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - carried over to the waiting task, whatever it is
            raised = error
            settle(lambda: future.set_exception(raised))
        else:
            settle(lambda: future.set_result(value))

    threading.Thread(target=body, name="commonfleet-work", daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        stop.set()
        raise
