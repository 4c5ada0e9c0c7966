// See assignment.h. A size in use is one that some layer's choice has at level 0.
#include "backends/assignment.h"

enum {
    LINE_WORKERS_MAX = 12,  // named in the comparison
    DOMAINS_SHOWN_MAX = 64, // in the summary; programs get all
    MEMBERS_SHOWN_MAX = 16,
};

// The next size in use above `size`; 0 if there is none.
static uint32_t next_size(const Plan *plan, uint32_t size)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < plan->choice_count; i++) {
        uint32_t used = plan->choices[i].domain[0];
        if (used > size && (!next || used < next))
            next = used;
    }
    return next;
}

static void print_members(const Plan *plan, uint32_t first, uint32_t size, const char *between, Text *out)
{
    for (uint32_t i = 0; i < size && i < MEMBERS_SHOWN_MAX; i++)
        text_format(out, "%s%s", i ? between : "", plan->cluster.ports[first + i].name);
    if (size > MEMBERS_SHOWN_MAX)
        text_format(out, "%s%u more", between, size - MEMBERS_SHOWN_MAX);
}

void assignment_print(const Plan *plan, Text *out)
{
    const Cluster *cluster = &plan->cluster;
    if (!cluster->port_count)
        return;
    for (uint32_t size = next_size(plan, 0); size; size = next_size(plan, size)) {
        uint32_t domains = cluster->port_count / size;
        text_format(out, "assignment of %s to %u domain%s of %u: a domain gathers experts, a column exchanges tokens\n",
                    cluster->levels[0].name, domains, domains == 1 ? "" : "s", size);
        for (uint32_t d = 0; d < domains && d < DOMAINS_SHOWN_MAX; d++) {
            text_append(out, "  ");
            print_members(plan, d * size, size, ", ", out);
            text_append(out, "\n");
        }
        if (domains > DOMAINS_SHOWN_MAX)
            text_format(out, "  and %u more\n", domains - DOMAINS_SHOWN_MAX);
    }
    text_append(out, "\n");
}

void assignment_print_line(const Plan *plan, Text *out)
{
    uint32_t count = plan->cluster.port_count, size = next_size(plan, 0);
    if (size == 1)
        size = next_size(plan, size);
    if (size < 2 || size >= count || count > LINE_WORKERS_MAX)
        return;
    text_format(out, "domains of %s: ", plan->cluster.levels[0].name);
    for (uint32_t first = 0; first < count; first += size) {
        text_append(out, first ? " | " : "");
        print_members(plan, first, size, " + ", out);
    }
    text_append(out, "\n");
}

static cJSON *members_array(const Plan *plan, uint32_t first, uint32_t size)
{
    cJSON *array = cJSON_CreateArray();
    for (uint32_t i = 0; i < size; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(plan->cluster.ports[first + i].name));
    return array;
}

void assignment_add_json(cJSON *root, const Plan *plan)
{
    const Cluster *cluster = &plan->cluster;
    if (!cluster->port_count)
        return;
    cJSON *object = cJSON_AddObjectToObject(root, "assignment");
    cJSON_AddStringToObject(object, "level", cluster->levels[0].name);
    cJSON_AddItemToObject(object, "workers", members_array(plan, 0, cluster->port_count));
    cJSON *sizes = cJSON_AddArrayToObject(object, "domains");
    for (uint32_t size = next_size(plan, 0); size; size = next_size(plan, size)) {
        cJSON *entry = cJSON_CreateObject();
        cJSON_AddNumberToObject(entry, "size", size);
        cJSON *members = cJSON_AddArrayToObject(entry, "members");
        for (uint32_t first = 0; first < cluster->port_count; first += size)
            cJSON_AddItemToArray(members, members_array(plan, first, size));
        cJSON_AddItemToArray(sizes, entry);
    }
}
