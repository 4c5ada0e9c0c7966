// Text and binary form of a plan: round trips, and what damaged or wrong input is answered with.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <zlib.h>

#include "ir/binary.h"
#include "ir/schema.h"
#include "ir/text/plan_text.h"
#include "plans.h"

typedef struct {
    Arena *arena;
    Diag *diag;
    Plan *plan;
} Parsed;

static Parsed parse(const char *text)
{
    Parsed parsed = {.arena = arena_create()};
    parsed.diag = diag_create(parsed.arena);
    uint32_t source = diag_add_source(parsed.diag, "plan.ir", text, strlen(text), NULL);
    parsed.plan = plan_parse(text, strlen(text), source, parsed.diag);
    return parsed;
}

static void parsed_free(Parsed *parsed)
{
    plan_destroy(parsed->plan);
    arena_destroy(parsed->arena);
}

static char *diagnostics(const Parsed *parsed)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    diag_print(parsed->diag, out, false);
    fclose(out);
    return text;
}

static Text printed(const Plan *plan)
{
    Text text = {0};
    plan_print(plan, &text);
    return text;
}

typedef struct {
    uint8_t *bytes;
    size_t length;
} Encoded;

static Encoded encoded(const Plan *plan)
{
    Encoded out;
    Fault fault = {0};
    cr_assert(plan_encode(plan, &out.bytes, &out.length, &fault), "%s", fault.message);
    return out;
}

// Values that are easy to get wrong in one of the forms.
static Plan *awkward_plan(void)
{
    Plan *plan = plan_of_placed_ranks();
    plan->cluster.name = "two \"sites\" \\ caf\xc3\xa9";
    plan->model.name = "9 layers";
    plan->solver = "";
    plan->dense.gradient_ratio = 0; // which the text form assumes to be 1 where it is missing
    plan->gap = 0.1 + 0.2;
    plan->iteration_s = 5e-324;
    plan->cluster.levels[0].latency_s = 1.7976931348623157e308;
    plan->steps[0].cost_s = -0.0;
    plan->groups[plan->group_count++] = (Group){GROUP_WORLD, NONE, 1};
    plan->buffers[3].layer = 0;
    plan->choices[0].regather = true;
    plan->choices[0].domain[5] = 7; // beyond the levels: no part of the plan
    return plan;
}

Test(text, printing_what_was_parsed_changes_nothing)
{
    Plan *plan = awkward_plan();
    Text text = printed(plan);
    Parsed parsed = parse(text.data);
    cr_assert_not_null(parsed.plan, "%s", diagnostics(&parsed));
    Text again = printed(parsed.plan);
    cr_assert_eq(strcmp(again.data, text.data), 0);
    Encoded first = encoded(plan), second = encoded(parsed.plan);
    cr_assert(first.length == second.length && memcmp(first.bytes, second.bytes, first.length) == 0);
    cr_assert_eq(parsed.plan->gap, plan->gap);
    cr_assert_eq(parsed.plan->iteration_s, plan->iteration_s);
    cr_assert_str_eq(parsed.plan->cluster.name, plan->cluster.name);
    free(first.bytes);
    free(second.bytes);
    text_free(&text);
    text_free(&again);
    parsed_free(&parsed);
    plan_destroy(plan);
}

Test(text, layout_and_comments_are_free)
{
    Plan *plan = plan_of_four_ranks();
    plan->cluster.name = "four"; // no space: spaces outside names are what is doubled
    plan->solver = "hand";
    Text text = printed(plan), joined = {0};
    bool comment = false;
    for (const char *c = text.data; *c; c++) { // more space, and comments that look like records
        comment = (comment || *c == '#') && *c != '\n';
        if (!comment)
            text_append_bytes(&joined, *c == ' ' ? "  " : c, *c == ' ' ? 2 : 1);
        else if (*c == '#')
            text_append(&joined, "# step buffer \"");
    }
    Parsed parsed = parse(joined.data);
    cr_assert_not_null(parsed.plan, "%s", diagnostics(&parsed));
    Text again = printed(parsed.plan);
    cr_assert_eq(strcmp(again.data, text.data), 0);
    text_free(&text);
    text_free(&joined);
    text_free(&again);
    parsed_free(&parsed);
    plan_destroy(plan);
}

