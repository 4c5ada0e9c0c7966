// GLPK behind milp.h. Errors inside GLPK arrive through glp_error_hook, which must not return: it
// jumps back into guarded(), in which every call of GLPK that allocates is made. After such an error every GLPK object
// of this thread is destroyed by glp_free_env, so the Milp is marked dead: milp_solve and milp_print say of what.
#include "compiler/solve/milp.h"

#include <errno.h>
#include <glpk.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ir/base/arena.h"
#include "ir/base/clock.h"

enum {
    SIMPLEX_ITERATIONS_MAX = 200000,
    TIME_LIMIT_S = 600, // of last resort: GLPK can cycle
    NODE_WORK = 50,     // of a node, in simplex iterations times rows, for each row and column: measured
};

struct Milp {
    glp_prob *problem; // NULL once GLPK has failed
    int *columns;      // GLPK's row vectors: 1-based
    double *coefficients;
    int term_count, term_capacity;
    int row;
    double *values; // [columns], after a solve
    int value_count;
    double best_bound;
    const MilpLimits *limits; // while solving
    bool is_offered;          // the cutoff
    bool is_stopped;          // by the limits
    int nodes;
    bool dead, exhausted; // GLPK has failed; because memory had run out
    Fault fault;          // why
};

static _Thread_local jmp_buf escape;

static void on_error(void *info)
{
    (void)info;
    longjmp(escape, 1);
}

// GLPK says in words alone why it fails.
static int swallow_output(void *info, const char *text)
{
    Milp *milp = info;
    if (strstr(text, "no memory available") || strstr(text, "memory allocation limit exceeded"))
        milp->exhausted = true;
    if (glp_at_error())
        fault_set(&milp->fault, FAULT_INTERNAL, "%.*s", (int)strcspn(text, "\n"), text);
    return 1;
}

// Runs `action` with GLPK silenced and its errors caught; false if GLPK gave up.
static bool guarded(Milp *milp, void (*action)(Milp *, void *), void *argument)
{
    if (milp->dead)
        return false;
    glp_term_hook(swallow_output, milp);
    if (setjmp(escape)) {
        glp_error_hook(NULL, NULL);
        glp_free_env(); // GLPK's state is undefined now; all its objects of this thread go
        milp->problem = NULL;
        milp->dead = true;
        return false;
    }
    glp_error_hook(on_error, NULL);
    action(milp, argument);
    glp_error_hook(NULL, NULL);
    glp_term_hook(NULL, NULL);
    return true;
}

static void create_problem(Milp *milp, void *name)
{
    milp->problem = glp_create_prob();
    glp_set_prob_name(milp->problem, name);
    glp_set_obj_dir(milp->problem, GLP_MIN);
    glp_set_obj_name(milp->problem, "iteration");
}

Milp *milp_create(const char *name)
{
    enum { ENVIRONMENT_WITHOUT_MEMORY = 2 }; // by itself GLPK would abort
    Milp *milp = calloc(1, sizeof(*milp));
    if (!milp || glp_init_env() >= ENVIRONMENT_WITHOUT_MEMORY)
        memory_exhausted();
    (void)guarded(milp, create_problem, (void *)name);
    return milp;
}

void milp_destroy(Milp *milp)
{
    if (!milp)
        return;
    if (milp->problem)
        glp_delete_prob(milp->problem);
    free(milp->columns);
    free(milp->coefficients);
    free(milp->values);
    free(milp);
}

typedef struct {
    const char *name;
    double objective;
    bool binary;
    int index;
} Column;

static void add_column(Milp *milp, void *argument)
{
    Column *column = argument;
    column->index = glp_add_cols(milp->problem, 1);
    glp_set_col_name(milp->problem, column->index, column->name);
    glp_set_obj_coef(milp->problem, column->index, column->objective);
    if (column->binary)
        glp_set_col_kind(milp->problem, column->index, GLP_BV);
    else
        glp_set_col_bnds(milp->problem, column->index, GLP_FR, 0, 0);
}

int milp_add_binary(Milp *milp, const char *name, double objective)
{
    Column column = {.name = name, .objective = objective, .binary = true, .index = 1};
    (void)guarded(milp, add_column, &column);
    return column.index;
}

int milp_add_continuous(Milp *milp, const char *name, double objective)
{
    Column column = {.name = name, .objective = objective, .index = 1};
    (void)guarded(milp, add_column, &column);
    return column.index;
}

static void add_row(Milp *milp, void *name)
{
    milp->row = glp_add_rows(milp->problem, 1);
    glp_set_row_name(milp->problem, milp->row, name);
}

void milp_row_begin(Milp *milp, const char *name)
{
    milp->term_count = 0;
    (void)guarded(milp, add_row, (void *)name);
}

