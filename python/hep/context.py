"""Communicators, contexts and routes: hep.h as objects, on memory given by address. hep.torch is what trainings use; this
is what it stands on, and for other frameworks.

Functions keep no memory alive: what they are given has to exist for as long as hep.h says.
"""
from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Optional

from . import _native
from .error import Error, Status, check
from .plan import DType, Plan, Traffic

_lib = _native.lib

BACKWARD = 1  #: flag of begin, gathered and used: the backward pass
WEIGHTS_SAME = 2  #: of begin: weights have not changed since they were gathered
NO_REGATHER = 4  #: of begin and used: nothing is dropped between forward and backward pass
EXPANDED = 8  #: of dispatch: a row for each of a row's experts, ordered by expert
DROP = 16  #: of dispatch: what exceeds the plan's capacity is dropped


@dataclass(frozen=True)
class Tensor:
    """Memory as libhep takes it: row-major, elements of a row adjacent; stride: distance of rows in elements, 0: cols;
    device: the GPU that it is of, -1: host memory."""

    address: int
    rows: int
    cols: int
    dtype: DType
    stride: int = 0
    device: int = -1

    def record(self) -> _native.TensorRecord:
        return _native.TensorRecord(self.address or None, self.rows, self.cols, self.stride, int(self.dtype), 0)


# ---- communicators -------------------------------------------------------------------------------------------


class Carrier:
    """What carries a communicator's bytes: subclasses send them by whatever the caller has. Addresses are memory of the
    library's, for the time of the call. A method that raises fails the communicator for good, on this rank; it has to
    raise TimeoutError by itself when a peer does not come within the time-out.
    """

    one_thread = False  #: True: called only from inside the caller's own calls; then nothing overlaps
    unchecked = False  #: True: members do not find out beforehand that they are not in the same call

    def open(self, channel: int, ranks: list[int], own: int) -> None:
        """All members open a channel, those of one set of ranks in one order. own: this rank's place in ranks."""
        raise NotImplementedError

    def exchange(self, channel: int, send: int, send_bytes: list[int], recv: int, recv_bytes: list[int]) -> None:
        """Sends every member its bytes, one member's after another's, and gets theirs. Blocks. Counts are 0 of itself."""
        raise NotImplementedError

    def all_gather(self, channel: int, own: int, all_: int, count: int) -> None:
        """Gives `count` bytes at `own` and gets those of all members at `all_`, in their order. Blocks."""
        raise NotImplementedError

    def abort(self, why: str) -> None:
        """This rank has failed: makes calls of others fail soon, if there is a way."""


