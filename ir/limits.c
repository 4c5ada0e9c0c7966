// What every user of a plan relies on before it walks one: plan_within_limits of schema.h. Says
// nothing about whether the schedule makes sense; that is the verifier's part.
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/schema.h"
#include "ir/unroll.h"

static const uint64_t gpus_max = UINT64_C(1) << 31;
static const double elements_max = 0x1p53; // of one weight tensor

typedef struct {
    const Plan *plan;
    RecordPlace place; // of what is wrong
    Fault *fault;
} Check;

void plan_describe_record(const Plan *plan, RecordKind kind, uint32_t index, char *out, size_t size)
{
    const RecordInfo *info = record_info(kind);
    const void *record = record_at(plan, kind, index);
    const Field *first = &info->fields[0];
    const char *label = NULL;
    if (first->type == FIELD_NAME)
        label = *(const char *const *)((const char *)record + first->offset);
    else if (first->positional && first->names)
        label = name_text(first->names, (int)*(const uint32_t *)((const char *)record + first->offset));
    if (record_is_single(kind) && !label) {
        snprintf(out, size, "%s", info->keyword);
    } else if (info->id != 0 || !label) {
        int used = snprintf(out, size, "%s %" PRIu32, info->keyword, index);
        if (label && used > 0 && (size_t)used < size)
            snprintf(out + used, size - (size_t)used, " ('%s')", label);
    } else {
        snprintf(out, size, "%s '%s'", info->keyword, label);
    }
}

