// What hep.h declares and this version of the library does not do: each says so.
#include "runtime/library/library.h"

static hep_status pending(const char *what)
{
    Fault fault = {0};
    fault_set(&fault, FAULT_INFEASIBLE, "%s is not in this version of the library", what);
    return library_end(&fault);
}

hep_status hep_nccl_id(uint8_t id[128])
{
    (void)id;
    return pending("hep_nccl_id");
}

hep_status hep_comm_nccl(int rank, int ranks, const uint8_t id[128], const hep_comm_options *options, hep_comm **comm)
{
    (void)rank;
    (void)ranks;
    (void)id;
    (void)options;
    if (comm)
        *comm = NULL;
    return pending("hep_comm_nccl");
}
