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
    MilpStatus status;       // OPTIMAL: proven that nothing is below `bound`; FEASIBLE: a limit struck before
    bool found;              // a solution below the cutoff: milp_value reads it
    double work;             // spent, as limited
    double objective, bound; // of that solution, INFINITY without; best proven lower bound, at most the cutoff
    Fault fault;             // for MILP_FAILED: why
} MilpResult;

// Counts give the same answer on every machine, clocks do not.
typedef struct {
    int nodes;      // of the tree; 0: any number
    double work;    // simplex iterations times rows, a node counting as some of them; 0: any
    double until_s; // on clock_now_s; 0: ten minutes from now, GLPK being able to cycle
    double cutoff;  // only solutions with a smaller objective are of interest; INFINITY: all
    double gap;     // relative, between solution and bound, that is close enough; 0: the optimum
} MilpLimits;

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

// A solution is optimal to a relative tolerance of 1e-7.
MilpResult milp_solve(Milp *milp, const MilpLimits *limits);
double milp_value(const Milp *milp, int column); // in the solution found
// CPLEX LP text. False if GLPK could not write it.
bool milp_print(Milp *milp, Text *out, Fault *fault) MUST_CHECK;
const char *milp_solver_name(void); // "GLPK 5.0"

#endif
