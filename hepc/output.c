// See output.h.
#include "hepc/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/chakra.h"
#include "backends/dot.h"
#include "backends/html.h"
#include "backends/json.h"
#include "backends/simulation_print.h"
#include "backends/summary.h"
#include "backends/trace.h"
#include "ir/binary.h"
#include "ir/text/plan_text.h"

int output_complain(const char *path, const char *reason)
{
    fprintf(stderr, "hepc: %s: %s\n", path, reason);
    return FAULT_IO;
}

static int write_output(const Options *options, const void *data, size_t length)
{
    const char *path = options->output ? options->output : "-";
    const char *error = file_write(path, data, length);
    return error ? output_complain(path, error) : FAULT_NONE;
}

int output_text(const Options *options, Text *text)
{
    int code = write_output(options, text->data ? text->data : "", text->length);
    text_free(text);
    return code;
}

void output_diagnostics(const Diag *diag)
{
    diag_print(diag, stderr, isatty(STDERR_FILENO) && !getenv("NO_COLOR"));
}

void output_model(const Compilation *compilation, Text *out)
{
    const Spec *spec = compilation->spec;
    const Workload *work = compilation->work;
    char a[FORMAT_MAX], b[FORMAT_MAX], c[FORMAT_MAX], d[FORMAT_MAX];
    text_format(out, "model %s on cluster %s, one GPU, forward pass, before any choice\n\n", spec->model.name,
                spec->cluster.name);
    const SpecModel *model = &spec->model;
    if (!model->abstract)
        text_format(out,
                    "%u layers, hidden %u, heads %u (%u for keys and values) of %u, vocabulary %u, %s\n"
                    "%u experts of %u, top-%u, %u shared; dense layers of %u; %s parameters, %s of them active\n\n",
                    model->layers, model->hidden, model->heads, model->kv_heads, model->head_dim, model->vocabulary,
                    dtype_name(model->dtype), model->experts, model->inner, model->top_k, model->shared_experts,
                    model->ffn_inner, format_count(a, model->total_parameters),
                    format_count(b, model->active_parameters));
    text_format(out, "%-9s %-6s %12s %12s %12s %12s\n", "layers", "kind", "tokens D", "experts P", "pre-expert",
                "dense");
    for (uint32_t k = 0; k < work->layer_count;) {
        uint32_t end = k + 1;
        while (end < work->layer_count && memcmp(&work->layers[end], &work->layers[k], sizeof work->layers[k]) == 0)
            end++;
        const LayerWork *layer = &work->layers[k];
        char range[32];
        snprintf(range, sizeof range, end - k > 1 ? "%u..%u" : "%u", k, end - 1);
        text_format(out, "%-9s %-6s %12s %12s %12s %12s\n", range, layer->is_moe ? "MoE" : "dense",
                    format_bytes(a, layer->data_bytes), format_bytes(b, layer->sent_bytes),
                    format_time(c, layer->pre_expert_s), format_time(d, layer->dense_s));
        k = end;
    }
    text_format(out, "\nexperts as sent; uncompressed gradients to all-reduce when training: %s; loss %s\n",
                format_bytes(a, work->dense_gradient_bytes), format_time(b, work->loss_s));
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        text_format(out, "level %-8s %6u workers, port %s, latency %s, %llu GPUs share it\n",
                    spec->cluster.levels[l].name,
                    spec->cluster.levels[l].count, format_bandwidth(a, spec->cluster.levels[l].bandwidth_bytes_per_s),
                    format_time(b, spec->cluster.levels[l].latency_s),
                    (unsigned long long)cluster_gpus_below(&spec->cluster, l));
    if (spec->replica_levels)
        text_format(out, "experts are replicated over the %u outermost level(s)\n", spec->replica_levels);
}

int output_milp(const Options *options, const Compilation *compilation)
{
    Text text = {0};
    const char *error = NULL;
    Arena *arena = arena_create();
    Formulated formulated = planner_formulate(compilation->work, &compilation->solution, arena);
    bool printed = milp_print(formulated.milp, &text, &error);
    int code = printed ? output_text(options, &text) : output_complain("--dump=milp", error);
    text_free(&text);
    milp_destroy(formulated.milp);
    arena_destroy(arena);
    return code;
}

typedef struct {
    uint8_t *bytes;
    size_t length;
} Encoded;

