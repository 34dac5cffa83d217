"""What has gone through the gateway, for tests to look at."""

from threading import Condition

from tests.stack.messages import Request


class Journal:
    """The requests in the order they came, and how many are open."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._requests: list[Request] = []
        self.keeping = True
        self.seen = 0
        self.open = 0
        self.most_open = 0

    @property
    def requests(self) -> list[Request]:
        with self._changed:
            return list(self._requests)

    def begin(self, request: Request) -> None:
        with self._changed:
            if self.keeping:
                self._requests.append(request)
            self.seen += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self.open -= 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.seen >= seen, timeout):
                raise TimeoutError(f"{self.seen} requests came, not {seen}")

    def wait_until_idle(self, timeout: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.open == 0, timeout):
                raise TimeoutError(f"{self.open} requests are still open")

    def forget(self) -> None:
        with self._changed:
            self._requests.clear()
            self.seen = 0
            self.most_open = self.open
