"""Serialized messages by the C functions of ROS (rcl), without the copies that rclpy makes.

rclpy copies each message into a new object. Here a message is taken into memory that is used again,
and a wait for one is a wait for one file descriptor instead of all that a node has.
"""

import ctypes
import os
import select
from typing import Any, NamedTuple

from perception_nodes.core.structures import fields
from perception_nodes.transport.memory import TransportError

OK, TAKE_FAILED = 0, 401
_RCL = ctypes.CDLL("librcl.so")
_RCUTILS = ctypes.CDLL("librcutils.so")
_WAKE = ctypes.CDLL(None).eventfd_write
"""int eventfd_write(int fd, uint64_t value). A callback for new messages is given a word of ours
and their number, which fit this function, so that no Python runs in the middleware's thread."""


class _Allocator(ctypes.Structure):
    _fields_ = fields("void_p allocate, deallocate, reallocate, zero_allocate, state")


class _Message(ctypes.Structure):
    """An rcl_serialized_message_t."""

    _fields_ = [*fields("void_p buffer; size_t length, capacity"), ("allocator", _Allocator)]


class _Info(ctypes.Structure):
    """An rmw_message_info_t."""

    # At the end more bytes than follow in any distribution: Humble's gid has 24.
    _fields_ = fields(
        "int64 source_timestamp, received_timestamp; uint64 publication_sequence_number, "
        "reception_sequence_number; char_p gid_implementation; uint8 gid[16], rest[24]"
    )


_RCUTILS.rcutils_get_default_allocator.restype = _Allocator
_NO_NUMBER = (1 << 64) - 1
"""RMW_MESSAGE_INFO_SEQUENCE_NUMBER_UNSUPPORTED"""


class Taken(NamedTuple):
    """A message.

    Attributes:
        data: its bytes, until the second `take` after this one.
        publisher: identifier of its publisher.
        number: its number among the publisher's messages; None if the middleware does not number.
        received_realtime_ns: when the middleware received it, nanoseconds since the Unix epoch; 0
            if it does not date messages.
    """

    data: memoryview
    publisher: bytes
    number: int | None
    received_realtime_ns: int


class SerializedReader:
    """Takes the messages of a subscription that belongs to no executor."""

    def __init__(self, subscription: Any) -> None:
        """Take over the new messages of an `rclpy.subscription.Subscription`."""
        self._handle = subscription.handle
        self._info = _Info()
        self._messages = (_Message(), _Message())
        allocator = _RCUTILS.rcutils_get_default_allocator()
        for message in self._messages:
            _RCUTILS.rcutils_uint8_array_init(
                ctypes.byref(message), ctypes.c_size_t(1), ctypes.byref(allocator)
            )
        self._next = 0
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._event, select.POLLIN)
        self._wake_by(ctypes.cast(_WAKE, ctypes.c_void_p))

    def wait(self, timeout_ms: float) -> None:
        """Wait until there are new messages, but no longer than the timeout."""
        if self._poll.poll(timeout_ms):
            os.eventfd_read(self._event)

    def waits(self) -> bool:
        """Whether a message has come since `wait`."""
        return bool(self._poll.poll(0))

    def take(self) -> Taken | None:
        """Take a message out of the middleware; None if there is none.

        Raises:
            TransportError: there is no memory for it.
        """
        message, info = self._messages[self._next], self._info
        with self._handle:
            found = _RCL.rcl_take_serialized_message(
                ctypes.c_void_p(self._handle.pointer),
                ctypes.byref(message),
                ctypes.byref(info),
                None,
            )
        if found != OK:
            _RCUTILS.rcutils_reset_error()
            if found == TAKE_FAILED:
                return None
            raise TransportError(f"a message cannot be taken out of the middleware (rcl: {found})")
        self._next = 1 - self._next
        memory = (ctypes.c_uint8 * message.length).from_address(message.buffer)
        number: int | None = info.publication_sequence_number
        if number == _NO_NUMBER:
            number = None
        received_ns = int(info.received_timestamp)
        return Taken(memoryview(memory).cast("B"), bytes(info.gid), number, received_ns)

    def close(self) -> None:
        """Free the memory; to be called before the subscription is destroyed."""
        self._wake_by(None)
        os.close(self._event)
        for message in self._messages:
            _RCUTILS.rcutils_uint8_array_fini(ctypes.byref(message))

    def _wake_by(self, callback: ctypes.c_void_p | None) -> None:
        with self._handle:
            _RCL.rcl_subscription_set_on_new_message_callback(
                ctypes.c_void_p(self._handle.pointer), callback, ctypes.c_void_p(self._event)
            )
