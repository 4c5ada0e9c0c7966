// See sharing.h. Water-filling: rates rise together until a port or link is full; what passes it is fixed, the rest
// rises on. Every port that is the tightest for all of its flows is filled in the same round: what other ports do
// cannot change its flows any more, so a few rounds do whatever the number of heterogeneous ports.
#include "ir/simulate/sharing.h"

#include <math.h>
#include <string.h>

// A port, one way, of one GPU's share; or a link.
typedef struct {
    double left, weight; // bytes/s; flows that are not fixed yet
    double share;        // of one of these
    double least;        // that one of them gets on its whole path
} Resource;

struct Sharing {
    const Classes *classes;
    uint32_t level_count, resource_count, link_first;
    double *port;        // [class][level]
    Resource *resources; // [class][level][out, in], then links
    bool *touched;       // of each class
    bool any_touched;
    uint32_t *open;  // flows whose rates are sought
    double *allowed; // what the tightest of all that such a flow passes lets it have
};

Sharing *sharing_create(const Plan *plan, const Classes *classes, uint32_t flows_max, Arena *arena)
{
    Sharing *sharing = arena_alloc(arena, sizeof(*sharing));
    sharing->classes = classes;
    sharing->level_count = plan->cluster.level_count;
    sharing->link_first = 2 * classes->count * sharing->level_count;
    sharing->resource_count = sharing->link_first + classes->link_count;
    sharing->port = arena_alloc_array(arena, (uint64_t)classes->count * LEVELS_MAX, sizeof(*sharing->port));
    sharing->resources = arena_alloc_array(arena, sharing->resource_count, sizeof(*sharing->resources));
    sharing->touched = arena_alloc_array(arena, classes->count, sizeof(*sharing->touched));
    sharing->open = arena_alloc_array(arena, flows_max, sizeof(*sharing->open));
    sharing->allowed = arena_alloc_array(arena, flows_max, sizeof(*sharing->allowed));
    for (uint32_t c = 0; c < classes->count; c++)
        for (uint32_t l = 0; l < sharing->level_count; l++)
            sharing->port[c * LEVELS_MAX + l] = classes_port(classes, plan, c, l);
    return sharing;
}

void sharing_touch(Sharing *sharing, uint32_t class)
{
    sharing->touched[class] = sharing->any_touched = true;
}

static uint32_t port(const Sharing *sharing, uint32_t class, uint32_t level, bool in)
{
    return 2 * (class * sharing->level_count + level) + in;
}

SharedFlow sharing_flow(const Sharing *sharing, const FlowKind *kind, Transfer *transfer, uint32_t step, uint32_t level)
{
    SharedFlow flow = {.kind = kind, .transfer = transfer, .step = step};
    for (uint32_t l = level; l < sharing->level_count; l++) {
        uint32_t out = flow.hop_count++, in = flow.hop_count++;
        flow.hops[out].resource = port(sharing, kind->from, l, false);
        flow.hops[out].flows = kind->count;
        flow.hops[in].resource = port(sharing, kind->to, l, true);
        flow.hops[in].flows = kind->count_in;
    }
    if (kind->link != NO_LINK) {
        uint32_t link = flow.hop_count++;
        flow.hops[link].resource = sharing->link_first + kind->link;
        flow.hops[link].flows = 1;
    }
    return flow;
}

// Spreads `touched` to every class that shares a flow with a touched one.
static void spread(Sharing *sharing, const SharedFlow flows[], uint32_t count)
{
    for (bool grows = true; grows;) {
        grows = false;
        for (uint32_t i = 0; i < count; i++) {
            bool *from = &sharing->touched[flows[i].kind->from], *to = &sharing->touched[flows[i].kind->to];
            if (*from != *to)
                *from = *to = grows = true;
        }
    }
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

static void add_weight(const Sharing *sharing, const SharedFlow *flow)
{
    for (uint32_t h = 0; h < flow->hop_count; h++)
        sharing->resources[flow->hops[h].resource].weight += flow->hops[h].flows;
}

static void fix(const Sharing *sharing, const SharedFlow *flow, double rate)
{
    for (uint32_t h = 0; h < flow->hop_count; h++) {
        Resource *resource = &sharing->resources[flow->hops[h].resource];
        resource->weight -= flow->hops[h].flows;
        resource->left = fmax(0, resource->left - rate * flow->hops[h].flows);
    }
    flow->transfer->rate = rate;
}

static void find_allowed(Sharing *sharing, const SharedFlow flows[], uint32_t open_count)
{
    for (uint32_t r = 0; r < sharing->resource_count; r++) {
        Resource *resource = &sharing->resources[r];
        resource->share = resource->weight > 1e-9 ? resource->left / resource->weight : INFINITY;
        resource->least = INFINITY;
    }
    for (uint32_t i = 0; i < open_count; i++) {
        const SharedFlow *flow = &flows[sharing->open[i]];
        double allowed = INFINITY;
        for (uint32_t h = 0; h < flow->hop_count; h++)
            allowed = smaller(allowed, sharing->resources[flow->hops[h].resource].share);
        for (uint32_t h = 0; h < flow->hop_count; h++) {
            Resource *resource = &sharing->resources[flow->hops[h].resource];
            resource->least = smaller(resource->least, allowed);
        }
        sharing->allowed[i] = allowed;
    }
}

// Whether something that the flow passes is the tightest for it and for everything else that passes there.
static bool is_limited(const Sharing *sharing, const SharedFlow *flow, double allowed)
{
    static const double slack = 1 + 1e-12;
    for (uint32_t h = 0; h < flow->hop_count; h++) {
        const Resource *resource = &sharing->resources[flow->hops[h].resource];
        if (resource->share <= allowed * slack && resource->share <= resource->least * slack)
            return true;
    }
    return false;
}

static void fill(Sharing *sharing, const SharedFlow flows[], uint32_t open_count)
{
    while (open_count > 0) {
        uint32_t still_open = 0;
        find_allowed(sharing, flows, open_count);
        for (uint32_t i = 0; i < open_count; i++) {
            const SharedFlow *flow = &flows[sharing->open[i]];
            if (is_limited(sharing, flow, sharing->allowed[i]))
                fix(sharing, flow, sharing->allowed[i]);
            else
                sharing->open[still_open++] = sharing->open[i];
        }
        open_count = still_open;
    }
}

void sharing_rates(Sharing *sharing, const SharedFlow flows[], uint32_t count)
{
    if (!sharing->any_touched)
        return;
    spread(sharing, flows, count);
    for (uint32_t c = 0; c < sharing->classes->count; c++)
        for (uint32_t l = 0; l < sharing->level_count; l++)
            sharing->resources[port(sharing, c, l, false)] = sharing->resources[port(sharing, c, l, true)] =
                (Resource){.left = sharing->port[c * LEVELS_MAX + l]};
    for (uint32_t i = 0; i < sharing->classes->link_count; i++)
        sharing->resources[sharing->link_first + i] = (Resource){.left = sharing->classes->links[i].bytes_per_s};
    uint32_t open_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!sharing->touched[flows[i].kind->from])
            continue;
        sharing->open[open_count++] = i;
        add_weight(sharing, &flows[i]);
    }
    fill(sharing, flows, open_count);
    memset(sharing->touched, 0, sharing->classes->count * sizeof(*sharing->touched));
    sharing->any_touched = false;
}
