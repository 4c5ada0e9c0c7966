// Recording an error: the first cause wins.
// Owns nothing; who prints it and what it ends are decided by the callers.
#include "ir/base/fault.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool fault_set(Fault *fault, FaultKind kind, const char *format, ...)
{
    if (fault->kind != FAULT_NONE)
        return false;
    *fault = (Fault){.kind = kind, .rank = -1, .step = -1, .peer = -1};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->message, sizeof(fault->message), format, arguments);
    va_end(arguments);
    return false;
}

bool fault_reported(Fault *fault, FaultKind kind)
{
    return fault_set(fault, kind, "%s", "");
}

bool fault_prefix(Fault *fault, const char *format, ...)
{
    char context[sizeof(fault->message)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof(context) - strlen(": "), format, arguments);
    va_end(arguments);
    strcat(context, ": ");
    size_t length = strlen(context);
    memmove(fault->message + length, fault->message, sizeof(fault->message) - length);
    memcpy(fault->message, context, length);
    fault->message[sizeof(fault->message) - 1] = '\0';
    return false;
}

FaultKind fault_kind_of(int error)
{
    return error == ENOMEM ? FAULT_MEMORY : FAULT_IO;
}