class _Callbacks:
    """A carrier as functions for C. It is kept for as long as its communicator, and its contexts, may call."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.sizes: dict[int, int] = {}
        self.failure: Optional[BaseException] = None
        self.words: dict[int, Any] = {}  # by thread: those of the library are no Python threads, and have no locals
        self.record = _native.CarrierRecord(
            one_thread=carrier.one_thread, unchecked=carrier.unchecked, open=_native.OPEN(self._open),
            exchange=_native.EXCHANGE(self._exchange), all_gather=_native.ALL_GATHER(self._all_gather),
            abort=_native.ABORT(self._abort), why=_native.WHY(self._why))

    def _guard(self, function: Any, *arguments: Any) -> int:
        try:
            function(*arguments)
            return 0
        except BaseException as error:  # C cannot pass it on
            self.failure = self.failure or error
            text = "%s: %s" % (type(error).__name__, error)
            self.words[threading.get_ident()] = ctypes.create_string_buffer(text.split("\n")[0].encode()[:400])
            return int(Status.TIMEOUT if isinstance(error, TimeoutError) else Status.COMM)

    def _open(self, _user: Any, channel: int, ranks: Any, count: int, own: int) -> int:
        self.sizes[channel] = count
        return self._guard(self.carrier.open, channel, list(ranks[:count]), own)

    def _exchange(self, _user: Any, channel: int, send: Any, sent: Any, recv: Any, received: Any) -> int:
        count = self.sizes[channel]
        return self._guard(self.carrier.exchange, channel, send or 0, sent[:count], recv or 0, received[:count])

    def _all_gather(self, _user: Any, channel: int, own: Any, all_: Any, count: int) -> int:
        return self._guard(self.carrier.all_gather, channel, own or 0, all_ or 0, count)

    def _abort(self, _user: Any, why: Optional[bytes]) -> None:
        self._guard(self.carrier.abort, (why or b"").decode(errors="replace"))

    def _why(self, _user: Any) -> int:
        words = self.words.get(threading.get_ident())
        return ctypes.addressof(words) if words is not None else 0


def _options(timeout_s: float, device: int) -> _native.CommOptionsRecord:
    return _native.CommOptionsRecord(device=device, timeout_s=timeout_s)


class Communicator:
    """Ranks that contexts are created on. Create one by a class method; timeout_s: how long a collective waits for a
    rank that does not come, 0 for 300 s; device: of the GPU whose memory tensors are in, -1 for host memory."""

    def __init__(self, handle: int, callbacks: Optional[_Callbacks] = None, device: int = -1) -> None:
        self._handle, self._callbacks, self.device = handle, callbacks, device
        self._free = weakref.finalize(self, _lib.hep_comm_free, handle)
        self._free.atexit = False

    @classmethod
    def threads(cls, ranks: int, timeout_s: float = 0, device: int = -1) -> list["Communicator"]:
        """Of ranks that are threads of this process, all of them; with a device, they share that GPU."""
        handles = (ctypes.c_void_p * max(ranks, 1))()
        check(_lib.hep_comm_threads(ranks, _options(timeout_s, device), handles))
        return [cls(handle or 0, device=device) for handle in handles]

    @classmethod
    def nccl(cls, rank: int, ranks: int, id_: bytes, device: int, timeout_s: float = 0) -> "Communicator":
        """Over NCCL, of processes with a GPU each; id_: of nccl_id() in rank 0's process. Collective."""
        if len(id_) != 128:
            raise Error(Status.BAD_ARGUMENT, "an id of %d bytes, expected 128" % len(id_), rank)
        handle = ctypes.c_void_p()
        check(_lib.hep_comm_nccl(rank, ranks, (ctypes.c_uint8 * 128)(*id_), _options(timeout_s, device),
                                 ctypes.byref(handle)))
        assert handle.value is not None
        return cls(handle.value, device=device)

    @classmethod
    def mpi(cls, fortran_comm: int, timeout_s: float = 0, device: int = -1) -> "Communicator":
        """Over MPI, which was initialised with MPI_THREAD_MULTIPLE: mpi4py's comm.py2f(). Collective."""
        handle = ctypes.c_void_p()
        check(_lib.hep_comm_mpi(fortran_comm, _options(timeout_s, device), ctypes.byref(handle)))
        assert handle.value is not None
        return cls(handle.value)

    @classmethod
    def tcp(cls, timeout_s: float = 0, device: int = -1) -> "Communicator":
        """Over TCP, of the processes that torchrun, mpirun or srun started, one per process at a time. Collective."""
        handle = ctypes.c_void_p()
        check(_lib.hep_comm_tcp(_options(timeout_s, device), ctypes.byref(handle)))
        assert handle.value is not None
        return cls(handle.value)

    @classmethod
    def tcp_at(cls, rank: int, ranks: int, host: str, port: int, secret: bytes, timeout_s: float = 0,
               device: int = -1) -> "Communicator":
        """Over TCP, of processes that know each other: rank 0 listens at that port of the host. secret: 32 bytes, the same
        on all of them. Collective."""
        if len(secret) != 32:
            raise Error(Status.BAD_ARGUMENT, "a secret of %d bytes, expected 32" % len(secret), rank)
        handle = ctypes.c_void_p()
        check(_lib.hep_comm_tcp_at(rank, ranks, host.encode(), port, secret, _options(timeout_s, device),
                                   ctypes.byref(handle)))
        assert handle.value is not None
        return cls(handle.value)

    def close(self) -> None:
        """Frees it, for those who do not wait until nobody refers to it. Its contexts go on."""
        self._free()

    @classmethod
    def carried(cls, rank: int, ranks: int, carrier: Carrier, timeout_s: float = 0,
                device: int = -1) -> "Communicator":
        """Carried by the caller."""
        callbacks, handle = _Callbacks(carrier), ctypes.c_void_p()
        check(_lib.hep_comm_carrier(rank, ranks, callbacks.record, None, _options(timeout_s, device),
                                    ctypes.byref(handle)))
        assert handle.value is not None
        return cls(handle.value, callbacks)

    @property
    def failure(self) -> Optional[BaseException]:
        """What the carrier raised first."""
        return self._callbacks.failure if self._callbacks else None


def nccl_id() -> bytes:
    """What Communicator.nccl takes on all ranks, made by rank 0's process. It serves once."""
    made = (ctypes.c_uint8 * 128)()
    check(_lib.hep_nccl_id(made))
    return bytes(made)


def has_mpi() -> bool:
    """Whether this libhep was built with MPI."""
    return bool(_lib.hep_has_mpi())


