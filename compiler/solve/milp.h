// A small, safe face of GLPK: a mixed-integer programme with names, built row by row, solved under
// iteration limits, printed in CPLEX LP format. GLPK's assertions, error messages and aborts are
// caught here and become a status, or the end of the memory guard where memory has run out; GLPK's types do not leave
// this module.
#ifndef HEP_MILP_H
#define HEP_MILP_H

#include "ir/base/text.h"

typedef struct Milp Milp;

typedef enum { MILP_OPTIMAL, MILP_FEASIBLE, MILP_INFEASIBLE, MILP_FAILED } MilpStatus;

typedef struct {
    MilpStatus status;
    double objective, bound; // of the incumbent; best proven lower bound
    const char *error;       // for MILP_FAILED, static
} MilpResult;

Milp *milp_create(const char *name); // minimises
void milp_destroy(Milp *milp);

// Columns. Both return the column's index. Continuous columns are free.
int milp_add_binary(Milp *milp, const char *name, double objective);
int milp_add_continuous(Milp *milp, const char *name, double objective);

// Rows: begin, add terms, end with a bound.
void milp_row_begin(Milp *milp, const char *name);
void milp_row_term(Milp *milp, int column, double coefficient); // each column at most once a row
void milp_row_end_at_least(Milp *milp, double bound);
void milp_row_end_at_most(Milp *milp, double bound);
void milp_row_end_equal(Milp *milp, double bound);

// Solves, giving up after `nodes_max` nodes of the tree; values of columns are then read with milp_value.
// Deterministic: limits are iteration and node counts, never the clock.
enum { MILP_NODES_MAX = 20000 };
MilpResult milp_solve(Milp *milp, int nodes_max);
double milp_value(const Milp *milp, int column);
// CPLEX LP text. False and a static reason if GLPK could not write it.
bool milp_print(Milp *milp, Text *out, const char **error) MUST_CHECK;
const char *milp_solver_name(void); // "GLPK 5.0"

#endif
