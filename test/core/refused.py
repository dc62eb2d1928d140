"""What an error tells people: one line."""

import pytest


def refused(kind, call, *args, **kwargs):
    """Call what must raise an error of this kind; the error's text."""
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text