void milp_row_term(Milp *milp, int column, double coefficient)
{
    if (coefficient == 0)
        return;
    if (milp->term_count + 2 > milp->term_capacity) {
        milp->term_capacity = 2 * milp->term_capacity + 64;
        milp->columns = realloc(milp->columns, (size_t)milp->term_capacity * sizeof(*milp->columns));
        milp->coefficients = realloc(milp->coefficients, (size_t)milp->term_capacity * sizeof(*milp->coefficients));
        if (!milp->columns || !milp->coefficients)
            memory_exhausted();
    }
    milp->term_count++;
    milp->columns[milp->term_count] = column;
    milp->coefficients[milp->term_count] = coefficient;
}

typedef struct {
    int kind;
    double bound;
} RowEnd;

static void set_row(Milp *milp, void *argument)
{
    const RowEnd *end = argument;
    if (milp->term_count > 0)
        glp_set_mat_row(milp->problem, milp->row, milp->term_count, milp->columns, milp->coefficients);
    glp_set_row_bnds(milp->problem, milp->row, end->kind, end->bound, end->bound);
}

// A row GLPK refuses leaves the Milp dead; milp_solve then reports the failure.
static void end_row(Milp *milp, int kind, double bound)
{
    RowEnd end = {kind, bound};
    (void)!guarded(milp, set_row, &end);
}

void milp_row_end_at_least(Milp *milp, double bound)
{
    end_row(milp, GLP_LO, bound);
}

void milp_row_end_at_most(Milp *milp, double bound)
{
    end_row(milp, GLP_UP, bound);
}

void milp_row_end_equal(Milp *milp, double bound)
{
    end_row(milp, GLP_FX, bound);
}

static double work_done(const Milp *milp)
{
    double rows = glp_get_num_rows(milp->problem), columns = glp_get_num_cols(milp->problem);
    return glp_get_it_cnt(milp->problem) * rows + NODE_WORK * milp->nodes * (rows + columns);
}

// Makes the cutoff the objective to beat. GLPK believes that a solution offered is one, and reads nothing of it but
// its objective.
static void offer_cutoff(Milp *milp, glp_tree *tree)
{
    int columns = glp_get_num_cols(milp->problem);
    double *values = calloc((size_t)columns + 1, sizeof(*values));
    milp->is_offered = true;
    if (!values)
        return;
    for (int i = 1; i <= columns; i++)
        if (glp_get_obj_coef(milp->problem, i) != 0)
            values[i] = milp->limits->cutoff / glp_get_obj_coef(milp->problem, i);
    glp_ios_heur_sol(tree, values);
    free(values);
}

// The tree's best bound is visible only from inside; nodes and work are counted here because GLPK's own limit is a
// clock.
static void watch_tree(glp_tree *tree, void *info)
{
    Milp *milp = info;
    const MilpLimits *limits = milp->limits;
    int best = glp_ios_best_node(tree);
    if (best)
        milp->best_bound = fmax(milp->best_bound, glp_ios_node_bound(tree, best));
    if (glp_ios_reason(tree) == GLP_IHEUR && !milp->is_offered && limits->cutoff < INFINITY)
        offer_cutoff(milp, tree);
    milp->nodes += glp_ios_reason(tree) == GLP_ISELECT;
    milp->is_stopped =
        (limits->nodes > 0 && milp->nodes > limits->nodes) || (limits->work > 0 && work_done(milp) > limits->work);
    if (milp->is_stopped)
        glp_ios_terminate(tree);
}

static int left_ms(const MilpLimits *limits)
{
    double left_s = limits->until_s > 0 ? limits->until_s - clock_now_s() : TIME_LIMIT_S;
    return (int)(1e3 * fmax(0, fmin(left_s, TIME_LIMIT_S)));
}

static int run_simplex(Milp *milp)
{
    const MilpLimits *limits = milp->limits;
    glp_smcp simplex;
    glp_init_smcp(&simplex);
    simplex.msg_lev = GLP_MSG_OFF;
    simplex.it_lim = SIMPLEX_ITERATIONS_MAX;
    if (limits->work > 0)
        simplex.it_lim = (int)fmin(simplex.it_lim, limits->work / fmax(1, glp_get_num_rows(milp->problem)));
    simplex.tm_lim = left_ms(limits);
    int stopped = glp_simplex(milp->problem, &simplex);
    milp->is_stopped = stopped == GLP_EITLIM || stopped == GLP_ETMLIM;
    return stopped == 0 ? glp_get_status(milp->problem) : GLP_UNDEF;
}

// GLPK's status of the relaxation. What seems infeasible is tried once more from another basis, unscaled: coefficients
// that differ by many orders can mislead the first attempt, and an infeasible programme counts as a proof.
static int solve_relaxation(Milp *milp)
{
    glp_scale_prob(milp->problem, GLP_SF_AUTO);
    glp_adv_basis(milp->problem, 0);
    int status = run_simplex(milp);
    if (status != GLP_NOFEAS)
        return status;
    glp_unscale_prob(milp->problem);
    glp_std_basis(milp->problem);
    return run_simplex(milp);
}

