"""The status codes with which calls of the relay's gRPC service end. Needs neither grpcio nor protobuf."""

from __future__ import annotations

from enum import IntEnum

SERVICE = "guestctl.relay.v1.ChatStream"
#: Characters of a message, and bytes of details: clients refuse trailers of more than 8 KiB.
LONGEST_MESSAGE, LONGEST_DETAILS = 500, 4096


class Status(IntEnum):
    """The status codes of gRPC that the service uses."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class CallEnded(Exception):
    """Ends a call with a status. `details` is the value of the trailer `grpc-status-details-bin`, None without one."""

    def __init__(self, status: Status, message: str = "", details: bytes | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message[:LONGEST_MESSAGE].encode("utf-8", "replace").decode()
        self.details = details


def after_last(kind: str) -> CallEnded:
    """Return how a stream ends after its last entry: `end` completes it, and `slow` cuts it."""
    if kind == "end":
        return CallEnded(Status.OK)
    return CallEnded(Status.RESOURCE_EXHAUSTED, "the reader fell behind: continue after the last id")


def bearer(value: str) -> str:
    """Return the key in the metadata `authorization`, empty without one."""
    scheme, _, key = value.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
