"""Asking something that may hang, for a bounded time."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Patience(Generic[T]):
    """Runs a question in a thread of its own and waits so long for the answer; at most `most` questions hang."""

    def __init__(self, seconds: float, most: int = 8):
        self._seconds, self._free = seconds, threading.Semaphore(most)

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, or what the question raises.

        Raises:
            TimeoutError: none in time, or too many questions hang already. The question is left to itself.
        """
        if not self._free.acquire(blocking=False):
            raise TimeoutError
        answers: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                answers.append(question())
            except Exception as error:  # whatever the question raises is raised to who asked
                errors.append(error)
            finally:
                self._free.release()

        thread = threading.Thread(target=run, name="asking", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if errors:
            raise errors[0]
        if not answers:
            raise TimeoutError
        return answers[0]
