// Checkpoints: what a plan's buffers are to one, manifests that come back as they went, hostile ones that are refused,
// directories of which the last two stay.
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compiled.h"
#include "runtime/checkpoint/checkpoint_internal.h"
#include "runtime/job/job.h"
#include "runtime/training/loss_log.h"

static const char model[] =
    "cluster four { level dc { count = 2 bandwidth = 1 Gbit/s latency = 1 ms }\n"
    "  level gpu { count = 2 bandwidth = 4 Gbit/s latency = 10 us }\n"
    "  device { compute = 4 GFLOP/s memory = 512 MB memory_bandwidth = 1 GB/s } }\n"
    "model small { layers = 2 hidden = 16 heads = 2 vocabulary = 32 sequence = 8 batch = 2 dtype = f32\n"
    "  moe { experts = 8 top_k = 2 inner = 16 activation = gelu } }\n"
    "plan { pass = training  migration { codec = delta  ratio = 4  gradient = topk  gradient_ratio = 4 } }\n";

static Manifest manifest_of(const Plan *plan)
{
    Manifest manifest;
    Fault fault = {0};
    cr_assert(manifest_of_plan(plan, &manifest, &fault));
    manifest.point = (TrainingPoint){.iteration = 12, .skipped = 3, .seed = UINT64_MAX, .data = {false, 1234, 0xfeed}};
    for (uint32_t b = 0; b < manifest.buffer_count; b++)
        for (uint64_t f = 0; f <= manifest.ranks; f++)
            if ((manifest.buffers[b].persistence == PERSISTENCE_EQUAL) == (f == 0))
                manifest.files[f].bytes += saved_bytes(&manifest.buffers[b]);
    return manifest;
}

static const SavedBuffer *saved(const Manifest *manifest, const char *name)
{
    for (uint32_t b = 0; b < manifest->buffer_count; b++)
        if (strcmp(manifest->buffers[b].name, name) == 0)
            return &manifest->buffers[b];
    return NULL;
}

Test(checkpoint, holds_what_outlives_an_iteration)
{
    Compiled compiled = compiled_from(model, "dc=2,gpu=2");
    Manifest manifest = manifest_of(compiled.plan);
    static const struct {
        const char *name;
        Persistence persistence;
        Rebuild rebuild;
        uint64_t rows;
    } expected[] = {
        {"embedding", PERSISTENCE_SHARE, REBUILD_NOT, 1},      {"embedding.state", PERSISTENCE_SHARE, REBUILD_NOT, 1},
        {"L1.dense", PERSISTENCE_SHARE, REBUILD_NOT, 1},       {"L0.experts", PERSISTENCE_OWN, REBUILD_NOT, 2},
        {"L0.experts.state", PERSISTENCE_OWN, REBUILD_NOT, 2}, {"L0.sent", PERSISTENCE_OWN, REBUILD_WEIGHTS, 2},
        {"L0.replicas", PERSISTENCE_HELD, REBUILD_WEIGHTS, 8},
    };
    for (size_t i = 0; i < COUNT_OF(expected); i++) {
        const SavedBuffer *buffer = saved(&manifest, expected[i].name);
        cr_assert_not_null(buffer, "%s", expected[i].name);
        cr_expect_eq(buffer->persistence, expected[i].persistence, "%s", expected[i].name);
        cr_expect_eq(buffer->rebuild, expected[i].rebuild, "%s", expected[i].name);
        cr_expect_eq(buffer->rows, expected[i].rows, "%s", expected[i].name);
    }
    uint32_t zero = 0;
    for (uint32_t b = 0; b < manifest.buffer_count; b++)
        zero += manifest.buffers[b].rebuild == REBUILD_ZERO;
    cr_expect_gt(zero, 0, "what gradients left out is not in the checkpoint");
    for (uint32_t b = 0; b < compiled.plan->buffer_count; b++) {
        BufferKind kind = compiled.plan->buffers[b].kind;
        bool outlives = kind == BUFFER_WEIGHT || kind == BUFFER_STATE || kind == BUFFER_REPLICA;
        cr_expect_eq(saved(&manifest, compiled.plan->buffers[b].name) != NULL, outlives);
    }
    manifest_free(&manifest);
    compiled_free(&compiled);
}

