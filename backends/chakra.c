// See chakra.h. A step becomes one node, an exchange two per peer; a node depends on all nodes of the
// steps that `after` names and, where these do not imply it, of the step before it on its stream: exchanges
// follow each other by way of a computation, so that edges between all their nodes would add nothing but
// size. Sizes of collectives are what ASTRA-sim calls comm_size: the shard of an all-gather, the whole
// input of the others.
#include "backends/chakra.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "chakra.pb-c.h"

enum { ATTRIBUTES_MAX = 6 };

struct Chakra {
    const Plan *plan;
    uint64_t rank_count;
    uint32_t *group_ids;  // [group][rank of its first member], 0: no collective uses it
    uint64_t *first_node; // [step]
    uint32_t *node_count; // [step]
    int32_t *before;      // [step] the step before it on its stream, or NONE where `after` implies it or there is none
    uint32_t deps_max;    // of one step
};

bool chakra_available(void)
{
    return true;
}

static bool is_collective(const Step *step)
{
    OpShape shape = op_info((int)step->op)->shape;
    return shape == SHAPE_GATHER || shape == SHAPE_SCATTER || shape == SHAPE_REDUCE;
}

static uint32_t step_dependencies(const Chakra *chakra, uint32_t index, uint64_t *deps)
{
    const Step *step = &chakra->plan->steps[index];
    uint32_t count = 0;
    for (int64_t a = -1; a < (int64_t)step->after_count; a++) {
        int32_t from = a < 0 ? chakra->before[index] : (int32_t)chakra->plan->after[step->after_first + a];
        for (uint32_t n = 0; from != NONE && n < chakra->node_count[from]; n++) {
            if (deps)
                deps[count] = chakra->first_node[from] + n;
            count++;
        }
    }
    return count;
}

// `done[step][stream]`: the last step of the stream that is over when the step is, or NONE. Fills step `index` in.
// Returns whether one of the steps it waits for comes after `before`, on the stream of both.
static bool is_implied(const Plan *plan, uint32_t index, int32_t before, int32_t (*done)[STREAM_COUNT])
{
    const Step *step = &plan->steps[index];
    Stream own = step_stream(plan, step);
    bool implied = false;
    for (int s = 0; s < STREAM_COUNT; s++)
        done[index][s] = before == NONE ? NONE : done[before][s];
    for (uint32_t a = 0; a < step->after_count; a++) {
        const int32_t *other = done[plan->after[step->after_first + a]];
        implied = implied || other[own] >= before;
        for (int s = 0; s < STREAM_COUNT; s++)
            done[index][s] = other[s] > done[index][s] ? other[s] : done[index][s];
    }
    done[index][own] = (int32_t)index;
    return implied;
}

static void number_nodes(Chakra *chakra, Arena *arena)
{
    const Plan *plan = chakra->plan;
    int32_t last[STREAM_COUNT] = {NONE, NONE, NONE, NONE, NONE, NONE};
    int32_t(*done)[STREAM_COUNT] = arena_alloc_array(arena, (size_t)plan->step_count + 1, sizeof(*done));
    uint64_t next = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        const OpInfo *info = op_info((int)step->op);
        Stream stream = step_stream(plan, step);
        chakra->before[i] = is_implied(plan, i, last[stream], done) ? NONE : last[stream];
        last[stream] = (int32_t)i;
        chakra->first_node[i] = next;
        chakra->node_count[i] = 1;
        if (info->shape == SHAPE_EXCHANGE)
            chakra->node_count[i] = 2 * (uint32_t)(group_size(&plan->cluster, &plan->groups[step->group]) - 1);
        next += chakra->node_count[i];
        uint32_t deps = step_dependencies(chakra, i, NULL);
        chakra->deps_max = deps > chakra->deps_max ? deps : chakra->deps_max;
    }
}

static void number_groups(Chakra *chakra)
{
    const Plan *plan = chakra->plan;
    uint32_t next = 1;
    for (uint32_t g = 0; g < plan->group_count; g++) {
        bool used = false;
        for (uint32_t i = 0; i < plan->step_count && !used; i++)
            used = plan->steps[i].group == (int32_t)g && is_collective(&plan->steps[i]);
        for (uint64_t rank = 0; used && rank < chakra->rank_count; rank++)
            if (group_index(&plan->cluster, &plan->groups[g], rank) == 0)
                chakra->group_ids[g * chakra->rank_count + rank] = next++;
    }
}