// Replaces the first `old` of a good plan's text by `new`; every message expected must be reported.
static void expect_errors(const char *old, const char *new, size_t errors, const char *message)
{
    Plan *plan = plan_of_four_ranks();
    Text text = printed(plan), broken = {0};
    const char *at = strstr(text.data, old);
    cr_assert_not_null(at, "'%s' is not in the text", old);
    text_append_bytes(&broken, text.data, (size_t)(at - text.data));
    text_append(&broken, new);
    text_append(&broken, at + strlen(old));
    Parsed parsed = parse(broken.data);
    cr_assert_null(parsed.plan);
    char *report = diagnostics(&parsed);
    cr_assert_not_null(strstr(report, message), "expected '%s', got:\n%s", message, report);
    cr_assert_eq(diag_error_count(parsed.diag), errors, "expected %zu errors, got:\n%s", errors, report);
    free(report);
    text_free(&text);
    text_free(&broken);
    parsed_free(&parsed);
    plan_destroy(plan);
}

Test(text, errors_say_what_is_wrong)
{
    expect_errors("hep_plan 4", "hep_plan 5", 1, "written by a newer version: format 5");
    expect_errors("hep_plan 4", "hep_plan 3", 1, "written by an older version: format 3");
    expect_errors("hep_plan 4", "plan 1", 1, "not a plan: expected 'hep_plan 4'");
    expect_errors("count 2", "count two", 1, "expected a whole number for 'count'");
    expect_errors("count 2", "count 99999999999", 1, "expected a whole number for 'count'");
    expect_errors("count 2", "cuont 2", 1, "did you mean 'count'?");
    expect_errors("bandwidth 125000000", "bandwidth nan", 1, "expected a number for 'bandwidth'");
    expect_errors("bandwidth 125000000", "bandwidth -1", 1, "expected a number for 'bandwidth'");
    expect_errors("bandwidth 125000000", "", 1, "this 'level' misses 'bandwidth'");
    expect_errors("dtype f32", "dtype f23", 1, "did you mean 'f32'?");
    expect_errors("step s1 ", "step s9 ", 1, "expected 's1'");
    expect_errors("shard=experts", "shard=expert", 1, "no buffer is named 'expert'");
    expect_errors("shard=experts", "shrad=experts", 1, "op 'gather' has no operand 'shrad'");
    expect_errors("shard=experts", "shard=experts shard=experts", 1, "operand 'shard' is given twice");
    expect_errors("after s1 s5", "after", 1, "expected steps, such as 's3', after 'after'");
    expect_errors("after s1 s5", "after s1 s99", 1, "waits for step 99, and there are 11");
    expect_errors("level gpu", "level gbu", 4, "no level is named 'gpu'");
    expect_errors("group g0 gather", "group g0 gatehr", 1, "did you mean 'gather'?");
    expect_errors("buffer dense", "buffer experts", 3, "a second buffer is named 'experts'");
    expect_errors("\"two by two\"", "\"two by two", 1, "this string has no closing quote");
    expect_errors("step s0", "$ step s0", 1, "unexpected character");
    expect_errors("traffic gpu", "traffic dc", 1, "expected the traffic of level 'gpu'");
    expect_errors("device ", "devices ", 2, "the plan misses its 'device' record");
    expect_errors("pass forward", "pass training", 1, "the plan misses its 'training' record");
    expect_errors("  choice", "training learning_rate 1\n  choice", 1, "has no 'training' record");
    expect_errors("domain 1 2", "domain 1 0", 1, "the domain size of level 1 is 0");
}

Test(text, several_errors_are_reported)
{
    const char *text =
        "hep_plan 4\ncluster c\n level a count x\ndevice compute 1 memory 1 memory_bandwidth 1 half_rate_rows q\n"
        "nonsense here\nplan passs forward\n";
    Parsed parsed = parse(text);
    cr_assert_null(parsed.plan);
    cr_assert_eq(diag_error_count(parsed.diag), 4, "%s", diagnostics(&parsed));
    parsed_free(&parsed);
}