# ---- contexts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Seconds of this rank since the last reset. late: waiting until the last peer had come."""

    exchange_late_s: float
    exchange_s: float
    gather_late_s: float
    gather_s: float
    waited_s: float


class Context:
    """A plan on a communicator. Collective: all ranks create it with the same plan. What its methods demand is said in
    hep.h, under the names with hep_ before them. Once a call has failed all others fail.

    stream: of a GPU, gives the stream of calls that are not given one: a cudaStream_t as a number."""

    def __init__(self, plan: Plan, comm: Communicator, max_tokens: int = 0,
                 stream: Optional[Callable[[], int]] = None) -> None:
        self.plan, self._comm, self._stream = plan, comm, stream
        self.device = comm.device  #: of tensors; -1: host memory
        self.failed = False  #: a call has failed, and so do all that follow
        handle = ctypes.c_void_p()
        self._handle: Any = None
        self._check(_lib.hep_create(plan._handle, comm._handle, _native.OptionsRecord(max_tokens=max_tokens),
                                    ctypes.byref(handle)))
        self._handle = handle.value
        self._destroy = weakref.finalize(self, _lib.hep_destroy, handle.value)
        self._destroy.atexit = False

    def _check(self, status: int) -> None:
        if status:
            try:
                check(status, self._handle)
            except Error as error:
                self.failed = True
                raise error from self._comm.failure

    def close(self) -> None:
        """Waits for transfers under way and frees it; the context is of no use afterwards. Not collective."""
        if self._handle:
            self._handle = None
            self._destroy()

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def abort(self, why: str) -> None:
        """Calls of all ranks fail. From any thread."""
        if self._handle:
            _lib.hep_abort(self._handle, why.encode())

    def _on(self, stream: int) -> Optional[int]:
        return stream or (self._stream() if self._stream else 0) or None

    def _record(self, tensor: Tensor) -> _native.TensorRecord:
        """Of a tensor that lies where the context's do: the library asks for that of GPUs alone."""
        if tensor.device != self.device:
            place = ["host memory" if of < 0 else "memory of GPU %d" % of for of in (tensor.device, self.device)]
            raise Error(Status.BAD_ARGUMENT, "a tensor in %s: this context moves %s" % (place[0], place[1]))
        return tensor.record()

    def _array(self, tensors: Optional[Sequence[Tensor]]) -> Any:
        if tensors is None:
            return None
        return (_native.TensorRecord * len(tensors))(*[self._record(tensor) for tensor in tensors])

    def _open_handle(self) -> Any:
        if not self._handle:
            raise Error(Status.BAD_CALL, "the context was closed")
        return self._handle

    @property
    def rank(self) -> int:
        return int(_lib.hep_rank(self._open_handle()))

    # ---- experts' weights

    def bind(self, layer: int, own: Sequence[Tensor], grads: Optional[Sequence[Tensor]],
             full: Sequence[Tensor]) -> None:
        self._check(_lib.hep_bind(self._open_handle(), layer, len(full), self._array(own), self._array(grads),
                                  self._array(full)))

    def begin(self, flags: int = 0, stream: int = 0) -> None:
        self._check(_lib.hep_begin(self._open_handle(), flags, self._on(stream)))

    def gathered(self, layer: int, flags: int = 0, stream: int = 0) -> None:
        self._check(_lib.hep_gathered(self._open_handle(), layer, flags, self._on(stream)))

    def used(self, layer: int, flags: int = 0, stream: int = 0) -> None:
        self._check(_lib.hep_used(self._open_handle(), layer, flags, self._on(stream)))

    def return_gradients(self, layer: int, full: Sequence[Tensor], scale: float = 1, stream: int = 0) -> None:
        """hep_return."""
        self._check(_lib.hep_return(self._open_handle(), layer, len(full), self._array(full), scale, self._on(stream)))

    def finish(self, stream: int = 0) -> None:
        self._check(_lib.hep_finish(self._open_handle(), self._on(stream)))

    # ---- dense weights

    def dense_share(self, elements: int) -> tuple[int, int]:
        """Elements of this rank's share of a bundle, and the first among the gathered ones."""
        share, first = ctypes.c_int64(), ctypes.c_int64()
        self._check(_lib.hep_dense_share(self._open_handle(), elements, ctypes.byref(share), ctypes.byref(first)))
        return share.value, first.value

    def dense_gather(self, share: Tensor, full: Tensor, stream: int = 0) -> None:
        self._check(_lib.hep_dense_gather(self._open_handle(), self._record(share), self._record(full),
                                          self._on(stream)))

    def dense_return(self, full: Tensor, share: Tensor, scale: float = 1, stream: int = 0) -> None:
        self._check(_lib.hep_dense_return(self._open_handle(), self._record(full), scale, self._record(share),
                                          self._on(stream)))

    def dense_bind(self, bundle: int, share: Tensor, grad: Optional[Tensor], full: Tensor) -> None:
        self._check(_lib.hep_dense_bind(self._open_handle(), bundle, self._record(share),
                                        self._record(grad) if grad else None, self._record(full)))

    def dense_begin(self, bundle: int, flags: int = 0, stream: int = 0) -> None:
        self._check(_lib.hep_dense_begin(self._open_handle(), bundle, flags, self._on(stream)))

    def dense_gathered(self, bundle: int, stream: int = 0) -> None:
        self._check(_lib.hep_dense_gathered(self._open_handle(), bundle, self._on(stream)))

    def dense_send(self, bundle: int, full_grad: Tensor, scale: float = 1, stream: int = 0) -> None:
        self._check(_lib.hep_dense_send(self._open_handle(), bundle, self._record(full_grad), scale, self._on(stream)))

    # ---- tokens

    def dispatch(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor, flags: int = 0,
                 stream: int = 0) -> "Route":
        route = ctypes.c_void_p()
        self._check(_lib.hep_dispatch(self._open_handle(), layer, self._record(x), self._record(experts),
                                      self._record(weights), flags, self._on(stream), ctypes.byref(route)))
        assert route.value is not None
        return Route(self, route.value)

    # ---- counters

    def count(self, reset: bool = False) -> tuple[list[Traffic], Times]:
        """Bytes that this rank sent since the last reset, per level, and where time went."""
        levels = (_native.TrafficRecord * len(self.plan.levels))()
        levels[0].struct_bytes = ctypes.sizeof(_native.TrafficRecord)
        times = _native.TimesRecord()
        self._check(_lib.hep_count(self._open_handle(), levels, times, int(reset)))
        return ([Traffic(*[getattr(level, of.name) for of in fields(Traffic)]) for level in levels],
                Times(*[getattr(times, of.name) for of in fields(Times)]))

    # ---- what codecs remember

    @property
    def state_bytes(self) -> int:
        size = ctypes.c_uint64()
        self._check(_lib.hep_state_bytes(self._open_handle(), ctypes.byref(size)))
        return size.value

    def save_state(self, address: int, size: int) -> None:
        self._check(_lib.hep_state_save(self._open_handle(), address or None, size, self._on(0)))

    def load_state(self, address: int, size: int) -> None:
        """0, 0: everything is forgotten."""
        self._check(_lib.hep_state_load(self._open_handle(), address or None, size, self._on(0)))