static PRINTF_LIKE(4, 5) bool fail(Check *check, RecordKind record, uint32_t index, const char *format, ...)
{
    char message[240], place[NAME_BYTES_MAX + 64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    plan_describe_record(check->plan, record, index, place, sizeof(place));
    check->place = (RecordPlace){record, index};
    fault_set(check->fault, FAULT_INPUT, "%.120s: %s", place, message);
    check->fault->step = record == RECORD_STEP ? (int64_t)index : -1;
    return false;
}

// ---- fields ------------------------------------------------------------------------------------

// Names are at most NAME_BYTES_MAX bytes without control characters, and not empty.
static bool check_name(Check *check, RecordKind kind, uint32_t index, const Field *field, const char *name)
{
    if (!name || (!name[0] && field->positional))
        return fail(check, kind, index, "'%s' is empty", field->key);
    if (strnlen(name, NAME_BYTES_MAX + 1) > NAME_BYTES_MAX)
        return fail(check, kind, index, "'%s' is longer than %d bytes", field->key, NAME_BYTES_MAX);
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return fail(check, kind, index, "'%s' holds a control character", field->key);
    return true;
}

static bool check_index(Check *check, RecordKind kind, uint32_t index, const Field *field, int32_t value,
                        uint32_t count)
{
    if (value < NONE || (value != NONE && (uint32_t)value >= count))
        return fail(check, kind, index, "'%s' is %" PRId32 ", and there are %" PRIu32, field->key, value, count);
    return true;
}

static bool check_domain(Check *check, RecordKind kind, uint32_t index, const uint32_t *domain)
{
    for (uint32_t l = 0; l < check->plan->cluster.level_count; l++)
        if (domain[l] == 0)
            return fail(check, kind, index, "the domain size of level %" PRIu32 " is 0", l);
    return true;
}

static bool check_field(Check *check, RecordKind kind, uint32_t index, const Field *field, const void *value)
{
    const Plan *plan = check->plan;
    switch (field->type) {
    case FIELD_NAME:
        return check_name(check, kind, index, field, *(const char *const *)value);
    case FIELD_NUMBER:
        if (!isfinite(*(const double *)value) || *(const double *)value < 0)
            return fail(check, kind, index, "'%s' is %g: expected a finite number that is not negative", field->key,
                        *(const double *)value);
        return true;
    case FIELD_LAYER:
        return check_index(check, kind, index, field, *(const int32_t *)value, plan->model.layers);
    case FIELD_LEVEL:
        return check_index(check, kind, index, field, *(const int32_t *)value, plan->cluster.level_count);
    case FIELD_GROUP:
        return check_index(check, kind, index, field, *(const int32_t *)value, plan->group_count);
    case FIELD_DOMAIN:
        return check_domain(check, kind, index, value);
    case FIELD_BOOL:
    case FIELD_U32:
    case FIELD_U64:
        return true;
    case FIELD_ONE_OF:
        if (!name_text(field->names, *(const int *)value))
            return fail(check, kind, index, "unknown code %d for '%s'", *(const int *)value, field->key);
        return true;
    case FIELD_TYPE_COUNT:
        break;
    }
    return true;
}

static bool check_fields(Check *check)
{
    for (int kind = 0; kind < RECORD_COUNT; kind++) {
        const Field *fields = record_info((RecordKind)kind)->fields;
        for (uint32_t i = 0; i < record_count(check->plan, (RecordKind)kind); i++) {
            const char *record = record_at(check->plan, (RecordKind)kind, i);
            for (const Field *field = fields; field->key; field++)
                if (!check_field(check, (RecordKind)kind, i, field, record + field->offset))
                    return false;
        }
    }
    return true;
}

// ---- records -----------------------------------------------------------------------------------

static bool check_counts(Check *check)
{
    const Plan *plan = check->plan;
    const struct {
        RecordKind kind;
        uint32_t count, least, most;
    } counts[] = {
        {RECORD_LEVEL, plan->cluster.level_count, 1, LEVELS_MAX},
        {RECORD_PORT, plan->cluster.port_count, 0, PLAN_PORTS_MAX},
        {RECORD_LINK, plan->cluster.link_count, 0, PLAN_LINKS_MAX},
        {RECORD_LAYER, plan->layer_count, 0, PLAN_LAYERS_MAX},
        {RECORD_CHOICE, plan->choice_count, 0, plan->model.layers},
        {RECORD_STRATEGY, plan->strategy_count, 0, PLAN_STRATEGIES_MAX},
        {RECORD_GROUP, plan->group_count, 0, PLAN_GROUPS_MAX},
        {RECORD_BUFFER, plan->buffer_count, 0, PLAN_BUFFERS_MAX},
        {RECORD_STEP, plan->step_count, 0, PLAN_STEPS_MAX},
    };
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        if (counts[i].count < counts[i].least || counts[i].count > counts[i].most)
            return fail(check, RECORD_PLAN, 0, "%" PRIu32 " '%s' records: expected %" PRIu32 " to %" PRIu32,
                        counts[i].count, record_info(counts[i].kind)->keyword, counts[i].least, counts[i].most);
    return true;
}

static bool check_cluster(Check *check)
{
    const Cluster *cluster = &check->plan->cluster;
    uint64_t gpus = 1;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        if (cluster->levels[l].count == 0)
            return fail(check, RECORD_LEVEL, l, "'count' is 0");
        if (cluster->levels[l].bandwidth_bytes_per_s <= 0)
            return fail(check, RECORD_LEVEL, l, "'bandwidth' is 0");
        if (!checked_mul(gpus, cluster->levels[l].count, &gpus) || gpus > gpus_max)
            return fail(check, RECORD_CLUSTER, 0, "more than %" PRIu64 " GPUs", gpus_max);
        for (uint32_t other = 0; other < l; other++)
            if (strcmp(cluster->levels[l].name, cluster->levels[other].name) == 0)
                return fail(check, RECORD_LEVEL, l, "two levels have this name");
    }
    return true;
}

static int compare_port_names(const void *a, const void *b)
{
    const WorkerPort *x = *(const WorkerPort *const *)a, *y = *(const WorkerPort *const *)b;
    int by_name = strcmp(x->name, y->name);
    return by_name ? by_name : (x > y) - (x < y);
}

