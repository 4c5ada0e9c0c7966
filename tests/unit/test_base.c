// The base library: arena, text and numbers, files, diagnostics, nearest word.
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ir/base/arena.h"
#include "ir/base/diag.h"
#include "ir/base/exit_codes.h"
#include "ir/base/tasks.h"
#include "ir/base/text.h"

Test(base_arena, memory_is_zeroed_aligned_and_separate)
{
    Arena *arena = arena_create();
    unsigned char *blocks[200];
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        size_t bytes = i * i * 7 % 5000;
        blocks[i] = arena_alloc(arena, bytes);
        cr_assert_eq((uintptr_t)blocks[i] % _Alignof(max_align_t), 0);
        for (size_t b = 0; b < bytes; b++)
            cr_assert_eq(blocks[i][b], 0);
        memset(blocks[i], (int)i, bytes);
    }
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        for (size_t b = 0; b < i * i * 7 % 5000; b++)
            cr_assert_eq(blocks[i][b], (unsigned char)i);
    char *large = arena_alloc(arena, 10 << 20);
    large[(10 << 20) - 1] = 1;
    cr_assert_str_eq(arena_copy_string(arena, "abcdef", 3), "abc");
    cr_assert_str_eq(arena_format(arena, "%d-%s", 7, "x"), "7-x");
    arena_destroy(arena);
    arena_destroy(NULL);
}

static void overflow_array(void *context)
{
    Arena *arena = arena_create();
    *(int *)context += 1;
    arena_alloc_array(arena, SIZE_MAX / 4, 8);
    *(int *)context += 10;
}

static void overflow_text(void *context)
{
    Text *text = context;
    text_append_bytes(text, "", SIZE_MAX / 2);
}

static void nest(void *context)
{
    Fault inner = {0};
    int *steps = context;
    Arena *arena = arena_create(); // lost to the outer jump: destroyed by it, and not by the inner one
    cr_expect_not(memory_guard(overflow_array, steps, &inner));
    cr_expect_eq(inner.kind, FAULT_MEMORY);
    arena_alloc(arena, 100);
    *steps += 100;
    memory_exhausted();
}

Test(base_arena, joined_arenas_keep_what_they_hold)
{
    Arena *arena = arena_create(), *empty = arena_create(), *joined = arena_create();
    char *first = arena_copy_string(arena, "first", 5), *second = arena_copy_string(joined, "second", 6);
    char *large = arena_alloc_array(joined, 100000, 1);
    large[99999] = 'x';
    arena_join(arena, joined);
    arena_join(arena, arena_create()); // which holds nothing
    arena_join(empty, arena);
    char *third = arena_copy_string(empty, "third", 5);
    cr_assert_str_eq(first, "first");
    cr_assert_str_eq(second, "second");
    cr_assert_str_eq(third, "third");
    cr_assert_eq(large[99999], 'x');
    arena_destroy(empty);
}

enum { TASKS = 1000 };

static void count_task(void *context, uint32_t index)
{
    Arena *arena = arena_create(); // of the thread's own
    uint32_t *times = arena_alloc_array(arena, index + 1, sizeof(*times));
    ((uint32_t *)context)[index] += ++times[index];
    arena_destroy(arena);
}

Test(base_tasks, every_task_runs_once)
{
    static uint32_t times[TASKS];
    cr_assert_geq(processors_allowed(), 1);
    for (uint32_t count = 0; count <= TASKS; count += count < 4 ? 1 : 332) {
        memset(times, 0, sizeof(times));
        tasks_run(count_task, times, count);
        for (uint32_t i = 0; i < TASKS; i++)
            cr_assert_eq(times[i], i < count, "task %u of %u ran %u times", i, count, times[i]);
    }
}

static void exhaust_task(void *context, uint32_t index)
{
    (void)context;
    arena_create(); // is destroyed by the guard of its thread
    if (index == 7)
        memory_exhausted();
}

static void run_exhausting(void *context)
{
    tasks_run(exhaust_task, NULL, TASKS);
    *(bool *)context = true;
}

Test(base_tasks, memory_that_runs_out_in_one_ends_the_guarded_action)
{
    Fault fault = {0};
    bool went_on = false;
    cr_assert_not(memory_guard(run_exhausting, &went_on, &fault));
    cr_assert_eq(fault.kind, FAULT_MEMORY);
    cr_assert_not(went_on);
}

Test(base_arena, exhaustion_ends_the_innermost_guard)
{
    int steps = 0;
    Fault fault = {0};
    cr_assert_not(memory_guard(overflow_array, &steps, &fault));
    cr_assert_eq(steps, 1);
    cr_assert_eq(fault.kind, FAULT_MEMORY);
    cr_assert_str_eq(fault.message, "out of memory");
    fault = (Fault){0};
    Text text = {0};
    text_append(&text, "kept");
    cr_assert_not(memory_guard(overflow_text, &text, &fault));
    cr_assert_str_eq(text.data, "kept");
    text_free(&text);
    fault = (Fault){0};
    steps = 0;
    cr_assert_not(memory_guard(nest, &steps, &fault));
    cr_assert_eq(steps, 101);
}

