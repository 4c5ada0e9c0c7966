// Prints a plan as text: see plan_text.h. Records come from the tables of schema.h, each kind in
// aligned columns; comments give sizes and times in human units and mean nothing to the parser.
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "ir/schema.h"
#include "ir/text/plan_text.h"

enum { WRAP_COLUMN = 100 };

// A name as a bare word where it is one, else quoted.
static void print_name(Text *out, const char *name)
{
    bool plain = isalpha((unsigned char)name[0]) || name[0] == '_';
    for (const char *c = name; *c; c++)
        plain = plain && (isalnum((unsigned char)*c) || strchr("_.-", *c));
    if (plain) {
        text_append(out, name);
        return;
    }
    text_append(out, "\"");
    for (const char *c = name; *c; c++) {
        if (*c == '"' || *c == '\\')
            text_append(out, "\\");
        text_append_bytes(out, c, 1);
    }
    text_append(out, "\"");
}

static void print_domain(const Plan *plan, const uint32_t *domain, Text *out)
{
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, l ? " %" PRIu32 : "%" PRIu32, domain[l]);
}

void plan_print_value(const Plan *plan, const Field *field, const void *value, Text *out)
{
    switch (field->type) {
    case FIELD_NAME:
        print_name(out, *(const char *const *)value);
        break;
    case FIELD_BOOL:
        text_append(out, *(const bool *)value ? "yes" : "no");
        break;
    case FIELD_U32:
        text_format(out, "%" PRIu32, *(const uint32_t *)value);
        break;
    case FIELD_U64:
        text_format(out, "%" PRIu64, *(const uint64_t *)value);
        break;
    case FIELD_NUMBER:
        text_number(out, *(const double *)value + 0.0); // -0 becomes 0
        break;
    case FIELD_LAYER:
        text_format(out, "%" PRId32, *(const int32_t *)value);
        break;
    case FIELD_LEVEL:
        print_name(out, plan->cluster.levels[*(const int32_t *)value].name);
        break;
    case FIELD_GROUP:
        text_format(out, "g%" PRId32, *(const int32_t *)value);
        break;
    case FIELD_DOMAIN:
        print_domain(plan, value, out);
        break;
    case FIELD_ONE_OF:
        text_append(out, name_text(field->names, *(const int *)value));
        break;
    case FIELD_TYPE_COUNT:
        break;
    }
}

static bool is_skipped(const Field *field, const void *value)
{
    if (!field->optional)
        return false;
    if (field->type == FIELD_NUMBER)
        return *(const double *)value == 0;
    if (field->type == FIELD_BOOL)
        return !*(const bool *)value;
    bool counts = field->type == FIELD_ONE_OF || field->type == FIELD_U32;
    return *(const int32_t *)value == (counts ? 0 : NONE);
}

// The field of a record as it is printed; empty where it is omitted.
static void print_field(const Plan *plan, const Field *field, const void *record, Text *out)
{
    const void *value = (const char *)record + field->offset;
    out->length = 0;
    if (is_skipped(field, value))
        return;
    if (!field->positional)
        text_format(out, "%s ", field->key);
    plan_print_value(plan, field, value, out);
}

// ---- comments ----------------------------------------------------------------------------------

// As in the fields, -0 becomes 0 by adding 0.

static void comment_level(const Level *level, Text *out)
{
    char bandwidth[FORMAT_MAX], latency[FORMAT_MAX];
    text_format(out, "%s, %s", format_bandwidth(bandwidth, level->bandwidth_bytes_per_s + 0.0),
                format_time(latency, level->latency_s + 0.0));
}

static void comment_link(const Cluster *cluster, const WorkerLink *link, Text *out)
{
    char bandwidth[FORMAT_MAX], latency[FORMAT_MAX];
    text_format(out, "%s to %s, %s, %s", cluster->ports[link->a].name, cluster->ports[link->b].name,
                format_bandwidth(bandwidth, link->bandwidth_bytes_per_s + 0.0),
                format_time(latency, link->latency_s + 0.0));
}

static void comment_device(const Device *device, Text *out)
{
    char rate[FORMAT_MAX], memory[FORMAT_MAX];
    text_format(out, "%s, %s", format_rate(rate, device->compute_flops + 0.0),
                format_bytes(memory, device->memory_bytes + 0.0));
}

static void comment_plan(const Plan *plan, Text *out)
{
    char time[FORMAT_MAX], memory[FORMAT_MAX];
    text_format(out, "iteration %s, memory %s", format_time(time, plan->iteration_s + 0.0),
                format_bytes(memory, plan_memory_bytes(plan)));
}

