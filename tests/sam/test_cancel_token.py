"""Cancellation."""

from __future__ import annotations

import pytest

from esam_rt.errors import DecodingCancelledError, EngineError
from esam_rt.sam.cancel_token import CancelToken


def test_a_token_is_set_once_for_all_below_it() -> None:
    parent = CancelToken()
    child, sibling = CancelToken(parent), CancelToken(parent)
    child.check()
    child.cancel()
    assert (child.is_cancelled, sibling.is_cancelled, parent.is_cancelled) == (True, False, False)
    parent.cancel()
    assert sibling.is_cancelled
    with pytest.raises(DecodingCancelledError, match="cancelled"):
        sibling.check()
    assert not issubclass(DecodingCancelledError, EngineError)


def test_the_end_of_a_block_cancels() -> None:
    with pytest.raises(ZeroDivisionError), CancelToken() as token:
        assert not token.is_cancelled
        raise ZeroDivisionError
    assert token.is_cancelled