Test(checkpoint, manifests_come_back)
{
    Compiled compiled = compiled_from(model, "dc=2,gpu=1");
    Manifest manifest = manifest_of(compiled.plan), back;
    Text text = {0}, again = {0};
    Fault fault = {0};
    manifest_print(&manifest, &text);
    cr_assert(manifest_parse("m", text.data, &back, &fault), "%s", fault.message);
    cr_expect_eq(back.point.iteration, 12);
    cr_expect_eq(back.point.skipped, 3);
    cr_expect_eq(back.point.seed, UINT64_MAX);
    cr_expect_eq(back.point.data.crc, 0xfeed);
    cr_expect(manifest_same_strategy(&manifest, &back));
    cr_expect(manifest_same_model(&back, compiled.plan, "m", &fault), "%s", fault.message);
    back.model.name = manifest.model.name;
    manifest_print(&back, &again);
    cr_expect_str_eq(text.data, again.data);
    Compiled other = compiled_from(model, "dc=1,gpu=2");
    Manifest of_other = manifest_of(other.plan);
    cr_expect_not(manifest_same_strategy(&of_other, &back), "slots of replicas are others");
    text_free(&text);
    text_free(&again);
    manifest_free(&manifest);
    manifest_free(&back);
    manifest_free(&of_other);
    compiled_free(&compiled);
    compiled_free(&other);
}

// Prints the manifest after an edit, so that its checksum is right; whether it is still read.
static bool is_read(const Plan *plan, void (*edit)(Manifest *))
{
    Manifest manifest = manifest_of(plan), back = {0};
    Text text = {0};
    Fault fault = {0};
    edit(&manifest);
    manifest_print(&manifest, &text);
    bool ok = manifest_parse("m", text.data, &back, &fault);
    if (ok)
        manifest_free(&back);
    text_free(&text);
    manifest_free(&manifest);
    return ok;
}

static void edit_nothing(Manifest *manifest)
{
    (void)manifest;
}

static void edit_skipped(Manifest *manifest)
{
    manifest->point.skipped = manifest->point.iteration + 1;
}

static void edit_rows(Manifest *manifest)
{
    manifest->buffers[0].rows = 1ull << 52;
    manifest->buffers[0].cols = 1ull << 52;
}

static void edit_length(Manifest *manifest)
{
    manifest->files[2].bytes++;
}

static void edit_name(Manifest *manifest)
{
    free(manifest->files[1].name);
    manifest->files[1].name = strdup("../../etc/passwd");
}

static void edit_experts(Manifest *manifest)
{
    manifest->model.experts = 7; // domains do not divide them
}

static void edit_domain(Manifest *manifest)
{
    manifest->choices[0].domain[0] = 3;
}

static void edit_ranks(Manifest *manifest)
{
    manifest->levels[0] = 4;
}

static void edit_share(Manifest *manifest)
{
    for (uint32_t b = 0; b < manifest->buffer_count; b++)
        if (manifest->buffers[b].layer != NONE)
            manifest->buffers[b].cols++;
}

static void edit_layer(Manifest *manifest)
{
    for (uint32_t b = 0; b < manifest->buffer_count; b++)
        if (manifest->buffers[b].layer != NONE)
            manifest->buffers[b].layer = 17;
}

Test(checkpoint, manifests_that_lie_are_refused)
{
    Compiled compiled = compiled_from(model, "dc=2,gpu=1");
    void (*const lies[])(Manifest *) = {edit_skipped, edit_rows,  edit_length, edit_name, edit_experts,
                                        edit_domain,  edit_ranks, edit_share,  edit_layer};
    cr_expect(is_read(compiled.plan, edit_nothing));
    for (size_t i = 0; i < COUNT_OF(lies); i++)
        cr_expect_not(is_read(compiled.plan, lies[i]), "lie %zu was believed", i);
    compiled_free(&compiled);
}

