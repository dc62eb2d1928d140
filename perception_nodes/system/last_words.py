"""Why a node ends: it leaves its last words in a file of memory that its supervisor reads."""

import os
from contextlib import suppress

VARIABLE = "PERCEPTION_LAST_WORDS"
LONGEST_BYTES = 4096


class LastWords:
    """The supervisor's end, for one process at a time."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("last_words")
        """To be inherited by the process, which knows it by `environment`."""
        self.environment = {VARIABLE: str(self.descriptor)}

    def clear(self) -> None:
        """Forget those of the process before."""
        os.ftruncate(self.descriptor, 0)

    def read(self) -> str:
        """One line, empty if the process left none."""
        left = os.pread(self.descriptor, LONGEST_BYTES, 0)
        return " ".join(left.decode("utf-8", "replace").split())

    def close(self) -> None:
        """Give the memory back."""
        os.close(self.descriptor)


def leave(text: str) -> None:
    """Leave last words, if a supervisor has started us."""
    if descriptor := os.environ.get(VARIABLE):
        with suppress(OSError, ValueError):
            os.pwrite(int(descriptor), text.encode()[:LONGEST_BYTES], 0)