static void create(void *context)
{
    *(Arena **)context = arena_create();
}

Test(base_arena, outlives_the_guard_that_it_was_created_in)
{
    Arena *arenas[3];
    Fault fault = {0};
    for (size_t i = 0; i < COUNT_OF(arenas); i++)
        cr_assert(memory_guard(create, &arenas[i], &fault));
    cr_assert_eq(fault.kind, FAULT_NONE);
    for (size_t i = 0; i < COUNT_OF(arenas); i++)
        cr_assert_str_eq(arena_copy_string(arenas[i], "there", 5), "there");
    for (size_t i = COUNT_OF(arenas); i-- > 0;)
        arena_destroy(arenas[i]);
}

Test(base_arena, exhaustion_outside_of_guards_aborts, .signal = SIGABRT)
{
    memory_exhausted();
}

Test(base_text, grows_and_is_reusable)
{
    Text text = {0};
    for (int i = 0; i < 1000; i++)
        text_format(&text, "%d,", i);
    cr_assert_eq(text.length, 3890);
    cr_assert_eq(strlen(text.data), text.length);
    text_free(&text);
    text_append_bytes(&text, "a\0b", 3);
    text_append(&text, "c");
    cr_assert_eq(text.length, 4);
    cr_assert_arr_eq(text.data, "a\0bc", 5);
    text_free(&text);
}

Test(base_text, numbers_read_back_exactly)
{
    const double values[] = {0,       1,
                             0.1,     1.0 / 3,
                             1.25e9,  2e10,
                             187.1e6, 0.49e-3,
                             1e15,    1.5e300,
                             5e-324,  123456789012345678.0,
                             -2.5,    9007199254740993.0};
    for (size_t i = 0; i < COUNT_OF(values); i++) {
        char out[FORMAT_MAX];
        cr_assert_eq(strtod(format_double(out, values[i]), NULL), values[i], "%s", out);
    }
    char out[FORMAT_MAX];
    cr_assert_str_eq(format_double(out, 20000000000.0), "20000000000");
    cr_assert_str_eq(format_double(out, 0.00049), "0.00049");
    cr_assert_str_eq(format_double(out, INFINITY), "inf");
}

Test(base_text, human_units)
{
    char out[FORMAT_MAX];
    cr_assert_str_eq(format_bytes(out, 1.25e9), "1.25 GB");
    cr_assert_str_eq(format_bytes(out, 0), "0 B");
    cr_assert_str_eq(format_bytes(out, 999.9), "1 kB");
    cr_assert_str_eq(format_bytes(out, 100), "100 B");
    cr_assert_str_eq(format_time(out, 0.0124), "12.4 ms");
    cr_assert_str_eq(format_time(out, 0), "0 s");
    cr_assert_str_eq(format_time(out, 3600), "3600 s");
    cr_assert_str_eq(format_time(out, 2e-12), "0.002 ns");
    cr_assert_str_eq(format_bandwidth(out, 1.25e9), "10 Gbit/s");
    cr_assert_str_eq(format_bandwidth(out, 16e9), "128 Gbit/s");
    cr_assert_str_eq(format_rate(out, 60e12), "60 TFLOP/s");
    cr_assert_str_eq(format_change(out, 0.014), "+1.4 %");
    cr_assert_str_eq(format_change(out, -0.0006), "-0.1 %");
    cr_assert_str_eq(format_change(out, -0.0004), "0.0 %");
    cr_assert_str_eq(format_change(out, 0.0004), "0.0 %");
    cr_assert_leq(strlen(format_change(out, 1e300)), (size_t)FORMAT_MAX - 1);
    cr_assert_leq(strlen(format_rate(out, 1e300)), (size_t)FORMAT_MAX - 1);
    cr_assert_leq(strlen(format_time(out, -INFINITY)), (size_t)FORMAT_MAX - 1);
}

Test(base_text, nearest_word_accepts_slips_only)
{
    const char *const words[] = {"bandwidth", "latency", "count", "overhead"};
    cr_assert_str_eq(nearest_word("bandwith", words, 4), "bandwidth");
    cr_assert_str_eq(nearest_word("latnecy", words, 4), "latency");
    cr_assert_str_eq(nearest_word("cuont", words, 4), "count");
    cr_assert_null(nearest_word("experts", words, 4));
    cr_assert_null(nearest_word("", words, 4));
    char endless[300];
    memset(endless, 'a', sizeof(endless) - 1);
    endless[sizeof(endless) - 1] = '\0';
    cr_assert_null(nearest_word(endless, words, 4));
}

