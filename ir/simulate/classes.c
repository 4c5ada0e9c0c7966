// See classes.h. Colour refinement: workers start sorted by their ports; two of one class are split while the classes
// and links of their peers differ in some group. What a worker sees is kept as a sum of 64-bit hashes, one per peer.
#include "ir/simulate/classes.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Plan *plan;
    uint32_t workers;
    uint32_t *class;     // of each worker
    uint64_t *sight;     // what each worker sees: hashes
    uint64_t *group_sum; // of the groups of one formula: hashes of the members' classes
} Refinement;

static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static uint64_t hash_number(uint64_t seed, double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof(bits));
    return mix(seed ^ mix(bits + 0x9e3779b97f4a7c15u));
}

static uint64_t hash_class(uint32_t class)
{
    return mix(class + 0x632be59bd9b4e019u);
}

static bool is_outermost(const Group *group)
{
    return group->level <= 0; // WORLD included
}

// Which of the groups of one formula a worker of the outermost level is in.
static uint32_t group_of(const Group *group, uint32_t worker)
{
    if (group->kind == GROUP_GATHER)
        return worker / group->domain;
    return group->kind == GROUP_EXCHANGE ? worker % group->domain : 0;
}

// Which of the plan's groups two workers of the outermost level share.
static uint64_t membership(const Plan *plan, uint32_t a, uint32_t b)
{
    uint64_t hash = 0;
    for (uint32_t g = 0; g < plan->group_count; g++)
        if (is_outermost(&plan->groups[g]) && group_of(&plan->groups[g], a) == group_of(&plan->groups[g], b))
            hash += mix(g + 1);
    return hash;
}

// Adds the classes of the peers that workers have in groups of this formula.
static void see_peers(Refinement *refinement, const Group *group, uint64_t salt)
{
    memset(refinement->group_sum, 0, refinement->workers * sizeof(*refinement->group_sum));
    for (uint32_t w = 0; w < refinement->workers; w++)
        refinement->group_sum[group_of(group, w)] += hash_class(refinement->class[w]);
    for (uint32_t w = 0; w < refinement->workers; w++)
        refinement->sight[w] += salt * (refinement->group_sum[group_of(group, w)] - hash_class(refinement->class[w]));
}

// Adds the links that workers have of their own, each with the class at its other end and the groups it serves.
static void see_links(Refinement *refinement)
{
    const Cluster *cluster = &refinement->plan->cluster;
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i];
        uint64_t shared = membership(refinement->plan, link->a, link->b);
        uint64_t hash = hash_number(hash_number(shared, link->bandwidth_bytes_per_s), link->latency_s);
        refinement->sight[link->a] += mix(hash ^ hash_class(refinement->class[link->b]));
        refinement->sight[link->b] += mix(hash ^ hash_class(refinement->class[link->a]));
    }
}

// Numbers the distinct values of `sight` in the order they appear; returns how many, at most CLASSES_MAX + 1.
static uint32_t number_classes(Refinement *refinement)
{
    uint64_t seen[CLASSES_MAX];
    uint32_t count = 0;
    for (uint32_t w = 0; w < refinement->workers; w++) {
        uint32_t c = 0;
        while (c < count && seen[c] != refinement->sight[w])
            c++;
        if (c == CLASSES_MAX)
            return CLASSES_MAX + 1;
        if (c == count)
            seen[count++] = refinement->sight[w];
        refinement->class[w] = c;
    }
    return count;
}

// The number of classes; above CLASSES_MAX there are too many.
static uint32_t refine(Refinement *refinement)
{
    const Plan *plan = refinement->plan;
    for (uint32_t w = 0; w < refinement->workers; w++) {
        const WorkerPort *port = &plan->cluster.ports[w];
        refinement->sight[w] = hash_number(hash_number(0, port->bandwidth_bytes_per_s), port->latency_s);
    }
    uint32_t count = number_classes(refinement), before = 0;
    while (count > before && count <= CLASSES_MAX) {
        before = count;
        for (uint32_t w = 0; w < refinement->workers; w++)
            refinement->sight[w] = hash_class(refinement->class[w]);
        for (uint32_t g = 0; g < plan->group_count; g++)
            if (is_outermost(&plan->groups[g]))
                see_peers(refinement, &plan->groups[g], mix(g + 1) | 1);
        see_links(refinement);
        count = number_classes(refinement);
    }
    return count;
}

