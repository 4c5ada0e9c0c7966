// Data: windows of a file's parts, generated tokens, and files that will not do.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/training/data.h"

enum { WORDS = 4 * 9 };
static const ModelDims dims = {.vocabulary = 200, .sequence = 8, .batch = 4};

// A file whose byte at place i is i * 200 / count: its value tells the place.
static char *file_of(size_t count)
{
    char *path = strdup("/tmp/test_data.XXXXXX");
    FILE *file = fdopen(mkstemp(path), "w");
    for (size_t i = 0; i < count; i++)
        fputc((int)(i * 200 / count), file);
    fclose(file);
    return path;
}

static void file_done(char *path)
{
    unlink(path);
    free(path);
}

static void fill(const Data *data, DataPart part, uint64_t seed, uint64_t rank, uint64_t iteration,
                 int32_t words[WORDS])
{
    cr_assert(data_fill(data, &dims, &(DataBatch){.seed = seed, .rank = rank, .iteration = iteration, .part = part},
                        words, &(Fault){0}));
}

static bool opens(const char *path, double share, bool validates, Data *data, Fault *fault)
{
    *fault = (Fault){0};
    return data_open(&(DataOptions){.path = path, .sources = true, .validation_share = share, .validates = validates},
                     &dims, data, fault);
}

Test(data, training_never_sees_what_is_held_out)
{
    char *path = file_of(4000);
    Data data;
    Fault fault;
    int32_t words[WORDS];
    cr_assert(opens(path, 0.25, true, &data, &fault));
    cr_expect_eq(data.training, 3000);
    int32_t largest = 0, smallest = 200;
    for (uint64_t i = 0; i < 500; i++) {
        fill(&data, DATA_TRAINING, 1, 0, i, words);
        for (int w = 0; w < WORDS; w++)
            largest = words[w] > largest ? words[w] : largest;
        fill(&data, DATA_VALIDATION, 1, 0, i, words);
        for (int w = 0; w < WORDS; w++)
            smallest = words[w] < smallest ? words[w] : smallest;
    }
    cr_expect_eq(largest, 149, "%d", largest); // up to the last byte of its part
    cr_expect_eq(smallest, 150, "%d", smallest);
    data_close(&data);
    file_done(path);
}

Test(data, windows_are_functions_of_seed_rank_iteration_and_part)
{
    char *path = file_of(4000);
    Data of_file, generated;
    Fault fault;
    cr_assert(opens(path, 0.1, true, &of_file, &fault) && opens(NULL, 0.1, true, &generated, &fault));
    const Data *all[] = {&of_file, &generated};
    for (int d = 0; d < 2; d++) {
        int32_t a[WORDS], b[WORDS];
        fill(all[d], DATA_TRAINING, 1, 0, 0, a);
        fill(all[d], DATA_TRAINING, 1, 0, 0, b);
        cr_expect_arr_eq(a, b, sizeof(a));
        const uint64_t others[3][3] = {{2, 0, 0}, {1, 1, 0}, {1, 0, 1}};
        for (int o = 0; o < 3; o++) {
            fill(all[d], DATA_TRAINING, others[o][0], others[o][1], others[o][2], b);
            cr_expect_arr_neq(a, b, sizeof(a));
        }
        fill(all[d], DATA_VALIDATION, 1, 0, 0, b);
        cr_expect_arr_neq(a, b, sizeof(a));
    }
    cr_expect(generated.identity.generated && !of_file.identity.generated && of_file.identity.bytes == 4000);
    data_close(&of_file);
    data_close(&generated);
    file_done(path);
}

// Whether a file of so many bytes is refused with a message that has `says`.
static bool refused(size_t count, double share, bool validates, const char *says)
{
    char *path = file_of(count);
    Data data;
    Fault fault;
    bool ok = opens(path, share, validates, &data, &fault);
    data_close(&data);
    file_done(path);
    if (!ok && !strstr(fault.message, says))
        cr_log_error("%zu bytes: %s", count, fault.message);
    return !ok && fault.kind == FAULT_INPUT && strstr(fault.message, says);
}

Test(data, files_shorter_than_a_batch_are_refused)
{
    Data data;
    Fault fault;
    cr_expect(refused(0, 0.1, true, "the file is empty"));
    cr_expect(refused(35, 0, false, "35 bytes, fewer than a rank's batch of 36 (4 x 8 tokens and the one after them)"));
    cr_expect(refused(39, 0.1, false, "36 bytes to train on") == false);
    cr_expect(refused(38, 0.1, false, "35 bytes to train on"));
    cr_expect(refused(350, 0.1, true, "35 bytes for validation"));
    cr_expect(refused(4000, 0.99, false, "40 bytes to train on") == false);
    cr_expect_not(opens("/nowhere", 0.1, false, &data, &fault));
    cr_expect_eq(fault.kind, FAULT_IO);
    char *path = file_of(36); // no more than needed
    cr_expect(opens(path, 0, false, &data, &fault));
    int32_t words[WORDS];
    fill(&data, DATA_TRAINING, 1, 0, 0, words);
    data_close(&data);
    file_done(path);
}