static void comment_strategy(const Strategy *strategy, Text *out)
{
    char time[FORMAT_MAX], memory[FORMAT_MAX];
    text_format(out, "%s, %s", format_time(time, strategy->iteration_s + 0.0),
                format_bytes(memory, strategy->memory_bytes + 0.0));
}

static void comment_step(const Plan *plan, uint32_t index, Text *out)
{
    const Step *step = &plan->steps[index];
    char time[FORMAT_MAX], bytes[FORMAT_MAX];
    text_format(out, "%s %s", stream_name(step_stream(plan, step)), format_time(time, step->cost_s + 0.0));
    if (step->bytes > 0)
        text_format(out, ", %s", format_bytes(bytes, step->bytes + 0.0));
}

static void comment_record(const Plan *plan, RecordKind kind, uint32_t index, Text *out)
{
    char human[FORMAT_MAX];
    out->length = 0;
    switch (kind) {
    case RECORD_CLUSTER:
        text_format(out, "%" PRIu64 " GPUs", cluster_gpus(&plan->cluster));
        break;
    case RECORD_LEVEL:
        comment_level(&plan->cluster.levels[index], out);
        break;
    case RECORD_PORT:
        text_format(out, "at position %" PRIu32 ", %s", index,
                    format_bandwidth(human, plan->cluster.ports[index].bandwidth_bytes_per_s + 0.0));
        break;
    case RECORD_LINK:
        comment_link(&plan->cluster, &plan->cluster.links[index], out);
        break;
    case RECORD_DEVICE:
        comment_device(&plan->cluster.device, out);
        break;
    case RECORD_PLAN:
        comment_plan(plan, out);
        break;
    case RECORD_STRATEGY:
        comment_strategy(&plan->strategies[index], out);
        break;
    case RECORD_GROUP:
        text_format(out, "%" PRIu64 " members", group_size(&plan->cluster, &plan->groups[index]));
        break;
    case RECORD_BUFFER:
        text_append(out, format_bytes(human, (double)buffer_bytes(&plan->buffers[index])));
        break;
    case RECORD_STEP:
        comment_step(plan, index, out);
        break;
    case RECORD_TRAINING:
    case RECORD_MODEL:
    case RECORD_LAYER:
    case RECORD_CHOICE:
    case RECORD_TRAFFIC:
    case RECORD_COUNT:
        break;
    }
}

static void print_comment(const Plan *plan, RecordKind kind, uint32_t index, Text *out)
{
    Text comment = {0};
    comment_record(plan, kind, index, &comment);
    if (comment.length) {
        text_append(out, "  # ");
        text_append_bytes(out, comment.data, comment.length);
    }
    text_append(out, "\n");
    text_free(&comment);
}

// ---- records -----------------------------------------------------------------------------------

// One record whose fields wrap.
static void print_single(const Plan *plan, RecordKind kind, Text *out)
{
    const RecordInfo *info = record_info(kind);
    size_t line = out->length;
    Text cell = {0};
    text_append(out, info->keyword);
    for (const Field *field = info->fields; field->key; field++) {
        print_field(plan, field, record_at(plan, kind, 0), &cell);
        if (out->length - line + cell.length > WRAP_COLUMN) {
            text_append(out, "\n");
            line = out->length;
        }
        text_append(out, field->positional ? " " : "  ");
        text_append_bytes(out, cell.data, cell.length);
    }
    text_free(&cell);
    print_comment(plan, kind, 0, out);
}

typedef struct {
    size_t id, field[FIELDS_MAX];
} Widths;

// What stands between keyword and fields: the record's number, or the level of a traffic record.
static void print_id(const Plan *plan, RecordKind kind, uint32_t index, Text *out)
{
    out->length = 0;
    if (kind == RECORD_TRAFFIC)
        print_name(out, plan->cluster.levels[index % plan->cluster.level_count].name);
    else if (record_info(kind)->id)
        text_format(out, "%c%" PRIu32, record_info(kind)->id, index);
}

static Widths measure(const Plan *plan, RecordKind kind)
{
    const RecordInfo *info = record_info(kind);
    Widths widths = {0};
    Text cell = {0};
    for (uint32_t i = 0; i < record_count(plan, kind); i++) {
        print_id(plan, kind, i, &cell);
        widths.id = widths.id > cell.length ? widths.id : cell.length;
        for (int f = 0; info->fields[f].key; f++) {
            print_field(plan, &info->fields[f], record_at(plan, kind, i), &cell);
            widths.field[f] = widths.field[f] > cell.length ? widths.field[f] : cell.length;
        }
    }
    text_free(&cell);
    return widths;
}

