// Where the running program lies, so that what is installed with it is found wherever it was installed to.
#ifndef HEP_PROGRAM_H
#define HEP_PROGRAM_H

#include "ir/base/arena.h"

// `relative` to the folder of the program's file. NULL where the system does not say where that is.
const char *program_relative(Arena *arena, const char *relative);

#endif
