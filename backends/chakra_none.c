// Stands in for chakra.c where protobuf-c was not found: says so, and is asked for nothing else.
#include "backends/chakra.h"

bool chakra_available(void)
{
    return false;
}

const Chakra *chakra_create(const Plan *plan, Arena *arena)
{
    (void)plan;
    (void)arena;
    return NULL;
}

void chakra_print_rank(const Chakra *chakra, uint64_t rank, Text *out)
{
    (void)rank;
    (void)out;
    (void)chakra;
}

void chakra_print_groups(const Chakra *chakra, Text *out)
{
    (void)out;
    (void)chakra;
}
