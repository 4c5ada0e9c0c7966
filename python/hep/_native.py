"""libhep by ctypes: its structs, its functions, and where it is found. Nothing here is public.

Structs are those of hep.h, member by member; tests hold their sizes to the header's.
"""
from __future__ import annotations

import ctypes
import ctypes.util
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t,
                    c_uint8, c_uint32, c_uint64, c_void_p)
from typing import Any

ABI = 1
LEVELS_MAX = 8


class Record(Structure):
    """A struct of the caller's: it says how much of it the caller knows."""

    def __init__(self, **members: Any) -> None:
        super().__init__(**members)
        self.struct_bytes = ctypes.sizeof(self)


class ErrorRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("status", c_int32), ("rank", c_int64), ("step", c_int64),
                ("peer", c_int64), ("message", c_char * 504)]


class TensorRecord(Structure):
    _fields_ = [("data", c_void_p), ("rows", c_int64), ("cols", c_int64), ("stride", c_int64), ("dtype", c_int32),
                ("reserved", c_int32)]


class FactsRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("ranks", c_int32), ("levels", c_int32), ("layers", c_int32),
                ("moe_layers", c_int32), ("hidden", c_int32), ("inner", c_int32), ("experts", c_int32),
                ("top_k", c_int32), ("dtype", c_int32), ("training", c_int32), ("dispatch", c_int32),
                ("padded", c_int32), ("codec", c_int32), ("micro_batches", c_int32), ("recompute", c_int32),
                ("groups", c_int32), ("replica_levels", c_int32), ("prefetch_slots", c_int32), ("reserved", c_int32),
                ("tokens", c_int64), ("expert_elements", c_int64), ("iteration_s", c_double),
                ("memory_bytes", c_double), ("codec_ratio", c_double), ("gradient_ratio", c_double),
                ("gradient", c_int32), ("dense_codec", c_int32), ("dense_gradient", c_int32),
                ("row_formats", c_int32 * 4), ("whole_iterations", c_int32), ("capacity", c_double)]


class LevelRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("count", c_int32), ("bandwidth_bytes_per_s", c_double),
                ("latency_s", c_double), ("name", c_char_p)]


class LayerRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("model_layer", c_int32), ("domain", c_int32 * LEVELS_MAX),
                ("own", c_int32), ("gathered", c_int32), ("hops", c_int32), ("gathers", c_int32),
                ("regather", c_int32), ("once", c_int32), ("reserved", c_int32), ("own_elements", c_int64),
                ("gather_s", c_double), ("exchange_s", c_double), ("return_s", c_double)]


class GroupRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("kind", c_int32), ("level", c_int32), ("domain", c_int32),
                ("count", c_int32), ("size", c_int32), ("uses", c_int32), ("reserved", c_int32)]


class TrafficRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("reserved", c_uint32), ("exchange", c_double), ("routing", c_double),
                ("padding", c_double), ("gather", c_double), ("reduce", c_double), ("dense_gather", c_double),
                ("dense_reduce", c_double)]


class CommOptionsRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("device", c_int32), ("timeout_s", c_double)]


class OptionsRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("reserved", c_uint32), ("max_tokens", c_int64)]


class TimesRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("reserved", c_uint32), ("exchange_late_s", c_double),
                ("exchange_s", c_double), ("gather_late_s", c_double), ("gather_s", c_double), ("waited_s", c_double)]


OPEN = CFUNCTYPE(c_int, c_void_p, c_int, POINTER(c_int32), c_int, c_int)
EXCHANGE = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p, POINTER(c_int64), c_void_p, POINTER(c_int64))
ALL_GATHER = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p, c_void_p, c_int64)
ABORT = CFUNCTYPE(None, c_void_p, c_char_p)
WHY = CFUNCTYPE(c_void_p, c_void_p)


class CarrierRecord(Record):
    _fields_ = [("struct_bytes", c_uint32), ("one_thread", c_int32), ("unchecked", c_int32), ("reserved", c_int32),
                ("open", OPEN), ("exchange", EXCHANGE), ("all_gather", ALL_GATHER), ("abort", ABORT), ("why", WHY)]


RECORDS = {"hep_carrier": CarrierRecord, "hep_comm_options": CommOptionsRecord, "hep_error": ErrorRecord,
           "hep_facts": FactsRecord, "hep_group": GroupRecord, "hep_layer": LayerRecord, "hep_level": LevelRecord,
           "hep_options": OptionsRecord, "hep_tensor": TensorRecord, "hep_times": TimesRecord,
           "hep_traffic": TrafficRecord}

_HANDLE = c_void_p
_TENSOR = POINTER(TensorRecord)

