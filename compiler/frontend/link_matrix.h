// Measured bandwidths between workers, as a CSV file: the first cell names the unit; beside it and at the
// head of each row stand the workers' names, or in no place at all. Owns the file's form and its errors.
#ifndef HEP_LINK_MATRIX_H
#define HEP_LINK_MATRIX_H

#include "grammar/ast.h"

typedef struct {
    const char **names;  // [count] as the file gives them where the caller knew none, else NULL
    double *bytes_per_s; // [count][count] in the order of the workers, symmetric, positive; the diagonal is 0
} LinkMatrix;

typedef struct {
    const char *level;        // for messages
    const char *const *names; // [count] in whose order the matrix is returned, or NULL
    uint32_t count;
} LinkWorkers;

// Reads the file that `entry` (`links = "file"`) names, relative to the file `entry` stands in. A pair measured
// differently both ways gets the smaller figure, and a warning says so. Returns false after reporting.
bool link_matrix_read(const AstEntry *entry, const LinkWorkers *workers, Arena *arena, Diag *diag,
                      LinkMatrix *out) MUST_CHECK;

#endif
