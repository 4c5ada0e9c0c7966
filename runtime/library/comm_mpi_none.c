// Of a build without MPI.
#include "runtime/library/library.h"

hep_status hep_comm_mpi(int fortran_comm, const hep_comm_options *options, hep_comm **comm)
{
    Fault fault = {0};
    (void)fortran_comm;
    (void)options;
    if (comm)
        *comm = NULL;
    fault_set(&fault, FAULT_INFEASIBLE, "this libhep was built without MPI");
    return library_end(&fault);
}

int hep_has_mpi(void)
{
    return 0;
}