// A byte changed anywhere, or the end missing: refused, or, where only blanks changed, read as the same.
Test(checkpoint, damaged_manifests_are_refused)
{
    Compiled compiled = compiled_from(model, "dc=2,gpu=1");
    Manifest manifest = manifest_of(compiled.plan), back;
    Text text = {0};
    manifest_print(&manifest, &text);
    for (size_t i = 0; i < text.length; i += 7) {
        char kept = text.data[i];
        text.data[i] = i % 2 ? (char)(kept ^ 1 << (i % 7)) : '\0';
        Fault fault = {0};
        bool ok = manifest_parse("m", text.data, &back, &fault);
        cr_expect(!ok || (manifest_same_strategy(&manifest, &back) && back.point.iteration == 12), "byte %zu", i);
        if (ok)
            manifest_free(&back);
        text.data[i] = kept;
    }
    text_free(&text);
    manifest_free(&manifest);
    compiled_free(&compiled);
}

static bool exists(const char *dir, const char *name)
{
    struct stat there;
    char *path = checkpoint_join(dir, name);
    bool is = stat(path, &there) == 0;
    free(path);
    return is;
}

Test(checkpoint, directories_keep_two_and_lose_what_is_unfinished)
{
    Compiled compiled = compiled_from(model, "dc=2,gpu=1");
    char dir[] = "/tmp/test_checkpoint.XXXXXX";
    cr_assert_not_null(mkdtemp(dir));
    char *unfinished = checkpoint_join(dir, "step-000099.tmp"), *foreign = checkpoint_join(dir, "step-notes");
    cr_assert(mkdir(unfinished, 0777) == 0 && mkdir(foreign, 0777) == 0);
    JobOptions options = job_options_default();
    options.warmup = 0;
    options.iterations = 7;
    options.training.checkpoint = dir;
    options.training.checkpoint_every = 2;
    JobResult result;
    Fault fault = {0};
    cr_assert(job_run(compiled.plan, &options, &result, &fault), "%s", fault.message);
    cr_expect_eq(result.checkpoints.count, 4);
    cr_expect(exists(dir, "step-000006") && exists(dir, "step-000007") && exists(dir, "step-notes"));
    cr_expect_not(exists(dir, "step-000004") || exists(dir, "step-000099.tmp"));
    rmdir(foreign);
    uint64_t *found;
    size_t count;
    cr_assert(checkpoint_list(dir, &found, &count, &fault) && count == 2);
    cr_expect(found[0] == 6 && found[1] == 7);
    free(found);
    for (uint64_t i = 6; i < 8; i++) {
        char name[CHECKPOINT_NAME_MAX];
        checkpoint_step_name(name, i, "");
        char *path = checkpoint_join(dir, name);
        cr_expect(checkpoint_remove(path, &fault), "%s", fault.message);
        free(path);
    }
    cr_expect_eq(rmdir(dir), 0);
    free(unfinished);
    free(foreign);
    job_result_free(&result);
    compiled_free(&compiled);
}

Test(loss_log, goes_on_where_a_training_was_resumed)
{
    char path[] = "/tmp/test_loss_log.XXXXXX";
    close(mkstemp(path));
    Fault fault = {0};
    LossLog *log = loss_log_open(path, 0, &(Plan){0}, false, &fault);
    for (uint64_t i = 1; i <= 5; i++)
        cr_assert(loss_log_add(log, &(LossRow){.iteration = i, .loss = 1.0 / (double)i}, &fault));
    loss_log_close(log);
    log = loss_log_open(path, 3, &(Plan){0}, false, &fault);
    cr_assert(loss_log_add(log, &(LossRow){4, NAN, 0.5, 2, true, true, 0.25, NULL}, &fault));
    loss_log_close(log);
    size_t length;
    char *text = file_read(path, 10000, &length, &fault);
    cr_assert_str_eq(text, "iteration,loss,validation_loss,learning_rate,skipped,iteration_s\n1,1,,0,0,0.000000\n"
                           "2,0.5,,0,0,0.000000\n3,0.3333333333333333,,0,0,0.000000\n4,nan,0.25,0.5,1,2.000000\n");
    free(text);
    FILE *file = fopen(path, "w");
    fputs("my thesis\n", file);
    fclose(file);
    cr_expect_null(loss_log_open(path, 0, &(Plan){0}, false, &fault));
    cr_expect(strstr(fault.message, "will not be written over"), "%s", fault.message);
    unlink(path);
}
