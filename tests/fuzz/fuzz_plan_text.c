// Fuzz target: any bytes as the text form of a plan. What is parsed is printed, and parsing that
// again prints the same; its binary form decodes.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/text.h"
#include "ir/binary.h"
#include "ir/text/plan_text.h"
#include "ir/verify/verify.h"

static Plan *parse(Arena *arena, const char *text, size_t length)
{
    Diag *diag = diag_create(arena);
    uint32_t source = diag_add_source(diag, "fuzz.ir", text, length, NULL);
    Plan *plan = plan_parse(text, length, source, diag);
    if ((plan == NULL) != (diag_error_count(diag) > 0))
        abort();
    return plan;
}

static void check(Arena *arena, const Plan *plan)
{
    static VerifyReport report;
    Text text = {0}, again = {0};
    plan_print(plan, &text);
    Plan *same = parse(arena, text.data, text.length);
    if (!same)
        abort();
    plan_print(same, &again);
    if (text.length != again.length || memcmp(text.data, again.data, text.length) != 0)
        abort();
    uint8_t *bytes;
    size_t length;
    Fault fault = {0};
    if (!plan_encode(same, &bytes, &length, &fault))
        abort();
    Plan *decoded = plan_decode(bytes, length, &fault);
    if (!decoded || plan_verify(decoded, &report) != (report.total == 0))
        abort();
    free(bytes);
    plan_destroy(decoded);
    plan_destroy(same);
    text_free(&text);
    text_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Arena *arena = arena_create();
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    Plan *plan = parse(arena, text, size);
    if (plan)
        check(arena, plan);
    plan_destroy(plan);
    free(text);
    arena_destroy(arena);
    return 0;
}