static void keep_values(Milp *milp)
{
    milp->value_count = glp_get_num_cols(milp->problem);
    for (int i = 1; i <= milp->value_count; i++)
        milp->values[i] = glp_mip_col_val(milp->problem, i);
}

// After the tree: what GLPK found below the cutoff, and what it proved.
static MilpResult take_result(Milp *milp, int stopped)
{
    int status = glp_mip_status(milp->problem);
    double cutoff = milp->limits->cutoff;
    bool proven = status == GLP_OPT || status == GLP_NOFEAS || (status == GLP_UNDEF && stopped == 0);
    MilpResult result = {
        .status = proven ? MILP_OPTIMAL : MILP_FEASIBLE, .objective = INFINITY, .bound = milp->best_bound};
    if (status == GLP_OPT || status == GLP_FEAS)
        result.objective = glp_mip_obj_val(milp->problem);
    if (stopped == GLP_EMIPGAP) // reached since the tree was last watched
        result.bound = fmax(result.bound, result.objective - milp->limits->gap * fabs(result.objective));
    result.found = result.objective < cutoff - 1e-9 * fabs(cutoff) || (cutoff == INFINITY && status != GLP_UNDEF);
    if (result.found)
        keep_values(milp);
    else
        result.objective = INFINITY;
    result.bound = fmin(proven ? INFINITY : result.bound, fmin(result.objective, cutoff));
    if (proven && result.bound == INFINITY)
        result.status = MILP_INFEASIBLE;
    return result;
}

static void solve(Milp *milp, void *argument)
{
    MilpResult *result = argument;
    *result = (MilpResult){.status = MILP_FAILED};
    fault_set(&result->fault, FAULT_INTERNAL, "the solver found no solution");
    glp_set_it_cnt(milp->problem, 0);
    int relaxed = solve_relaxation(milp);
    if (relaxed == GLP_NOFEAS)
        *result = (MilpResult){.status = MILP_INFEASIBLE, .bound = INFINITY, .objective = INFINITY};
    else if (milp->is_stopped)
        *result = (MilpResult){.status = MILP_FEASIBLE, .bound = -INFINITY, .objective = INFINITY};
    if (relaxed != GLP_OPT)
        return;
    milp->best_bound = glp_get_obj_val(milp->problem);
    glp_iocp tree;
    glp_init_iocp(&tree);
    tree.msg_lev = GLP_MSG_OFF;
    tree.cb_func = watch_tree;
    tree.cb_info = milp;
    tree.tm_lim = left_ms(milp->limits);
    tree.mip_gap = milp->limits->gap;
    int stopped = glp_intopt(milp->problem, &tree);
    bool failed = stopped != 0 && stopped != GLP_ESTOP && stopped != GLP_ETMLIM && stopped != GLP_EMIPGAP;
    if (!failed)
        *result = take_result(milp, stopped);
}

MilpResult milp_solve(Milp *milp, const MilpLimits *limits)
{
    milp->limits = limits;
    milp->nodes = milp->value_count = 0;
    milp->is_offered = false;
    free(milp->values);
    milp->values = calloc(milp->problem ? (size_t)glp_get_num_cols(milp->problem) + 1 : 1, sizeof(*milp->values));
    if (!milp->values)
        memory_exhausted();
    MilpResult result;
    bool solved = guarded(milp, solve, &result);
    if (milp->exhausted)
        memory_exhausted();
    if (!solved)
        return (MilpResult){.status = MILP_FAILED, .fault = milp->fault, .work = limits->work};
    result.work = work_done(milp);
    return result;
}

double milp_value(const Milp *milp, int column)
{
    return column <= milp->value_count ? milp->values[column] : NAN;
}

typedef struct {
    const char *path;
    int status;
} WriteJob;

static void write_lp(Milp *milp, void *argument)
{
    WriteJob *job = argument;
    job->status = glp_write_lp(milp->problem, NULL, job->path);
}

bool milp_print(Milp *milp, Text *out, Fault *fault)
{
    char path[32]; // GLPK writes to named files only: of one in memory, by its descriptor
    int descriptor = memfd_create("milp", MFD_CLOEXEC);
    if (descriptor < 0)
        return fault_set(fault, FAULT_IO, "a file in memory: %s", strerrordesc_np(errno));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    WriteJob job = {.path = path, .status = -1};
    bool written = guarded(milp, write_lp, &job) && job.status == 0;
    if (milp->exhausted)
        memory_exhausted();
    size_t length = 0;
    char *text = written ? file_read(path, SIZE_MAX / 2, &length, fault) : NULL;
    close(descriptor);
    if (!written)
        return fault_set(fault, FAULT_IO, "GLPK could not write the model");
    if (!text)
        return false;
    text_append_bytes(out, text, length);
    free(text);
    return true;
}

const char *milp_solver_name(void)
{
    static char name[32];
    if (!name[0]) {
        strcpy(name, "GLPK ");
        strncat(name, glp_version(), sizeof(name) - 6);
    }
    return name;
}
