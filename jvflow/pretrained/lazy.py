"""Parameters that are never trained, read from files when they are first used."""

from collections.abc import Callable
from typing import Any


class LazyParams:
    """The parameters that `read` returns, read once and kept until they are released."""

    def __init__(self, read: Callable[[], Any]):
        self.read, self.params = read, None

    def get(self) -> Any:
        """Returns the parameters, and reads them first if they are not in memory."""
        if self.params is None:
            self.params = self.read()
        return self.params

    def release(self) -> None:
        """Frees the parameters; the next `get` reads them again."""
        self.params = None