static void print_cell(Text *out, const Text *cell, size_t width, const char *before)
{
    if (width)
        text_format(out, "%s%-*s", before, (int)width, cell->length ? cell->data : "");
}

static void trim(Text *out)
{
    while (out->length && out->data[out->length - 1] == ' ')
        out->data[--out->length] = 0;
}

// One record on one line, in columns; the caller ends the line.
static void print_row(const Plan *plan, RecordKind kind, uint32_t index, const Widths *widths, Text *out)
{
    const RecordInfo *info = record_info(kind);
    Text cell = {0};
    text_append(out, info->keyword);
    print_id(plan, kind, index, &cell);
    print_cell(out, &cell, widths->id, " ");
    for (int f = 0; info->fields[f].key; f++) {
        print_field(plan, &info->fields[f], record_at(plan, kind, index), &cell);
        print_cell(out, &cell, widths->field[f], info->fields[f].positional ? " " : "  ");
    }
    text_free(&cell);
}

static void print_table(const Plan *plan, RecordKind kind, const char *indent, Text *out)
{
    Widths widths = measure(plan, kind);
    for (uint32_t i = 0; i < record_count(plan, kind); i++) {
        text_append(out, indent);
        print_row(plan, kind, i, &widths, out);
        trim(out);
        print_comment(plan, kind, i, out);
    }
}

static void print_strategies(const Plan *plan, Text *out)
{
    Widths widths = measure(plan, RECORD_STRATEGY), traffic = measure(plan, RECORD_TRAFFIC);
    uint32_t levels = plan->cluster.level_count;
    for (uint32_t i = 0; i < plan->strategy_count; i++) {
        print_row(plan, RECORD_STRATEGY, i, &widths, out);
        trim(out);
        print_comment(plan, RECORD_STRATEGY, i, out);
        for (uint32_t l = 0; l < levels; l++) {
            text_append(out, "  ");
            print_row(plan, RECORD_TRAFFIC, i * levels + l, &traffic, out);
            trim(out);
            text_append(out, "\n");
        }
    }
}

// The second line of a step; none without operands.
static void print_operands(const Plan *plan, const Step *step, Text *out)
{
    const OpInfo *info = op_info((int)step->op);
    const int32_t *operands = step_operands(plan, step);
    bool any = false;
    for (uint32_t k = 0; k < info->operand_count; k++) {
        if (operands[k] == NONE)
            continue;
        text_format(out, "%s%s=", any ? " " : "    ", info->operands[k].name);
        print_name(out, plan->buffers[operands[k]].name);
        any = true;
    }
    if (any)
        text_append(out, "\n");
}

static void print_steps(const Plan *plan, Text *out)
{
    Widths widths = measure(plan, RECORD_STEP);
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        print_row(plan, RECORD_STEP, i, &widths, out);
        for (uint32_t k = 0; k < step->after_count; k++)
            text_format(out, "%s s%" PRIu32, k ? "" : "  after", plan->after[step->after_first + k]);
        trim(out);
        print_comment(plan, RECORD_STEP, i, out);
        print_operands(plan, step, out);
    }
}

void plan_print(const Plan *plan, Text *out)
{
    text_format(out, "hep_plan %d\n\n", PLAN_TEXT_VERSION);
    print_single(plan, RECORD_CLUSTER, out);
    print_table(plan, RECORD_LEVEL, "  ", out);
    print_table(plan, RECORD_PORT, "    ", out);
    print_table(plan, RECORD_LINK, "    ", out);
    print_single(plan, RECORD_DEVICE, out);
    text_append(out, "\n");
    print_single(plan, RECORD_MODEL, out);
    print_table(plan, RECORD_LAYER, "  ", out);
    text_append(out, "\n");
    print_single(plan, RECORD_PLAN, out);
    if (record_count(plan, RECORD_TRAINING))
        print_single(plan, RECORD_TRAINING, out);
    print_table(plan, RECORD_CHOICE, "  ", out);
    text_append(out, "\n");
    print_strategies(plan, out);
    text_append(out, "\n");
    print_table(plan, RECORD_GROUP, "", out);
    text_append(out, "\n");
    print_table(plan, RECORD_BUFFER, "", out);
    text_append(out, "\n");
    print_steps(plan, out);
}
