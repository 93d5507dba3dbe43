"""Parameters of models that stay as they are: read when they are asked for, held until they are let go."""

from collections.abc import Callable
from typing import Any


class Held:
    """What `read` gives, once; None without it."""

    def __init__(self, read: Callable[[], Any] | None = None):
        self.read, self.value = read, None

    def get(self) -> Any:
        """What was read, now or before."""
        if self.value is None and self.read:
            self.value = self.read()
        return self.value

    def release(self) -> None:
        """Lets it go; the next `get` reads it again."""
        self.value = None
