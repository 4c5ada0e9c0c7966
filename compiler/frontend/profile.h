// Profiles that `hep-run --profile` wrote: measured times in place of derived ones, and the routing that every layer
// had. Times are of the run's machine and hold for others as far as these compute alike; they grow with the tokens.
#ifndef HEP_PROFILE_READ_H
#define HEP_PROFILE_READ_H

#include "compiler/spec/spec.h"

// Reads the file into `model`, which must be checked. Reports, and returns false, when it cannot be read, is no
// profile, or is one of another model.
bool profile_read(const char *path, SpecModel *model, Arena *arena, Diag *diag) MUST_CHECK;

#endif
