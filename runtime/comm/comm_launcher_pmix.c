// Text to the launcher through PMIx. MPI brings the library into the process: only its header is needed to build this.
#include <dlfcn.h>
#include <pmix.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/clock.h"
#include "runtime/comm/comm_launcher.h"

typedef int InitializedCall(void);
typedef pmix_status_t LogCall(const pmix_info_t data[], size_t count, const pmix_info_t directives[],
                              size_t directive_count, pmix_op_cbfunc_t done, void *context);

enum { ANSWERED = 1, ACCEPTED = 2, DIRECTIVES = 4 };

typedef struct {
    pmix_info_t text, directives[DIRECTIVES];
    atomic_int state; // 0: no answer yet; ANSWERED, or'ed with ACCEPTED
} Request;

static const double answer_s = 0.15, poll_s = 1e-3;

static void on_answer(pmix_status_t status, void *context)
{
    Request *request = context;
    bool accepted = status == PMIX_SUCCESS || status == PMIX_OPERATION_SUCCEEDED;
    atomic_store(&request->state, accepted ? ANSWERED | ACCEPTED : ANSWERED);
}

static void set_string(pmix_info_t *info, const char *key, char *value)
{
    snprintf(info->key, sizeof(info->key), "%s", key);
    info->value.type = PMIX_STRING;
    info->value.data.string = value;
}

static void set_true(pmix_info_t *info, const char *key)
{
    snprintf(info->key, sizeof(info->key), "%s", key);
    info->value.type = PMIX_BOOL;
    info->value.data.flag = true;
}

static Request *request_create(const char *text)
{
    static char key[] = "hep-run", value[] = "fault";
    Request *request = calloc(1, sizeof(*request));
    char *copy = request ? strdup(text) : NULL;
    if (!copy) {
        free(request);
        return NULL;
    }
    set_string(&request->text, PMIX_LOG_STDERR, copy);
    set_true(&request->directives[0], PMIX_LOG_ONCE); // otherwise both the server and its host print it
    // Of all processes the first is heard: those that are cut off from each other tell of one cause, too.
    set_true(&request->directives[1], PMIX_LOG_AGG);
    set_string(&request->directives[2], PMIX_LOG_KEY, key);
    set_string(&request->directives[3], PMIX_LOG_VAL, value);
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
    pmix_status_t status = log(&request->text, 1, request->directives, DIRECTIVES, on_answer, request);
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
