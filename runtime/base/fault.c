// Recording a run-time error: the first cause wins.
// Owns nothing; who prints it and what it ends are decided by the callers.
#include "runtime/base/fault.h"

#include <stdarg.h>
#include <stdio.h>

bool fault_set(Fault *fault, ExitCode code, const char *format, ...)
{
    if (fault->code != EXIT_DONE)
        return false;
    *fault = (Fault){.code = code, .rank = -1, .step = -1, .peer = -1};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault->message, sizeof(fault->message), format, arguments);
    va_end(arguments);
    return false;
}
