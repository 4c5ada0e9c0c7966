// Text to the launcher through PMIx. MPI brings the library into the process: only its header is needed to build this.
#include <dlfcn.h>
#include <pmix.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_launcher.h"

typedef int InitializedCall(void);
typedef pmix_status_t LogCall(const pmix_info_t data[], size_t count, const pmix_info_t directives[],
                              size_t directive_count, pmix_op_cbfunc_t done, void *context);

typedef struct {
    pmix_info_t text, once; // once: otherwise both the server and its host print it
    atomic_int state; // 0: no answer yet; ANSWERED, or'ed with ACCEPTED
} Request;

enum { ANSWERED = 1, ACCEPTED = 2 };

static const double answer_s = 0.15, poll_s = 1e-3;

static void on_answer(pmix_status_t status, void *context)
{
    Request *request = context;
    bool accepted = status == PMIX_SUCCESS || status == PMIX_OPERATION_SUCCEEDED;
    atomic_store(&request->state, accepted ? ANSWERED | ACCEPTED : ANSWERED);
}

static Request *request_create(const char *text)
{
    Request *request = calloc(1, sizeof(*request));
    char *copy = request ? strdup(text) : NULL;
    if (!copy) {
        free(request);
        return NULL;
    }
    memcpy(request->text.key, PMIX_LOG_STDERR, sizeof(PMIX_LOG_STDERR));
    request->text.value.type = PMIX_STRING;
    request->text.value.data.string = copy;
    memcpy(request->once.key, PMIX_LOG_ONCE, sizeof(PMIX_LOG_ONCE));
    request->once.value.type = PMIX_BOOL;
    request->once.value.data.flag = true;
    return request;
}

static void request_destroy(Request *request)
{
    free(request->text.value.data.string);
    free(request);
}

static bool send_text(LogCall *log, const char *text)
{
    Request *request = request_create(text);
    if (!request)
        return false;
    pmix_status_t status = log(&request->text, 1, &request->once, 1, on_answer, request);
    if (status != PMIX_SUCCESS) {
        request_destroy(request);
        return status == PMIX_OPERATION_SUCCEEDED;
    }
    for (double until_s = clock_now_s() + answer_s; atomic_load(&request->state) == 0 && clock_now_s() < until_s;)
        clock_sleep_until(clock_now_s() + poll_s);
    int state = atomic_load(&request->state);
    if (state & ANSWERED) // otherwise it is still the library's
        request_destroy(request);
    return state & ACCEPTED;
}

bool launcher_print(const char *text)
{
    struct stat standard_error;
    InitializedCall *initialized = (InitializedCall *)dlsym(RTLD_DEFAULT, "PMIx_Initialized");
    LogCall *log = (LogCall *)dlsym(RTLD_DEFAULT, "PMIx_Log_nb");
    bool is_pipe = fstat(2, &standard_error) == 0 && S_ISFIFO(standard_error.st_mode);
    return launcher_is_hasty() && is_pipe && initialized && log && initialized() && send_text(log, text);
}