// ---- flows -----------------------------------------------------------------------------------

static uint32_t find_link_kind(Classes *classes, LinkKind wanted)
{
    uint32_t i = 0;
    while (i < classes->link_count) {
        const LinkKind *kind = &classes->links[i];
        if (kind->from == wanted.from && kind->to == wanted.to && kind->membership == wanted.membership &&
            kind->bytes_per_s == wanted.bytes_per_s && kind->latency_s == wanted.latency_s)
            return i;
        i++;
    }
    classes->links[classes->link_count++] = wanted;
    return i;
}

static FlowKind *find_kind(FlowKinds *flows, FlowKind wanted)
{
    for (uint32_t i = 0; i < flows->count; i++) {
        FlowKind *kind = &flows->kinds[i];
        if (kind->from == wanted.from && kind->to == wanted.to && kind->link == wanted.link &&
            kind->latency_s == wanted.latency_s)
            return kind;
    }
    return NULL;
}

static void add_flow(FlowKinds *flows, FlowKind flow)
{
    FlowKind *kind = find_kind(flows, flow);
    if (!kind) {
        kind = &flows->kinds[flows->count++];
        *kind = flow;
    }
    kind->count += 1;
}

// links[b]: the link between `worker` and position b; NULL where they have none of their own.
static void find_links(const Cluster *cluster, uint32_t worker, const WorkerLink *links[])
{
    memset(links, 0, cluster->port_count * sizeof(*links));
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i];
        if (link->a == worker || link->b == worker)
            links[link->a == worker ? link->b : link->a] = link;
    }
}

static FlowKind flow_between(const Plan *plan, Classes *classes, uint32_t worker, uint32_t peer, const WorkerLink *link)
{
    const Cluster *cluster = &plan->cluster;
    FlowKind flow = {.from = classes->of[worker], .to = classes->of[peer], .link = NO_LINK};
    flow.latency_s = link ? link->latency_s : fmax(cluster->ports[worker].latency_s, cluster->ports[peer].latency_s);
    if (link) {
        double bytes_per_s = link->bandwidth_bytes_per_s / (double)cluster_gpus_below(cluster, 0);
        LinkKind kind = {flow.from, flow.to, membership(plan, worker, peer), bytes_per_s, flow.latency_s};
        flow.link = find_link_kind(classes, kind);
    }
    return flow;
}

// What `count_in` of a kind is: the count of the way back, over the same links.
static void count_ways_back(const Classes *classes, FlowKinds *flows)
{
    for (uint32_t i = 0; i < flows->count; i++) {
        FlowKind *kind = &flows->kinds[i];
        for (uint32_t k = 0; k < flows->count; k++) {
            const FlowKind *back = &flows->kinds[k];
            bool linked = kind->link != NO_LINK && back->link != NO_LINK;
            if (back->from == kind->to && back->to == kind->from && back->latency_s == kind->latency_s &&
                (linked ? classes->links[kind->link].membership == classes->links[back->link].membership &&
                              classes->links[kind->link].bytes_per_s == classes->links[back->link].bytes_per_s
                        : kind->link == back->link))
                kind->count_in = back->count;
        }
    }
}

// As each class's first worker sees its peers in groups of the formula: all of a class see the same.
static void find_flows(const Plan *plan, Classes *classes, const Group *group, FlowKinds *flows, Arena *arena)
{
    uint32_t workers = plan->cluster.port_count;
    const WorkerLink **links = arena_alloc_array(arena, workers, sizeof(*links));
    flows->kinds = arena_alloc_array(arena, (uint64_t)classes->count * workers, sizeof(*flows->kinds));
    for (uint32_t c = 0; c < classes->count; c++) {
        uint32_t worker = classes->first[c];
        find_links(&plan->cluster, worker, links);
        for (uint32_t peer = 0; peer < workers; peer++)
            if (peer != worker && group_of(group, peer) == group_of(group, worker))
                add_flow(flows, flow_between(plan, classes, worker, peer, links[peer]));
    }
    for (uint32_t i = 0; i < flows->count && group->kind == GROUP_WORLD; i++)
        flows->kinds[i].count *= (double)cluster_gpus_below(&plan->cluster, 0); // every GPU of a worker is a peer
    count_ways_back(classes, flows);
}