// Every worker has one port, and a name of its own.
static bool check_port_workers(Check *check, Arena *scratch)
{
    const Cluster *cluster = &check->plan->cluster;
    bool *placed = arena_alloc_array(scratch, cluster->port_count, sizeof(*placed));
    const WorkerPort **sorted = arena_alloc_array(scratch, cluster->port_count, sizeof(*sorted));
    for (uint32_t i = 0; i < cluster->port_count; i++) {
        const WorkerPort *port = &cluster->ports[i];
        if (port->worker >= cluster->port_count || placed[port->worker])
            return fail(check, RECORD_PORT, i, "'worker' is %" PRIu32 ": expected each of 0 to %" PRIu32 " once",
                        port->worker, cluster->port_count - 1);
        placed[port->worker] = true;
        sorted[i] = port;
        if (port->bandwidth_bytes_per_s <= 0)
            return fail(check, RECORD_PORT, i, "'bandwidth' is 0");
    }
    qsort(sorted, cluster->port_count, sizeof(*sorted), compare_port_names);
    for (uint32_t i = 1; i < cluster->port_count; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return fail(check, RECORD_PORT, (uint32_t)(sorted[i] - cluster->ports), "two ports have this name");
    return true;
}

static bool check_ports(Check *check)
{
    const Cluster *cluster = &check->plan->cluster;
    if (cluster->port_count == 0)
        return true;
    if (cluster->port_count != cluster->levels[0].count)
        return fail(check, RECORD_PORT, 0, "%" PRIu32 " ports: expected one for each of the %" PRIu32 " workers",
                    cluster->port_count, cluster->levels[0].count);
    Arena *scratch = arena_create();
    bool good = check_port_workers(check, scratch);
    arena_destroy(scratch);
    return good;
}

static bool check_links(Check *check)
{
    const Cluster *cluster = &check->plan->cluster;
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i], *last = i ? link - 1 : NULL;
        if (link->a >= link->b || link->b >= cluster->port_count)
            return fail(check, RECORD_LINK, i,
                        "from %" PRIu32 " to %" PRIu32 ": expected two positions of the %" PRIu32
                        " ports, the smaller first",
                        link->a, link->b, cluster->port_count);
        if (last && (last->a > link->a || (last->a == link->a && last->b >= link->b)))
            return fail(check, RECORD_LINK, i, "links must ascend, and each pair has one");
        if (link->bandwidth_bytes_per_s <= 0)
            return fail(check, RECORD_LINK, i, "'bandwidth' is 0");
    }
    return true;
}

// Some level trains apart, and one inside it shares weights out.
static bool check_local_steps(Check *check)
{
    const Plan *plan = check->plan;
    const LocalSteps *sync = &plan->sync;
    if (sync->every > 0 && (plan->replica_levels == 0 || plan->replica_levels >= plan->cluster.level_count))
        return fail(check, RECORD_PLAN, 0,
                    "'sync_every' is %" PRIu32 " with 'replica_levels' %" PRIu32
                    ": expected some level that trains apart, and one inside it",
                    sync->every, plan->replica_levels);
    if (!(sync->learning_rate >= 0) || !(sync->momentum >= 0 && sync->momentum < 1))
        return fail(check, RECORD_PLAN, 0,
                    "'outer_rate' is %g and 'outer_momentum' %g: expected numbers from 0 on, the latter less than 1",
                    sync->learning_rate, sync->momentum);
    return true;
}