class Route:
    """Where the rows of one dispatch went; it lives until nobody refers to it."""

    def __init__(self, context: Context, handle: int) -> None:
        self._context, self._handle = context, handle
        self._free = weakref.finalize(self, _lib.hep_route_free, handle)
        self._free.atexit = False
        rows, records = ctypes.c_int64(), ctypes.c_int64()
        self._context._check(_lib.hep_route_rows(handle, ctypes.byref(rows), ctypes.byref(records), None))
        self.rows, self.records = rows.value, records.value  #: that arrive, and experts that each names

    def per_expert(self, gathered: int) -> list[int]:
        """How many rows name each held expert, of so many: after finish, or with EXPANDED."""
        counts = (ctypes.c_int64 * gathered)()
        self._context._check(_lib.hep_route_rows(self._handle, None, None, counts))
        return list(counts)

    def _call(self, name: str, tensors: Sequence[Tensor], stream: int) -> None:
        self._context._open_handle()
        context = self._context
        context._check(getattr(_lib, name)(self._handle, *[context._record(tensor) for tensor in tensors],
                                           context._on(stream)))

    def finish(self, x: Tensor, experts: Tensor, weights: Tensor, stream: int = 0) -> None:
        """hep_dispatch_finish."""
        self._call("hep_dispatch_finish", (x, experts, weights), stream)

    def combine(self, results: Tensor, out: Tensor, stream: int = 0) -> None:
        self._call("hep_combine", (results, out), stream)

    def combine_backward(self, dout: Tensor, dresults: Tensor, stream: int = 0) -> None:
        self._call("hep_combine_backward", (dout, dresults), stream)

    def dispatch_backward(self, dx: Tensor, dweights: Tensor, out_dx: Tensor, out_dweights: Tensor,
                          stream: int = 0) -> None:
        self._call("hep_dispatch_backward", (dx, dweights, out_dx, out_dweights), stream)
