// See output.h.
#include "hepc/output.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/chakra.h"
#include "backends/dot.h"
#include "backends/html.h"
#include "backends/json.h"
#include "backends/layout.h"
#include "backends/simulation_print.h"
#include "backends/summary.h"
#include "backends/trace.h"
#include "ir/binary.h"
#include "ir/text/plan_text.h"
#include "ir/unroll.h"

static bool write_output(const Options *options, const void *data, size_t length, Fault *fault)
{
    const char *path = options->output ? options->output : "-";
    return file_write(path, data, length, fault) || fault_prefix(fault, "%s", path);
}

bool output_text(const Options *options, Text *text, Fault *fault)
{
    bool ok = write_output(options, text->data ? text->data : "", text->length, fault);
    text_free(text);
    return ok;
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
        while (end < work->layer_count && memcmp(&work->layers[end], &work->layers[k], sizeof(work->layers[k])) == 0)
            end++;
        const LayerWork *layer = &work->layers[k];
        char range[32];
        snprintf(range, sizeof(range), end - k > 1 ? "%u..%u" : "%u", k, end - 1);
        text_format(out, "%-9s %-6s %12s %12s %12s %12s\n", range, layer->is_moe ? "MoE" : "dense",
                    format_bytes(a, layer->data_bytes), format_bytes(b, layer->sent_bytes),
                    format_time(c, layer->pre_expert_s), format_time(d, layer->dense_s));
        k = end;
    }
    text_format(out,
                "\nexperts as sent; dense weights and embedding, shared out over all GPUs when training: %s; "
                "loss %s\n",
                format_bytes(a, work->dense_bytes), format_time(b, work->loss_s));
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        text_format(out, "level %-8s %6u workers, port %s, latency %s, %llu GPUs share it\n",
                    spec->cluster.levels[l].name, spec->cluster.levels[l].count,
                    format_bandwidth(a, spec->cluster.levels[l].bandwidth_bytes_per_s),
                    format_time(b, spec->cluster.levels[l].latency_s),
                    (unsigned long long)cluster_gpus_below(&spec->cluster, l));
    if (spec->replica_levels)
        text_format(out, "experts are replicated over the %u outermost level(s)\n", spec->replica_levels);
}

bool output_milp(const Options *options, const Compilation *compilation, Fault *fault)
{
    Text text = {0};
    Arena *arena = arena_create();
    Formulated formulated = planner_formulate(compilation->work, &compilation->solution, arena);
    bool ok = milp_print(formulated.milp, &text, fault) ? output_text(options, &text, fault)
                                                        : fault_prefix(fault, "--dump=milp");
    text_free(&text);
    milp_destroy(formulated.milp);
    arena_destroy(arena);
    return ok;
}

static bool write_file(const char *path, Text *text, Fault *fault)
{
    bool ok = file_write(path, text->data ? text->data : "", text->length, fault) || fault_prefix(fault, "%s", path);
    text->length = 0;
    return ok;
}

// Of ranks up to `end`, and of the groups.
static void remove_chakra(const char *prefix, uint64_t end, Arena *arena)
{
    unlink(arena_format(arena, "%s.groups.json", prefix));
    for (uint64_t rank = 0; rank < end; rank++)
        unlink(arena_format(arena, "%s.%" PRIu64 ".et", prefix, rank));
}