// In doubles, which hold products that integers would not.
static bool check_model(Check *check)
{
    const Plan *plan = check->plan;
    const ModelDims *m = &plan->model;
    double hidden = m->hidden, matrices = activation_matrices(m->activation);
    double query = (double)m->heads * m->head_dim, key = (double)m->kv_heads * m->head_dim;
    const struct {
        const char *what;
        double elements;
    } tensors[] = {
        {"embedding", ((double)m->vocabulary + m->sequence + 2) * hidden},
        {"attention", 2 * hidden * (1 + query + key)},
        {"router", hidden * (2.0 + m->experts + m->zero_experts)},
        {"feed-forward", hidden * (2 + matrices * m->ffn_inner)},
        {"expert", matrices * hidden * m->inner * (1.0 + m->experts)},
        {"shared expert",
         matrices * hidden * (m->shared_inner ? m->shared_inner : (double)m->inner * m->shared_experts)},
        {"activation", (double)m->sequence * m->batch * hidden * (1.0 + m->top_k)},
    };
    if (m->layers == 0 || m->layers > PLAN_LAYERS_MAX)
        return fail(check, RECORD_MODEL, 0, "'layers' is %" PRIu32 ": expected 1 to %d", m->layers, PLAN_LAYERS_MAX);
    for (size_t i = 0; i < COUNT_OF(tensors); i++)
        if (tensors[i].elements > elements_max)
            return fail(check, RECORD_MODEL, 0, "the %s tensors have more than 2^53 elements", tensors[i].what);
    if (m->experts > INT32_MAX || (!m->abstract && m->top_k > m->experts))
        return fail(check, RECORD_MODEL, 0, "'top_k' is %" PRIu32 " of %" PRIu32 " experts", m->top_k, m->experts);
    if (m->groups > MODEL_GROUPS_MAX)
        return fail(check, RECORD_MODEL, 0, "'groups' is %" PRIu32 ": expected at most %d", m->groups,
                    MODEL_GROUPS_MAX);
    if (m->groups > 0 && (m->experts % m->groups != 0 || m->group_top_k == 0 || m->group_top_k > m->groups))
        return fail(check, RECORD_MODEL, 0,
                    "'group_top_k' is %" PRIu32 " of %" PRIu32 " groups of %" PRIu32 " experts: expected equal groups, "
                    "and at most all of them",
                    m->group_top_k, m->groups, m->experts);
    if (m->groups > 0 && m->top_k > (uint64_t)m->experts / m->groups * m->group_top_k)
        return fail(check, RECORD_MODEL, 0, "'top_k' is %" PRIu32 ", and %" PRIu32 " groups have fewer experts",
                    m->top_k, m->group_top_k);
    if (m->expert_bits > BITS_MAX)
        return fail(check, RECORD_MODEL, 0, "'expert_bits' is more than %d", BITS_MAX);
    const uint32_t whole[] = {plan->experts.whole_levels, plan->dense.whole_levels};
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        if (whole[i] >= plan->cluster.level_count && whole[i] > 0)
            return fail(check, RECORD_PLAN, 0, "'%s' is %" PRIu32 ", and there are %" PRIu32 " levels",
                        i == 0 ? "whole_levels" : "dense_whole_levels", whole[i], plan->cluster.level_count);
    if (plan->replica_levels > plan->cluster.level_count)
        return fail(check, RECORD_PLAN, 0, "'replica_levels' is %" PRIu32 ", and there are %" PRIu32 " levels",
                    plan->replica_levels, plan->cluster.level_count);
    if (plan->outer_levels > plan->cluster.level_count)
        return fail(check, RECORD_PLAN, 0, "'outer_levels' is %" PRIu32 ", and there are %" PRIu32 " levels",
                    plan->outer_levels, plan->cluster.level_count);
    if (plan->once_dense > plan->cluster.level_count)
        return fail(check, RECORD_PLAN, 0, "'once_dense' is %" PRIu32 ", and there are %" PRIu32 " levels",
                    plan->once_dense, plan->cluster.level_count);
    if (plan->once_dense_gradient > plan->cluster.level_count)
        return fail(check, RECORD_PLAN, 0, "'once_dense_gradient' is %" PRIu32 ", and there are %" PRIu32 " levels",
                    plan->once_dense_gradient, plan->cluster.level_count);
    if (!m->abstract && plan->choice_count > 0 && m->experts == 0)
        return fail(check, RECORD_MODEL, 0, "'experts' is 0, and there are layers with experts");
    return true;
}

// That unrolling (unroll.h) stays within bounds, too.
static bool check_micro_batches(Check *check)
{
    const Plan *plan = check->plan;
    if (plan->micro_batches == 0 || plan->micro_batches > PLAN_MICRO_BATCHES_MAX)
        return fail(check, RECORD_PLAN, 0, "'micro_batches' is %" PRIu32 ": expected 1 to %d", plan->micro_batches,
                    PLAN_MICRO_BATCHES_MAX);
    if (plan->lap > 0 && (plan->lap >= plan->micro_batches || plan->micro_batches % plan->lap != 0))
        return fail(check, RECORD_PLAN, 0,
                    "'lap' is %" PRIu32 ": expected less than the %" PRIu32
                    " micro-batches, which it divides, or 0 for all of them",
                    plan->lap, plan->micro_batches);
    uint32_t each = plan_laps(plan).each;
    if (plan->abreast == 1 || plan->abreast > PLAN_ABREAST_MAX || (plan->abreast > 0 && each % plan->abreast != 0))
        return fail(check, RECORD_PLAN, 0,
                    "'abreast' is %" PRIu32 ": expected 2 to %d, a divisor of the %" PRIu32
                    " micro-batches of a lap, or 0 for none",
                    plan->abreast, PLAN_ABREAST_MAX, each);
    if (plan->bucket > PLAN_BUCKET_MAX || (plan->bucket > 0 && plan->pass == PASS_FORWARD))
        return fail(check, RECORD_PLAN, 0, "'bucket' is %" PRIu32 ": expected %s", plan->bucket,
                    plan->pass == PASS_FORWARD ? "0 in a forward pass" : "at most 8 layers");
    uint64_t runs = plan_executions(plan);
    if (plan->micro_batches > 1 && runs > PLAN_UNROLLED_STEPS_MAX)
        return fail(check, RECORD_PLAN, 0,
                    "%" PRIu32 " micro-batches make %" PRIu64 " executions of steps: expected at most %d",
                    plan->micro_batches, runs, PLAN_UNROLLED_STEPS_MAX);
    return true;
}

