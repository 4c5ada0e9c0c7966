// How faults become statuses and error records, and structs go to and from callers.
#include <stdio.h>

#include "runtime/library/library.h"

static _Thread_local Fault last; // of functions without a context

int hep_abi(void)
{
    return HEP_ABI;
}

const char *hep_version(void)
{
    return HEP_VERSION;
}

const char *hep_status_name(hep_status status)
{
    static const char *const names[] = {
        [HEP_OK] = "ok",
        [HEP_BAD_ARGUMENT] = "bad argument",
        [HEP_BAD_PLAN] = "bad plan",
        [HEP_BAD_CALL] = "call out of order",
        [HEP_UNSUPPORTED] = "not supported",
        [HEP_NO_MEMORY] = "out of memory",
        [HEP_IO] = "file cannot be read",
        [HEP_COMM] = "communication failed",
        [HEP_TIMEOUT] = "timed out",
        [HEP_ABORTED] = "aborted",
        [HEP_INTERNAL] = "internal error",
    };
    return (size_t)status < COUNT_OF(names) ? names[status] : "unknown status";
}

hep_status library_status(const Fault *fault)
{
    switch (fault->kind) {
    case FAULT_NONE:
        return HEP_OK;
    case FAULT_USAGE:
        return HEP_BAD_ARGUMENT;
    case FAULT_INPUT:
        return HEP_BAD_PLAN;
    case FAULT_MISMATCH:
        return HEP_BAD_CALL;
    case FAULT_INFEASIBLE:
        return HEP_UNSUPPORTED;
    case FAULT_RUN:
        return fault->late ? HEP_TIMEOUT : HEP_COMM;
    case FAULT_IO:
        return HEP_IO;
    case FAULT_MEMORY:
        return HEP_NO_MEMORY;
    case FAULT_INTERRUPTED:
        return HEP_ABORTED;
    case FAULT_INTERNAL:
    case FAULT_KIND_COUNT:
        break;
    }
    return HEP_INTERNAL;
}

void library_describe(const Fault *fault, hep_error *error)
{
    bool failed = fault->kind != FAULT_NONE;
    *error = (hep_error){.struct_bytes = sizeof(*error),
                         .status = (int32_t)library_status(fault),
                         .rank = failed ? fault->rank : -1,
                         .step = failed ? fault->step : -1,
                         .peer = failed ? fault->peer : -1};
    if (failed)
        snprintf(error->message, sizeof(error->message), "%s", fault->message);
}

hep_status library_end(const Fault *fault)
{
    if (fault->kind != FAULT_NONE)
        last = *fault;
    return library_status(fault);
}

const Fault *library_last(void)
{
    return &last;
}

enum { STRUCT_LEAST = 8 }; // what every version of a struct has

static bool check_struct(const void *caller, Fault *fault)
{
    uint32_t bytes = 0;
    if (caller)
        memcpy(&bytes, caller, sizeof(bytes));
    return bytes >= STRUCT_LEAST ||
           fault_set(fault, FAULT_USAGE, "%s", caller ? "'struct_bytes' is not set" : "a struct is NULL");
}

bool library_give(void *out, const void *filled, size_t bytes, Fault *fault)
{
    if (!check_struct(out, fault))
        return false;
    uint32_t known;
    memcpy(&known, out, sizeof(known));
    size_t copied = known < bytes ? known : bytes;
    memcpy((char *)out + sizeof(known), (const char *)filled + sizeof(known), copied - sizeof(known));
    return true;
}

bool library_take(void *options, const void *from, size_t bytes, Fault *fault)
{
    memset(options, 0, bytes);
    if (!from)
        return true;
    if (!check_struct(from, fault))
        return false;
    uint32_t known;
    memcpy(&known, from, sizeof(known));
    memcpy(options, from, known < bytes ? known : bytes);
    return true;
}