Test(text, empty_and_binary_input)
{
    Parsed empty = parse("");
    cr_assert_null(empty.plan);
    cr_assert_eq(diag_error_count(empty.diag), 1);
    parsed_free(&empty);
    Parsed garbage = parse("\x89HEP\r\n\x1a\n\x01\xff");
    cr_assert_null(garbage.plan);
    parsed_free(&garbage);
}

// ---- binary ------------------------------------------------------------------------------------

Test(binary, decoding_and_encoding_changes_nothing)
{
    Plan *plan = awkward_plan();
    Encoded first = encoded(plan);
    Fault fault = {0};
    Plan *decoded = plan_decode(first.bytes, first.length, &fault);
    cr_assert_not_null(decoded, "%s", fault.message);
    Encoded second = encoded(decoded);
    cr_assert(first.length == second.length && memcmp(first.bytes, second.bytes, first.length) == 0);
    Text text = printed(plan), again = printed(decoded);
    cr_assert_eq(strcmp(text.data, again.data), 0);
    cr_assert(plan_is_binary(first.bytes, first.length) && !plan_is_binary((const uint8_t *)"hep_plan 4", 10));
    free(first.bytes);
    free(second.bytes);
    text_free(&text);
    text_free(&again);
    plan_destroy(decoded);
    plan_destroy(plan);
}

static void expect_refusal(const uint8_t *bytes, size_t length, const char *message)
{
    Fault fault = {0};
    cr_assert_null(plan_decode(bytes, length, &fault));
    cr_assert_not_null(strstr(fault.message, message), "expected '%s', got '%s'", message, fault.message);
    cr_assert_eq(fault.kind, FAULT_INPUT);
}

Test(binary, every_truncation_is_refused)
{
    Plan *plan = plan_of_placed_ranks();
    Encoded file = encoded(plan);
    for (size_t length = 0; length < file.length; length++) {
        uint8_t *exact = malloc(length ? length : 1); // so that the sanitizer sees a read beyond the end
        memcpy(exact, file.bytes, length);
        Fault fault = {0};
        cr_assert_null(plan_decode(exact, length, &fault), "%zu bytes", length);
        cr_assert_neq(fault.message[0], '\0');
        free(exact);
    }
    expect_refusal(file.bytes, file.length - 1, "cut off");
    free(file.bytes);
    plan_destroy(plan);
}

