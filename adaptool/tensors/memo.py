"""Memo: the last few results of something slow, each computed once however many threads ask."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """Keeps the ``limit`` results used last; a pickled copy starts empty, since another process computes its own."""

    def __init__(self, limit: int = 16) -> None:
        self.limit = limit
        self._results: OrderedDict[str, Future[T]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: str, compute: Callable[[], T]) -> T:
        """The result for ``key``; one thread computes it and the others wait. A failure is raised and not kept."""
        with self._lock:
            result = self._results.get(key)
            ours = result is None
            if result is None:
                result = self._results[key] = Future()
            self._results.move_to_end(key)
            while len(self._results) > self.limit:
                self._results.popitem(last=False)
        if ours:
            try:
                result.set_result(compute())
            except BaseException as error:
                with self._lock:
                    self._results.pop(key, None)
                result.set_exception(error)
        return result.result()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.limit,)