// Groups in which all members are alike: one kind of flow for each class, within it.
static void find_inner_flows(const Plan *plan, const Classes *classes, const Group *group, FlowKinds *flows,
                             Arena *arena)
{
    double peers = (double)group_size(&plan->cluster, group) - 1;
    flows->kinds = arena_alloc_array(arena, classes->count, sizeof(*flows->kinds));
    uint32_t level = group->level < 0 ? 0 : (uint32_t)group->level;
    for (uint32_t c = 0; c < classes->count && peers > 0; c++)
        flows->kinds[flows->count++] = (FlowKind){c, c, peers, peers, plan->cluster.levels[level].latency_s, NO_LINK};
}

// Of the slowest pair of workers in any group of the formula.
static void slow_down(const Plan *plan, Classes *classes, const Group *group, FlowKinds *flows, Arena *arena)
{
    uint32_t *linked = arena_alloc_array(arena, plan->cluster.port_count, sizeof(*linked));
    WorstPair worst = cluster_worst_pair(&plan->cluster, group, linked);
    for (uint32_t i = 0; i < flows->count; i++) {
        flows->kinds[i].latency_s = worst.latency_s;
        double bytes_per_s = 1 / worst.link_s_per_byte / (double)cluster_gpus_below(&plan->cluster, 0);
        if (worst.link_s_per_byte > 0)
            flows->kinds[i].link = find_link_kind(classes, (LinkKind){.bytes_per_s = bytes_per_s});
    }
}

static void list_classes(Classes *classes, uint32_t workers)
{
    memset(classes->workers, 0, CLASSES_MAX * sizeof(*classes->workers));
    for (uint32_t w = workers; w-- > 0;) {
        classes->first[classes->of[w]] = w;
        classes->workers[classes->of[w]]++;
    }
}

const Classes *classes_create(const Plan *plan, Arena *arena)
{
    Classes *classes = arena_alloc(arena, sizeof(*classes));
    uint32_t workers = plan->cluster.port_count;
    classes->count = 1;
    classes->first = arena_alloc_array(arena, CLASSES_MAX, sizeof(*classes->first));
    classes->workers = arena_alloc_array(arena, CLASSES_MAX, sizeof(*classes->workers));
    classes->workers[0] = plan->cluster.levels[0].count;
    if (workers > 0) {
        Refinement refinement = {.plan = plan, .workers = workers};
        refinement.class = arena_alloc_array(arena, workers, sizeof(*refinement.class));
        refinement.sight = arena_alloc_array(arena, workers, sizeof(*refinement.sight));
        refinement.group_sum = arena_alloc_array(arena, workers, sizeof(*refinement.group_sum));
        classes->count = refine(&refinement);
        classes->merged = classes->count > CLASSES_MAX;
        if (classes->merged) {
            classes->count = 1;
        } else {
            classes->of = refinement.class;
            list_classes(classes, workers);
        }
    }
    classes->flows = arena_alloc_array(arena, plan->group_count, sizeof(*classes->flows));
    uint64_t links = (uint64_t)classes->count * 2 * plan->cluster.link_count + plan->group_count;
    uint64_t pairs = (uint64_t)classes->count * workers;
    links = links < pairs ? links : pairs + plan->group_count;
    classes->links = arena_alloc_array(arena, links, sizeof(*classes->links));
    for (uint32_t g = 0; g < plan->group_count; g++) {
        const Group *group = &plan->groups[g];
        if (classes->of && is_outermost(group)) {
            find_flows(plan, classes, group, &classes->flows[g], arena);
            continue;
        }
        find_inner_flows(plan, classes, group, &classes->flows[g], arena);
        if (workers > 0 && is_outermost(group))
            slow_down(plan, classes, group, &classes->flows[g], arena);
    }
    return classes;
}

double classes_port(const Classes *classes, const Plan *plan, uint32_t class, uint32_t level)
{
    double bandwidth = plan->cluster.levels[level].bandwidth_bytes_per_s;
    if (level == 0 && classes->of)
        bandwidth = plan->cluster.ports[classes->first[class]].bandwidth_bytes_per_s;
    else if (level == 0 && classes->merged)
        bandwidth = cluster_slowest_port(&plan->cluster);
    return bandwidth / (double)cluster_gpus_below(&plan->cluster, level);
}