static int write_file(const char *path, Text *text)
{
    const char *error = file_write(path, text->data ? text->data : "", text->length);
    text->length = 0;
    return error ? output_complain(path, error) : FAULT_NONE;
}

static int write_chakra(const Options *options, const Plan *plan)
{
    uint64_t ranks = cluster_gpus(&plan->cluster);
    if (!chakra_available()) {
        fputs("hepc: --emit=chakra: built without protobuf-c: run scripts/install-deps and build again\n", stderr);
        return FAULT_USAGE;
    }
    if (ranks > CHAKRA_RANKS_MAX) {
        fprintf(stderr, "hepc: --emit=chakra writes a file per rank: %llu are too many, at most %d\n",
                (unsigned long long)ranks, CHAKRA_RANKS_MAX);
        return FAULT_USAGE;
    }
    Arena *arena = arena_create();
    const Chakra *chakra = chakra_create(plan, arena);
    Text text = {0};
    chakra_print_groups(chakra, &text);
    int code = write_file(arena_format(arena, "%s.groups.json", options->output), &text);
    for (uint64_t rank = 0; rank < ranks && code == FAULT_NONE; rank++) {
        chakra_print_rank(chakra, rank, &text);
        code = write_file(arena_format(arena, "%s.%llu.et", options->output, (unsigned long long)rank), &text);
    }
    text_free(&text);
    arena_destroy(arena);
    return code;
}

// The simulated run, with a real one beside it if there is one.
static int print_trace(const Options *options, const Plan *plan)
{
    Text text = {0};
    TraceRun run = {0};
    const char *error = NULL;
    char *content = options->merge ? file_read(options->merge, INPUT_LIMIT, &run.length, &error) : NULL;
    if (error)
        return output_complain(options->merge, error);
    run.text = content;
    error = trace_print(plan, content ? &run : NULL, &text);
    free(content);
    if (!error)
        return output_text(options, &text);
    text_free(&text);
    fprintf(stderr, "hepc: %s: %s\n", options->merge, error);
    return FAULT_INPUT;
}

// `reasons`: for the report; NULL for a plan as input, which does not hold them.
static int print_plan(const Options *options, const Plan *plan, double solve_s, const char *reasons,
                      const Encoded *encoded)
{
    Text text = {0};
    switch (options->dump) {
    case DUMP_IR:
        plan_print(plan, &text);
        break;
    case DUMP_JSON:
        json_print(plan, solve_s, encoded->length, &text);
        break;
    case DUMP_DOT:
        dot_print(plan, &text);
        break;
    case DUMP_TRACE:
        return print_trace(options, plan);
    case DUMP_HTML:
        html_print(plan, reasons, &text);
        break;
    case DUMP_CHAKRA:
        return write_chakra(options, plan);
    case DUMP_SUMMARY:
        summary_print(plan, encoded->length, &text);
        break;
    case DUMP_AST: // these come before there is a plan
    case DUMP_MODEL:
    case DUMP_MILP:
    case DUMP_NONE:
    case DUMP_COUNT:
        break;
    }
    return output_text(options, &text);
}

static void print_simulation(const Options *options, const Plan *plan)
{
    Arena *arena = arena_create();
    Text text = {0};
    (options->json ? simulation_print_json : simulation_print)(plan, simulate(plan, arena), &text);
    fputs(text.data, stdout);
    text_free(&text);
    arena_destroy(arena);
}

int output_plan(const Options *options, const Plan *plan, double solve_s, const char *reasons, bool compare)
{
    Encoded encoded = {0};
    char error[PLAN_ERROR_MAX];
    if (!plan_encode(plan, &encoded.bytes, &encoded.length, error)) {
        fprintf(stderr, "hepc: %s: the plan cannot be written: %s\n", options->input, error);
        return FAULT_INPUT;
    }
    int code = FAULT_NONE;
    if (options->dump != DUMP_NONE) {
        code = print_plan(options, plan, solve_s, reasons, &encoded);
    } else {
        if (options->output)
            code = write_output(options, encoded.bytes, encoded.length);
        bool to_stdout = options->output && strcmp(options->output, "-") == 0;
        if (to_stdout || code != FAULT_NONE)
            compare = false;
        else if (options->simulate)
            print_simulation(options, plan);
        if (compare && !options->simulate) {
            Text text = {0};
            summary_print_comparison(plan, &text);
            fputs(text.data, stdout);
            text_free(&text);
        }
    }
    free(encoded.bytes);
    return code;
}