static char directory[] = "/tmp/hep_test_base_XXXXXX";

static const char *in_directory(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

// A fault of files says why, and leaves what the file is for to the caller.
static void expect_reason(const Fault *fault, const char *reason)
{
    cr_assert_eq(fault->kind, FAULT_IO);
    cr_assert_str_eq(fault->message, reason);
    cr_assert_eq(fault->rank, -1);
}

static void expect_unwritable(const char *path, const char *reason)
{
    Fault written = {0}, probed = {0};
    cr_assert_not(file_write(path, "x", 1, &written));
    expect_reason(&written, reason);
    cr_assert_not(file_probe(path, &probed));
    expect_reason(&probed, reason);
}

static void expect_unreadable(const char *path, size_t limit_bytes, const char *reason)
{
    Fault fault = {0};
    size_t length;
    cr_assert_null(file_read(path, limit_bytes, &length, &fault));
    expect_reason(&fault, reason);
}

Test(base_file, round_trip_limits_and_failures)
{
    cr_assert_not_null(mkdtemp(directory));
    const char *path = in_directory("a");
    Fault fault = {0};
    size_t length = 0;
    char *big = malloc(300000);
    memset(big, 'x', 300000);
    cr_assert(file_write(path, big, 300000, &fault));
    char *data = file_read(path, 300000, &length, &fault);
    cr_assert_not_null(data);
    cr_assert_eq(length, 300000);
    cr_assert_arr_eq(data, big, 300000);
    cr_assert_eq(data[length], '\0');
    free(data);
    expect_unreadable(path, 299999, "the file is too large");

    cr_assert(file_write(path, "new", 3, &fault));
    data = file_read(path, 10, &length, &fault);
    cr_assert_str_eq(data, "new");
    free(data);
    cr_assert(file_write(path, "", 0, &fault));
    data = file_read(path, 0, &length, &fault);
    cr_assert_eq(length, 0);
    free(data);
    free(big);
    cr_assert(file_probe(path, &fault));
    cr_assert_eq(fault.kind, FAULT_NONE);

    expect_unwritable(directory, "Is a directory");
    expect_unreadable(directory, 10, "Is a directory");
    expect_unreadable(in_directory("missing"), 10, "No such file or directory");
    expect_unwritable(in_directory("no/such"), "No such file or directory");
    cr_assert_eq(unlink(in_directory("a")), 0);
    cr_assert_eq(rmdir(directory), 0, "a temporary file was left behind");
}

// Devices are written, not replaced; a full one says so.
Test(base_file, devices_are_written_in_place)
{
    Fault fault = {0};
    cr_assert(file_probe("/dev/full", &fault));
    cr_assert_not(file_write("/dev/full", "x", 1, &fault));
    expect_reason(&fault, "No space left on device");
    fault = (Fault){0};
    cr_assert(file_write("/dev/null", "x", 1, &fault));
}

Test(base_fault, the_first_cause_wins_and_callers_say_whose_it_is)
{
    Fault fault = {0};
    cr_assert_not(fault_set(&fault, FAULT_IO, "%s", "no disk"));
    cr_assert_not(fault_set(&fault, FAULT_INPUT, "later"));
    cr_assert_not(fault_reported(&fault, FAULT_RUN));
    cr_assert_not(fault_prefix(&fault, "--data %d", 7));
    cr_assert_eq(fault.kind, FAULT_IO);
    cr_assert_str_eq(fault.message, "--data 7: no disk");
    char name[600];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    fault_prefix(&fault, "%s", name);
    cr_assert_eq(strlen(fault.message), sizeof(fault.message) - 1);
    fault = (Fault){0};
    cr_assert_not(fault_reported(&fault, FAULT_MISMATCH));
    cr_assert_eq(fault.kind, FAULT_MISMATCH);
    cr_assert_str_eq(fault.message, "");
}

Test(base_file, replacing_keeps_symbolic_links_and_modes)
{
    cr_assert_not_null(mkdtemp(directory));
    char target[256];
    snprintf(target, sizeof(target), "%s", in_directory("target"));
    cr_assert(file_write(target, "old", 3, &(Fault){0}));
    cr_assert_eq(chmod(target, 0640), 0);
    cr_assert_eq(symlink(target, in_directory("link")), 0);
    cr_assert(file_write(in_directory("link"), "new", 3, &(Fault){0}));
    struct stat status;
    cr_assert_eq(lstat(in_directory("link"), &status), 0);
    cr_assert(S_ISLNK(status.st_mode));
    cr_assert_eq(lstat(target, &status), 0);
    cr_assert(S_ISREG(status.st_mode));
    cr_assert_eq(status.st_mode & 0777, 0640);
    unlink(in_directory("link"));
    unlink(target);
    cr_assert_eq(rmdir(directory), 0);
}

static char *print_diag(const Diag *diag, bool colour)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    diag_print(diag, out, colour);
    fclose(out);
    return text;
}