Test(binary, every_flipped_bit_is_refused)
{
    Plan *plan = plan_of_placed_ranks();
    Encoded file = encoded(plan);
    for (size_t bit = 0; bit < 8 * file.length; bit++) {
        file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_null(plan_decode(file.bytes, file.length, &(Fault){0}), "bit %zu", bit);
        file.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(file.bytes);
    plan_destroy(plan);
}

static void put_checksum(Encoded *file)
{
    memset(file->bytes + 24, 0, 4);
    uint32_t crc = (uint32_t)crc32(0, file->bytes, (uInt)file->length);
    for (int i = 0; i < 4; i++)
        file->bytes[24 + i] = (uint8_t)(crc >> 8 * i);
}

// Someone who also mends the checksum gets a refusal or a plan that can be walked, never a crash;
// and what is accepted is encoded to the very same bytes.
Test(binary, damage_behind_a_good_checksum)
{
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    Plan *plan = plan_of_placed_ranks();
    Encoded file = encoded(plan);
    unsigned accepted = 0;
    for (size_t at = 32; at < file.length; at++) {
        uint8_t original = file.bytes[at];
        for (size_t v = 0; v < COUNT_OF(values); v++) {
            file.bytes[at] = values[v];
            put_checksum(&file);
            Plan *decoded = plan_decode(file.bytes, file.length, &(Fault){0});
            if (decoded) {
                Encoded again = encoded(decoded);
                cr_assert(again.length == file.length && memcmp(again.bytes, file.bytes, file.length) == 0, "byte %zu",
                          at);
                free(again.bytes);
                accepted++;
            }
            plan_destroy(decoded);
        }
        file.bytes[at] = original;
    }
    cr_assert_gt(accepted, 100, "costs and sizes may change");
    free(file.bytes);
    plan_destroy(plan);
}

Test(binary, messages)
{
    Plan *plan = plan_of_four_ranks();
    Encoded file = encoded(plan);
    expect_refusal((const uint8_t *)"", 0, "not a plan");
    expect_refusal((const uint8_t *)"hello, world", 12, "not a plan");
    file.bytes[8]++;
    expect_refusal(file.bytes, file.length, "written by a newer version: format");
    file.bytes[8]--;
    memmove(file.bytes + 4, file.bytes + 5, file.length - 5); // \r\n became \n
    expect_refusal(file.bytes, file.length - 1, "text mode");
    free(file.bytes);
    file = encoded(plan);
    file.bytes[file.length - 1] ^= 1;
    expect_refusal(file.bytes, file.length, "checksum");
    file.bytes[file.length - 1] ^= 1;
    file.bytes = realloc(file.bytes, file.length + 1);
    file.bytes[file.length] = 0;
    expect_refusal(file.bytes, file.length + 1, "1 bytes follow");
    free(file.bytes);
    plan_destroy(plan);
}

Test(binary, a_plan_beyond_the_limits_is_not_written)
{
    uint8_t *bytes;
    size_t length;
    Fault fault = {0};
    Plan *plan = plan_of_four_ranks();
    plan->steps[3].cost_s = NAN;
    cr_assert(!plan_encode(plan, &bytes, &length, &fault));
    cr_assert_eq(fault.kind, FAULT_INPUT);
    cr_assert_eq(fault.step, 3);
    cr_assert_str_eq(fault.message, "step 3 ('gate'): 'cost_s' is nan: expected a finite number that is not negative");
    plan_destroy(plan);
}

// ---- limits ------------------------------------------------------------------------------------

static void expect_problem(Plan *plan, RecordKind record, const char *message)
{
    RecordPlace place;
    Fault fault = {0};
    cr_assert(!plan_within_limits(plan, &place, &fault), "expected '%s'", message);
    cr_assert_eq(place.kind, record);
    cr_assert_eq(fault.step, record == RECORD_STEP ? (int64_t)place.index : -1);
    cr_assert_not_null(strstr(fault.message, message), "expected '%s', got '%s'", message, fault.message);
    plan_destroy(plan);
}

#define EXPECT_PROBLEM(statement, kind, expected)                                                                      \
    do {                                                                                                               \
        Plan *plan = plan_of_placed_ranks();                                                                           \
        Fault none = {0};                                                                                              \
        cr_assert(plan_within_limits(plan, NULL, &none), "%s", none.message);                                          \
        statement;                                                                                                     \
        expect_problem(plan, kind, expected);                                                                          \
    } while (0)

Test(limits, each_is_checked)
{
    EXPECT_PROBLEM(plan->cluster.level_count = 0, RECORD_PLAN, "0 'level' records: expected 1 to 8");
    EXPECT_PROBLEM(plan->cluster.level_count = 9, RECORD_PLAN, "9 'level' records: expected 1 to 8");
    EXPECT_PROBLEM(plan->choice_count = 2, RECORD_PLAN, "2 'choice' records");
    EXPECT_PROBLEM(plan->cluster.levels[0].count = 0, RECORD_LEVEL, "'count' is 0");
    EXPECT_PROBLEM(plan->cluster.levels[0].count = UINT32_MAX, RECORD_CLUSTER, "more than 2147483648 GPUs");
    EXPECT_PROBLEM(plan->cluster.levels[1].name = "dc", RECORD_LEVEL, "two levels have this name");
    EXPECT_PROBLEM(plan->cluster.levels[1].bandwidth_bytes_per_s = 0, RECORD_LEVEL, "'bandwidth' is 0");
    EXPECT_PROBLEM(plan->cluster.port_count = 1, RECORD_PORT, "1 ports: expected one for each of the 2 workers");
    EXPECT_PROBLEM(plan->cluster.ports[1].worker = 2, RECORD_PORT, "'worker' is 2: expected each of 0 to 1 once");
    EXPECT_PROBLEM(plan->cluster.ports[1].worker = 1, RECORD_PORT, "'worker' is 1: expected each of 0 to 1 once");
    EXPECT_PROBLEM(plan->cluster.ports[1].name = "oslo", RECORD_PORT, "two ports have this name");
    EXPECT_PROBLEM(plan->cluster.ports[0].bandwidth_bytes_per_s = 0, RECORD_PORT, "'bandwidth' is 0");
    EXPECT_PROBLEM(plan->cluster.port_count = 0, RECORD_LINK, "expected two positions of the 0 ports");
    EXPECT_PROBLEM(plan->cluster.links[0].a = 1, RECORD_LINK, "from 1 to 1: expected two positions");
    EXPECT_PROBLEM(plan->cluster.links[0].b = 2, RECORD_LINK, "from 0 to 2: expected two positions");
    EXPECT_PROBLEM(plan->cluster.links[0].bandwidth_bytes_per_s = 0, RECORD_LINK, "'bandwidth' is 0");
    EXPECT_PROBLEM(plan->cluster.name = "a\nb", RECORD_CLUSTER, "control character");
    EXPECT_PROBLEM(plan->cluster.name = NULL, RECORD_CLUSTER, "'name' is empty");
    EXPECT_PROBLEM(plan->cluster.device.memory_bytes = INFINITY, RECORD_DEVICE, "'memory' is inf");
    EXPECT_PROBLEM(plan->model.layers = 0, RECORD_PLAN, "'choice' records");
    EXPECT_PROBLEM(plan->model.layers = 1 << 20, RECORD_MODEL, "'layers' is 1048576");
    EXPECT_PROBLEM(plan->model.hidden = plan->model.inner = UINT32_MAX, RECORD_MODEL, "more than 2^53 elements");
    EXPECT_PROBLEM(plan->model.experts = 0, RECORD_MODEL, "'top_k' is");
    EXPECT_PROBLEM(plan->model.top_k = 5, RECORD_MODEL, "'top_k' is 5 of 4 experts");
    EXPECT_PROBLEM(plan->model.dtype = (Dtype)9, RECORD_MODEL, "unknown code 9 for 'dtype'");
    EXPECT_PROBLEM(plan->replica_levels = 3, RECORD_PLAN, "'replica_levels' is 3");
    EXPECT_PROBLEM(plan->groups[0].level = 2, RECORD_GROUP, "'level' is 2, and there are 2");
    EXPECT_PROBLEM(plan->groups[0].domain = 0, RECORD_GROUP, "'domain' is 0");
    EXPECT_PROBLEM(plan->groups[0].level = NONE, RECORD_GROUP, "'world' group has no level");
    EXPECT_PROBLEM(plan->choices[0].domain[1] = 0, RECORD_CHOICE, "domain size of level 1 is 0");
    EXPECT_PROBLEM(plan->buffers[0].rows = UINT64_MAX, RECORD_BUFFER, "exceeds 63 bits");
    EXPECT_PROBLEM(plan->buffers[0].offset = INT64_MAX, RECORD_BUFFER, "exceeds 63 bits");
    EXPECT_PROBLEM(plan->buffers[1].name = "tokens", RECORD_BUFFER, "two buffers have this name");
    EXPECT_PROBLEM(plan->buffers[1].layer = 1, RECORD_BUFFER, "'layer' is 1, and there are 1");
    EXPECT_PROBLEM(plan->steps[1].op = (Op)16, RECORD_STEP, "unknown code 16 for 'op'");
    EXPECT_PROBLEM(plan->steps[1].group = 2, RECORD_STEP, "'group' is 2, and there are 2");
    EXPECT_PROBLEM(plan->steps[1].layer = -2, RECORD_STEP, "'layer' is -2");
    EXPECT_PROBLEM(plan->steps[1].operand_first = 1000, RECORD_STEP, "operands lie outside");
    EXPECT_PROBLEM(plan->steps[1].after_count = 1000, RECORD_STEP, "'after' edges lie outside");
    EXPECT_PROBLEM(plan->operands[0] = 999, RECORD_STEP, "operand 'tokens' is buffer 999");
    EXPECT_PROBLEM(plan->after[0] = 999, RECORD_STEP, "waits for step 999");
    EXPECT_PROBLEM(plan->iteration_s = -1, RECORD_PLAN, "'iteration_s' is -1");
}