static bool write_chakra(const Options *options, const Plan *plan, Fault *fault)
{
    uint64_t ranks = cluster_gpus(&plan->cluster);
    if (!chakra_available())
        return fault_set(fault, FAULT_USAGE,
                         "--emit=chakra: built without protobuf-c: run scripts/install-deps and build again");
    if (ranks > CHAKRA_RANKS_MAX)
        return fault_set(fault, FAULT_USAGE,
                         "--emit=chakra writes a file per rank: %" PRIu64 " are too many, at most %d", ranks,
                         CHAKRA_RANKS_MAX);
    Arena *arena = arena_create();
    const Chakra *chakra = chakra_create(plan_unroll_all(plan, arena), arena);
    Text text = {0};
    chakra_print_groups(chakra, &text);
    uint64_t rank;
    bool ok = write_file(arena_format(arena, "%s.groups.json", options->output), &text, fault), began = ok;
    for (rank = 0; rank < ranks && ok; rank++) {
        chakra_print_rank(chakra, rank, &text);
        ok = write_file(arena_format(arena, "%s.%" PRIu64 ".et", options->output, rank), &text, fault);
    }
    if (began && !ok) // a part of them is of no use
        remove_chakra(options->output, rank, arena);
    text_free(&text);
    arena_destroy(arena);
    return ok;
}

// The simulated run, with a real one beside it if there is one.
static bool print_trace(const Options *options, const Plan *plan, Fault *fault)
{
    Text text = {0};
    TraceRun run = {0};
    char *content = options->merge ? file_read(options->merge, INPUT_LIMIT, &run.length, fault) : NULL;
    run.text = content;
    bool ok = (content || !options->merge) && trace_print(plan, content ? &run : NULL, &text, fault);
    free(content);
    if (ok)
        return output_text(options, &text, fault);
    text_free(&text);
    return fault_prefix(fault, "%s", options->merge);
}

static bool print_plan(const Options *options, const Plan *plan, const PlanContext *context, size_t encoded_bytes,
                       Fault *fault)
{
    Text text = {0};
    switch (options->dump) {
    case DUMP_IR:
        plan_print(plan, &text);
        break;
    case DUMP_JSON:
        json_print(plan, context->solve_s, encoded_bytes, &text);
        break;
    case DUMP_LAYOUT:
        if (plan->sync.every > 0)
            return fault_set(fault, FAULT_USAGE, "local steps are hep-run's: there is no layout of them for others");
        layout_print(plan, &text);
        break;
    case DUMP_DOT:
        dot_print(plan, &text);
        break;
    case DUMP_TRACE:
        return print_trace(options, plan, fault);
    case DUMP_HTML:
        html_print(plan, context->reasons, &text);
        break;
    case DUMP_CHAKRA:
        return write_chakra(options, plan, fault);
    case DUMP_SUMMARY:
        summary_print(plan, encoded_bytes, &text);
        break;
    case DUMP_AST: // these come before there is a plan
    case DUMP_MODEL:
    case DUMP_MILP:
    case DUMP_NONE:
    case DUMP_COUNT:
        break;
    }
    return output_text(options, &text, fault);
}

static void print_simulation(const Options *options, const Plan *plan)
{
    Arena *arena = arena_create();
    Text text = {0};
    const Plan *unrolled = plan_unroll_all(plan, arena);
    (options->json ? simulation_print_json : simulation_print)(unrolled, simulate(unrolled, arena), &text);
    fputs(text.data, stdout);
    text_free(&text);
    arena_destroy(arena);
}

// What is printed where no form was asked for.
static void print_besides(const Options *options, const Plan *plan, bool compare)
{
    if (options->output && strcmp(options->output, "-") == 0)
        return;
    if (options->simulate) {
        print_simulation(options, plan);
    } else if (compare) {
        Text text = {0};
        summary_print_comparison(plan, &text);
        fputs(text.data, stdout);
        text_free(&text);
    }
}

bool output_plan(const Options *options, const Plan *plan, const PlanContext *context, Fault *fault)
{
    uint8_t *bytes = NULL;
    size_t length = 0;
    if (!plan_encode(plan, &bytes, &length, fault))
        return fault_prefix(fault, "%s: the plan cannot be written", options->input);
    bool ok = true;
    if (options->dump != DUMP_NONE)
        ok = print_plan(options, plan, context, length, fault);
    else if (options->output)
        ok = write_output(options, bytes, length, fault);
    if (ok && options->dump == DUMP_NONE)
        print_besides(options, plan, context->compare);
    free(bytes);
    return ok;
}