// All layers of the model, or none.
static bool check_layers(Check *check)
{
    const Plan *plan = check->plan;
    if (plan->layer_count > 0 && plan->layer_count != plan->model.layers)
        return fail(check, RECORD_LAYER, 0, "%" PRIu32 " 'layer' records: expected one for each of %" PRIu32 " layers",
                    plan->layer_count, plan->model.layers);
    for (uint32_t i = 0; i < plan->layer_count; i++) {
        if (plan->layers[i].elements == 0 || (double)plan->layers[i].elements > elements_max)
            return fail(check, RECORD_LAYER, i, "'elements' must be from 1 to 2^53");
        if (plan->layers[i].bits > BITS_MAX)
            return fail(check, RECORD_LAYER, i, "'bits' is more than %d", BITS_MAX);
    }
    return true;
}

static bool check_groups(Check *check)
{
    for (uint32_t i = 0; i < check->plan->group_count; i++) {
        const Group *group = &check->plan->groups[i];
        if (group->domain == 0)
            return fail(check, RECORD_GROUP, i, "'domain' is 0");
        if ((group->kind == GROUP_WORLD) != (group->level == NONE))
            return fail(check, RECORD_GROUP, i, "a 'world' group has no level, every other kind has one");
    }
    return true;
}

static bool check_buffers(Check *check)
{
    for (uint32_t i = 0; i < check->plan->buffer_count; i++) {
        const Buffer *buffer = &check->plan->buffers[i];
        uint64_t bytes;
        if (!plan_buffer_bytes(check->plan, buffer, &bytes) || !checked_add(bytes, buffer->offset, &bytes) ||
            bytes > INT64_MAX)
            return fail(check, RECORD_BUFFER, i, "its size or end exceeds 63 bits");
    }
    return true;
}

static int compare_names(const void *a, const void *b)
{
    const Buffer *x = *(const Buffer *const *)a, *y = *(const Buffer *const *)b;
    int by_name = strcmp(x->name, y->name);
    return by_name ? by_name : (x > y) - (x < y);
}

static bool check_buffer_names(Check *check)
{
    const Plan *plan = check->plan;
    Arena *scratch = arena_create();
    const Buffer **sorted = arena_alloc_array(scratch, (size_t)plan->buffer_count + 1, sizeof(*sorted));
    for (uint32_t i = 0; i < plan->buffer_count; i++)
        sorted[i] = &plan->buffers[i];
    qsort(sorted, plan->buffer_count, sizeof(*sorted), compare_names);
    bool unique = true;
    for (uint32_t i = 1; i < plan->buffer_count && unique; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            unique = fail(check, RECORD_BUFFER, (uint32_t)(sorted[i] - plan->buffers), "two buffers have this name");
    arena_destroy(scratch);
    return unique;
}

static bool check_steps(Check *check)
{
    const Plan *plan = check->plan;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        uint32_t operand_count = op_info((int)step->op)->operand_count;
        if (step->operand_first > plan->operand_count || plan->operand_count - step->operand_first < operand_count)
            return fail(check, RECORD_STEP, i, "its operands lie outside the plan");
        if (step->after_first > plan->after_count || plan->after_count - step->after_first < step->after_count)
            return fail(check, RECORD_STEP, i, "its 'after' edges lie outside the plan");
        for (uint32_t k = 0; k < operand_count; k++) {
            int32_t operand = step_operands(plan, step)[k];
            if (operand < NONE || (operand != NONE && (uint32_t)operand >= plan->buffer_count))
                return fail(check, RECORD_STEP, i, "operand '%s' is buffer %" PRId32 ", and there are %" PRIu32,
                            op_info((int)step->op)->operands[k].name, operand, plan->buffer_count);
        }
        for (uint32_t k = 0; k < step->after_count; k++)
            if (plan->after[step->after_first + k] >= plan->step_count)
                return fail(check, RECORD_STEP, i, "waits for step %" PRIu32 ", and there are %" PRIu32,
                            plan->after[step->after_first + k], plan->step_count);
    }
    return true;
}

bool plan_within_limits(const Plan *plan, RecordPlace *place, Fault *fault)
{
    Check check = {.plan = plan, .fault = fault};
    bool ok = check_counts(&check) && check_fields(&check) && check_cluster(&check) && check_ports(&check) &&
              check_links(&check) && check_model(&check) && check_local_steps(&check) && check_layers(&check) &&
              check_groups(&check) && check_micro_batches(&check) && check_buffers(&check) &&
              check_buffer_names(&check) && check_steps(&check);
    if (place)
        *place = check.place;
    return ok;
}
