"""Errors of libhep as exceptions."""
from __future__ import annotations

import enum
from typing import Optional

from . import _native


class Status(enum.IntEnum):
    """What kind of failure it was; hep.h says when each comes."""

    OK = 0
    BAD_ARGUMENT = 1
    BAD_PLAN = 2
    BAD_CALL = 3
    UNSUPPORTED = 4
    NO_MEMORY = 5
    IO = 6
    COMM = 7
    TIMEOUT = 8
    ABORTED = 9
    INTERNAL = 10


class Error(Exception):
    """A call of libhep failed, or would have.

    status: the kind; rank: where it was found; step: of the plan; peer: the rank that was waited for, or that differs.
    Each of the last three is None where it is not known. message: one line.
    """

    def __init__(self, status: Status, message: str, rank: Optional[int] = None, step: Optional[int] = None,
                 peer: Optional[int] = None) -> None:
        super().__init__(status, message, rank, step, peer)
        self.status, self.message, self.rank, self.step, self.peer = status, message, rank, step, peer

    def __str__(self) -> str:
        where = "".join(", %s %d" % (name, value) for name, value in
                        (("rank", self.rank), ("step", self.step), ("peer", self.peer)) if value is not None)
        return "%s: %s%s" % (self.status.name.lower().replace("_", " "), self.message, where and " (%s)" % where[2:])


def last_error(context: Optional[int] = None) -> Error:
    """The first error of a context; without one, the last of this thread."""
    record = _native.ErrorRecord()
    _native.lib.hep_last_error(context, record)
    known = [value if value >= 0 else None for value in (record.rank, record.step, record.peer)]
    try:
        status = Status(record.status)
    except ValueError:
        status = Status.INTERNAL
    return Error(status, record.message.decode(errors="replace"), *known)


def check(status: int, context: Optional[int] = None) -> None:
    """Raises what a call reported, unless that was success."""
    if status == 0:
        return
    error = last_error(context)
    if error.status == Status.OK:  # the call says more than the record
        error = last_error()
    if error.status == Status.OK:
        error = Error(Status(status), _native.lib.hep_status_name(status).decode())
    raise error