# What each function takes; those not listed in _RETURNS return a hep_status.
PROTOTYPES: dict[str, list[Any]] = {
    "hep_abi": [],
    "hep_version": [],
    "hep_status_name": [c_int],
    "hep_last_error": [_HANDLE, POINTER(ErrorRecord)],
    "hep_plan_read": [c_char_p, POINTER(_HANDLE)],
    "hep_plan_parse": [c_char_p, c_size_t, POINTER(_HANDLE)],
    "hep_plan_free": [_HANDLE],
    "hep_plan_digest": [_HANDLE],
    "hep_plan_facts": [_HANDLE, POINTER(FactsRecord)],
    "hep_plan_level": [_HANDLE, c_int, POINTER(LevelRecord)],
    "hep_plan_layer": [_HANDLE, c_int, POINTER(LayerRecord)],
    "hep_plan_held": [_HANDLE, c_int, c_int, POINTER(c_int), POINTER(c_int)],
    "hep_plan_owned": [_HANDLE, c_int, c_int, POINTER(c_int64), POINTER(c_int64)],
    "hep_plan_owner": [_HANDLE, c_int, c_int],
    "hep_plan_rows_bound": [_HANDLE, c_int, c_int64],
    "hep_plan_group": [_HANDLE, c_int, POINTER(GroupRecord)],
    "hep_plan_group_ranks": [_HANDLE, c_int, c_int, POINTER(c_int32)],
    "hep_plan_traffic": [_HANDLE, c_int, POINTER(TrafficRecord)],
    "hep_comm_threads": [c_int, POINTER(CommOptionsRecord), POINTER(_HANDLE)],
    "hep_comm_mpi": [c_int, POINTER(CommOptionsRecord), POINTER(_HANDLE)],
    "hep_has_mpi": [],
    "hep_comm_tcp": [POINTER(CommOptionsRecord), POINTER(_HANDLE)],
    "hep_comm_tcp_at": [c_int, c_int, c_char_p, c_int, c_char_p, POINTER(CommOptionsRecord), POINTER(_HANDLE)],
    "hep_comm_carrier": [c_int, c_int, POINTER(CarrierRecord), c_void_p, POINTER(CommOptionsRecord),
                         POINTER(_HANDLE)],
    "hep_nccl_id": [POINTER(c_uint8)],
    "hep_comm_nccl": [c_int, c_int, POINTER(c_uint8), POINTER(CommOptionsRecord), POINTER(_HANDLE)],
    "hep_comm_nccl_env": [POINTER(CommOptionsRecord), POINTER(_HANDLE)],
    "hep_comm_free": [_HANDLE],
    "hep_create": [_HANDLE, _HANDLE, POINTER(OptionsRecord), POINTER(_HANDLE)],
    "hep_abort": [_HANDLE, c_char_p],
    "hep_destroy": [_HANDLE],
    "hep_rank": [_HANDLE],
    "hep_bind": [_HANDLE, c_int, c_int, _TENSOR, _TENSOR, _TENSOR],
    "hep_begin": [_HANDLE, c_int, c_void_p],
    "hep_gathered": [_HANDLE, c_int, c_int, c_void_p],
    "hep_used": [_HANDLE, c_int, c_int, c_void_p],
    "hep_return": [_HANDLE, c_int, c_int, _TENSOR, c_double, c_void_p],
    "hep_finish": [_HANDLE, c_void_p],
    "hep_dense_share": [_HANDLE, c_int64, POINTER(c_int64), POINTER(c_int64)],
    "hep_dense_gather": [_HANDLE, _TENSOR, _TENSOR, c_void_p],
    "hep_dense_return": [_HANDLE, _TENSOR, c_double, _TENSOR, c_void_p],
    "hep_dense_bind": [_HANDLE, c_int, _TENSOR, _TENSOR, _TENSOR],
    "hep_dense_begin": [_HANDLE, c_int, c_int, c_void_p],
    "hep_dense_gathered": [_HANDLE, c_int, c_void_p],
    "hep_dense_send": [_HANDLE, c_int, _TENSOR, c_double, c_void_p],
    "hep_dispatch": [_HANDLE, c_int, _TENSOR, _TENSOR, _TENSOR, c_int, c_void_p, POINTER(_HANDLE)],
    "hep_route_rows": [_HANDLE, POINTER(c_int64), POINTER(c_int64), POINTER(c_int64)],
    "hep_dispatch_finish": [_HANDLE, _TENSOR, _TENSOR, _TENSOR, c_void_p],
    "hep_combine": [_HANDLE, _TENSOR, _TENSOR, c_void_p],
    "hep_combine_backward": [_HANDLE, _TENSOR, _TENSOR, c_void_p],
    "hep_dispatch_backward": [_HANDLE, _TENSOR, _TENSOR, _TENSOR, _TENSOR, c_void_p],
    "hep_route_keep": [_HANDLE],
    "hep_route_free": [_HANDLE],
    "hep_count": [_HANDLE, POINTER(TrafficRecord), POINTER(TimesRecord), c_int],
    "hep_state_bytes": [_HANDLE, POINTER(c_uint64)],
    "hep_state_save": [_HANDLE, c_void_p, c_uint64, c_void_p],
    "hep_state_load": [_HANDLE, c_void_p, c_uint64, c_void_p],
}

_RETURNS: dict[str, Any] = {
    "hep_version": c_char_p, "hep_status_name": c_char_p, "hep_last_error": None, "hep_plan_free": None,
    "hep_plan_digest": c_uint64, "hep_plan_rows_bound": c_int64, "hep_comm_free": None, "hep_abort": None,
    "hep_destroy": None, "hep_route_keep": None, "hep_route_free": None,
}


def _candidates() -> list[str]:
    given = os.environ.get("HEP_LIBRARY")
    if given:
        return [given]
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "libhep.so.0")
    return [beside, "libhep.so.0"] if os.path.exists(beside) else ["libhep.so.0"]


def _load() -> ctypes.CDLL:
    """CDLL, which lets other Python threads run during a call: carriers are called on threads of the library."""
    reasons = []
    for path in _candidates():
        try:
            found = ctypes.CDLL(path)
            break
        except OSError as error:
            reasons.append(str(error))
    else:
        raise ImportError("libhep cannot be loaded: %s; install the package libhep0, or let HEP_LIBRARY name the file"
                          % "; ".join(reasons))
    try:
        for name, arguments in PROTOTYPES.items():
            function = getattr(found, name)
            function.argtypes = arguments
            function.restype = _RETURNS.get(name, c_int)
    except AttributeError as error:
        raise ImportError("%s is no libhep of this version: %s" % (found._name, error)) from None
    if found.hep_abi() != ABI:
        raise ImportError("%s has ABI %d, this package is for %d" % (found._name, found.hep_abi(), ABI))
    return found


lib = _load()