const Chakra *chakra_create(const Plan *plan, Arena *arena)
{
    Chakra *chakra = arena_alloc(arena, sizeof(*chakra));
    size_t steps = (size_t)plan->step_count + 1;
    chakra->plan = plan;
    chakra->rank_count = cluster_gpus(&plan->cluster);
    chakra->group_ids =
        arena_alloc_array(arena, ((size_t)plan->group_count + 1) * chakra->rank_count, sizeof(*chakra->group_ids));
    chakra->first_node = arena_alloc_array(arena, steps, sizeof(*chakra->first_node));
    chakra->node_count = arena_alloc_array(arena, steps, sizeof(*chakra->node_count));
    chakra->before = arena_alloc_array(arena, steps, sizeof(*chakra->before));
    number_nodes(chakra, arena);
    number_groups(chakra);
    return chakra;
}

// ---- messages --------------------------------------------------------------------------------

typedef struct {
    Chakra__Node node;
    Chakra__Attribute attributes[ATTRIBUTES_MAX], *list[ATTRIBUTES_MAX];
} NodeMessage;

static Chakra__Attribute *add_attribute(NodeMessage *message, char *name, Chakra__Attribute__ValueCase kind)
{
    Chakra__Attribute *attribute = &message->attributes[message->node.n_attr];
    chakra__attribute__init(attribute);
    attribute->name = name;
    attribute->value_case = kind;
    message->list[message->node.n_attr++] = attribute;
    return attribute;
}

static void add_u64(NodeMessage *message, char *name, uint64_t value)
{
    add_attribute(message, name, CHAKRA__ATTRIBUTE__VALUE_UINT64_VAL)->uint64_val = value;
}

static void add_u32(NodeMessage *message, char *name, uint32_t value)
{
    add_attribute(message, name, CHAKRA__ATTRIBUTE__VALUE_UINT32_VAL)->uint32_val = value;
}

static void append_message(const ProtobufCMessage *message, Text *out)
{
    size_t length = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(length + 1);
    if (!bytes)
        memory_exhausted();
    for (size_t rest = length;; rest >>= 7) {
        uint8_t digit = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
        text_append_bytes(out, &digit, 1);
        if (rest <= 0x7f)
            break;
    }
    protobuf_c_message_pack(message, bytes);
    text_append_bytes(out, bytes, length);
    free(bytes);
}

// A figure as the integer nearest to it; a plan may claim more than integers hold.
static uint64_t whole(double figure)
{
    return figure < 0x1p62 ? (uint64_t)llround(figure) : UINT64_C(1) << 62;
}

static void begin_node(NodeMessage *message, uint64_t id, char *name, Chakra__NodeType type, const Step *step)
{
    chakra__node__init(&message->node);
    message->node.id = id;
    message->node.name = name;
    message->node.type = type;
    message->node.duration_micros = whole(ceil(step->cost_s * 1e6)); // 0 would mean unknown
    message->node.attr = message->list;
    add_attribute(message, "is_cpu_op", CHAKRA__ATTRIBUTE__VALUE_BOOL_VAL)->bool_val = false;
}

// ---- steps -----------------------------------------------------------------------------------

static char *step_name(const Plan *plan, uint32_t index, const char *what, char out[128])
{
    const Step *step = &plan->steps[index];
    int used = snprintf(out, 128, "s%" PRIu32 ".%s%s", index, op_info((int)step->op)->name, what);
    if (step->layer != NONE)
        snprintf(out + used, 128 - (size_t)used, ".L%" PRId32, step->layer);
    return out;
}

static uint64_t collective_size(const Plan *plan, const Step *step)
{
    double members = (double)group_size(&plan->cluster, &plan->groups[step->group]), others = members - 1;
    if (others < 1)
        return 0;
    switch (op_info((int)step->op)->shape) {
    case SHAPE_GATHER:
        return whole(step->bytes / others);
    case SHAPE_SCATTER:
        return whole(step->bytes / others * members);
    case SHAPE_REDUCE: // every member sends its part of the sum twice, but to itself
        return whole(step->bytes * members / (2 * others));
    case SHAPE_LOCAL:
    case SHAPE_EXCHANGE:
        break;
    }
    return 0;
}

static uint64_t collective_type(const Step *step)
{
    OpShape shape = op_info((int)step->op)->shape;
    return shape == SHAPE_GATHER    ? CHAKRA__COLLECTIVE_TYPE__ALL_GATHER
           : shape == SHAPE_SCATTER ? CHAKRA__COLLECTIVE_TYPE__REDUCE_SCATTER
                                    : CHAKRA__COLLECTIVE_TYPE__ALL_REDUCE;
}

// `name` holds the group's id until the message is written.
static void add_collective(const Chakra *chakra, uint64_t rank, const Step *step, char name[16], NodeMessage *message)
{
    const Plan *plan = chakra->plan;
    uint64_t first = group_member_rank(&plan->cluster, &plan->groups[step->group], rank, 0);
    snprintf(name, 16, "%" PRIu32, chakra->group_ids[(uint64_t)step->group * chakra->rank_count + first]);
    add_u64(message, "comm_type", collective_type(step));
    add_u64(message, "comm_size", collective_size(plan, step));
    add_attribute(message, "pg_name", CHAKRA__ATTRIBUTE__VALUE_STRING_VAL)->string_val = name;
    add_u32(message, "comm_priority", 0);
}