Test(base_diag, exact_form)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    const char *text = "a = 1\n\tkey\t= 22 # \xc3\xa9t\xc3\xa9\n";
    uint32_t source = diag_add_source(diag, "x.hep", text, strlen(text), NULL);
    diag_error(diag, (Span){source, 7, 10}, "unknown key '%s'", "key");
    diag_note(diag, (Span){source, 0, 1}, "first defined here");
    diag_help(diag, "did you mean 'keys'?");
    diag_warning(diag, (Span){source, 21, 23}, "odd");
    diag_error(diag, (Span){source, 0, 30}, "two\nlines");
    diag_error_plain(diag, "no file");
    char *printed = print_diag(diag, false);
    cr_assert_str_eq(printed, "x.hep:2:2: error: unknown key 'key'\n"
                              "        key     = 22 # \xc3\xa9t\xc3\xa9\n"
                              "        ^~~\n"
                              "x.hep:1:1: note: first defined here\n"
                              "a = 1\n"
                              "^\n"
                              "help: did you mean 'keys'?\n"
                              "x.hep:2:15: warning: odd\n"
                              "        key     = 22 # \xc3\xa9t\xc3\xa9\n"
                              "                         ^\n"
                              "x.hep:1:1: error: two?lines\n"
                              "a = 1\n"
                              "^~~~~\n"
                              "error: no file\n");
    free(printed);
    cr_assert_eq(diag_error_count(diag), 3);
    cr_assert_eq(diag_warning_count(diag), 1);
    printed = print_diag(diag, true);
    cr_assert_not_null(strstr(printed, "\033[1;31merror:\033[0m unknown"));
    free(printed);
    arena_destroy(arena);
}

Test(base_diag, places_at_and_beyond_the_end)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    uint32_t source = diag_add_source(diag, "x", "ab\r\n", 4, NULL), empty = diag_add_source(diag, "e", "", 0, NULL);
    diag_error(diag, (Span){source, 4, 4}, "end");
    diag_error(diag, (Span){source, 2, 3}, "line end");
    diag_error(diag, (Span){empty, 0, 0}, "empty");
    diag_error(diag, (Span){empty, 100, 200}, "beyond");
    char *printed = print_diag(diag, false);
    cr_assert_str_eq(printed, "x:2:1: error: end\n\n^\nx:1:3: error: line end\nab\n  ^\n"
                              "e:1:1: error: empty\n\n^\ne:1:1: error: beyond\n\n^\n");
    free(printed);
    arena_destroy(arena);
}

Test(base_diag, errors_are_capped_and_not_repeated)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    uint32_t source = diag_add_source(diag, "x", "abc", 3, NULL);
    for (int i = 0; i < 3; i++)
        diag_error(diag, (Span){source, 0, 1}, "same");
    cr_assert_eq(diag_error_count(diag), 1);
    for (int i = 0; i < 29; i++) {
        diag_error(diag, (Span){source, 0, 1}, "error %d", i);
        diag_note(diag, (Span){source, 0, 1}, "note");
    }
    cr_assert_eq(diag_error_count(diag), 30);
    char *printed = print_diag(diag, false);
    cr_assert_not_null(strstr(printed, "error 18"));
    cr_assert_null(strstr(printed, "error 19"));
    cr_assert_not_null(strstr(printed, "\nerror: 10 more errors are not shown\n"));
    free(printed);
    arena_destroy(arena);
}

Test(base_diag, included_sources_show_the_way)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    uint32_t outer = diag_add_source(diag, "outer", "include \"inner\"", 15, NULL);
    Span place = {outer, 0, 15};
    uint32_t inner = diag_add_source(diag, "inner", "?", 1, &place);
    diag_error(diag, (Span){inner, 0, 1}, "bad");
    cr_assert_str_eq(diag_source_name(diag, inner), "inner");
    char *printed = print_diag(diag, false);
    cr_assert_str_eq(printed, "inner:1:1: error: bad\n?\n^\nouter:1:1: note: 'inner' is included here\n");
    free(printed);
    arena_destroy(arena);
}

Test(base_exit_codes, table_and_help_agree)
{
    cr_assert_eq(exit_code_of(FAULT_NONE), 0);
    cr_assert_eq(exit_code_of(FAULT_INPUT), 3);
    cr_assert_eq(exit_code_of(FAULT_MEMORY), 7);
    cr_assert_eq(exit_code_of(FAULT_INTERNAL), 70);
    cr_assert_not_null(strstr(exit_codes_help(), "3\terrors in the input\n"));
    cr_assert_not_null(strstr(exit_codes_help(), "70\tinternal error\n"));
}