// What goes to one peer: whole bytes that add up to what the plan says, the same at both ends.
static uint64_t peer_bytes(const Step *step, uint64_t from, uint64_t to, uint64_t members)
{
    uint64_t total = whole(step->bytes), others = members - 1;
    uint64_t place = (to + members - from) % members - 1;
    return total / others + (place < total % others);
}

static void print_exchange(const Chakra *chakra, uint64_t rank, uint32_t index, uint64_t *deps, uint32_t dep_count,
                           Text *out)
{
    const Plan *plan = chakra->plan;
    const Step *step = &plan->steps[index];
    const Group *group = &plan->groups[step->group];
    uint64_t members = group_size(&plan->cluster, group), own = group_index(&plan->cluster, group, rank);
    uint64_t id = chakra->first_node[index];
    for (uint64_t m = 0; m < members; m++) {
        uint32_t peer = (uint32_t)group_member_rank(&plan->cluster, group, rank, m);
        for (int receives = 0; m != own && receives < 2; receives++) {
            NodeMessage message;
            char name[128];
            begin_node(&message, id++, step_name(plan, index, receives ? ".recv" : ".send", name),
                       receives ? CHAKRA__NODE_TYPE__COMM_RECV_NODE : CHAKRA__NODE_TYPE__COMM_SEND_NODE, step);
            message.node.data_deps = deps;
            message.node.n_data_deps = dep_count;
            add_u32(&message, "comm_src", receives ? peer : (uint32_t)rank);
            add_u32(&message, "comm_dst", receives ? (uint32_t)rank : peer);
            add_u64(&message, "comm_size",
                    receives ? peer_bytes(step, m, own, members) : peer_bytes(step, own, m, members));
            add_u32(&message, "comm_tag", index);
            append_message(&message.node.base, out);
        }
    }
}

static void print_node(const Chakra *chakra, uint64_t rank, uint32_t index, uint64_t *deps, uint32_t dep_count,
                       Text *out)
{
    const Step *step = &chakra->plan->steps[index];
    NodeMessage message;
    char name[128], group[16];
    bool collective = is_collective(step);
    begin_node(&message, chakra->first_node[index], step_name(chakra->plan, index, "", name),
               collective ? CHAKRA__NODE_TYPE__COMM_COLL_NODE : CHAKRA__NODE_TYPE__COMP_NODE, step);
    message.node.data_deps = deps;
    message.node.n_data_deps = dep_count;
    if (collective)
        add_collective(chakra, rank, step, group, &message);
    else
        add_u64(&message, "num_ops", whole(step->cost_s * chakra->plan->cluster.device.compute_flops));
    append_message(&message.node.base, out);
}

void chakra_print_rank(const Chakra *chakra, uint64_t rank, Text *out)
{
    const Plan *plan = chakra->plan;
    Chakra__GlobalMetadata metadata = CHAKRA__GLOBAL_METADATA__INIT;
    metadata.version = "0.0.4";
    append_message(&metadata.base, out);
    uint64_t *deps = malloc(((size_t)chakra->deps_max + 1) * sizeof(*deps));
    if (!deps)
        memory_exhausted();
    for (uint32_t i = 0; i < plan->step_count; i++) {
        uint32_t count = step_dependencies(chakra, i, deps);
        if (op_info((int)plan->steps[i].op)->shape == SHAPE_EXCHANGE)
            print_exchange(chakra, rank, i, deps, count, out);
        else
            print_node(chakra, rank, i, deps, count, out);
    }
    free(deps);
}

void chakra_print_groups(const Chakra *chakra, Text *out)
{
    const Plan *plan = chakra->plan;
    bool any = false;
    text_append(out, "{");
    for (uint32_t g = 0; g < plan->group_count; g++) {
        for (uint64_t rank = 0; rank < chakra->rank_count; rank++) {
            uint32_t id = chakra->group_ids[g * chakra->rank_count + rank];
            if (id == 0)
                continue;
            text_format(out, "%s\n  \"%" PRIu32 "\": [", any ? "," : "", id);
            uint64_t members = group_size(&plan->cluster, &plan->groups[g]);
            for (uint64_t m = 0; m < members; m++)
                text_format(out, "%s%" PRIu64, m ? ", " : "",
                            group_member_rank(&plan->cluster, &plan->groups[g], rank, m));
            text_append(out, "]");
            any = true;
        }
    }
    text_append(out, any ? "\n}\n" : "}\n");
}
