// hepc's command line: what can be asked for, and what was.
#ifndef HEP_OPTIONS_H
#define HEP_OPTIONS_H

#include "compiler/compile.h"
#include "compiler/explain/sweep.h"

#define HEP_DUMPS(X)                                                                                                   \
    X(SUMMARY, "summary", "what was planned and how it compares (the default)")                                        \
    X(AST, "ast", "the parsed input, printed back as .hep")                                                            \
    X(MODEL, "model", "sizes, volumes and times derived from the input")                                               \
    X(MILP, "milp", "the programme given to GLPK, in CPLEX LP format")                                                 \
    X(IR, "ir", "the schedule as text; hepc reads it back")                                                            \
    X(JSON, "json", "the plan for programs")                                                                           \
    X(LAYOUT, "layout", "placement of experts and groups as lists of ranks, as JSON for other launchers")              \
    X(DOT, "dot", "the schedule as a graph, for Graphviz")                                                             \
    X(TRACE, "trace", "the simulated run as Chrome trace events, for Perfetto and chrome://tracing")                   \
    X(HTML, "html", "a report to open in a browser: comparison, reasons, timeline, links, memory")                     \
    X(CHAKRA, "chakra", "Chakra traces for ASTRA-sim: files PREFIX.RANK.et and PREFIX.groups.json for -o PREFIX")

#define X(name, ...) DUMP_##name,
typedef enum { DUMP_NONE, HEP_DUMPS(X) DUMP_COUNT } DumpKind;
#undef X

typedef struct {
    const char *input, *output, *merge;
    const char *diff; // what the input is compared with
    const char *profile;
    const char *generate; // of --generate: nothing else counts
    DumpKind dump;
    bool explain, json, check, simulate, passes, help_language;
    bool no_passes;      // -O0
    PlanPassSet without; // passes that are skipped
    int dump_pass;       // --dump-before, --dump-after: a PlanPass, or NONE
    CheckOptions checks;
    PlannerOptions planner;
    int dispatch;
    const char *sweeps[SWEEP_AXES_MAX];
    size_t sweep_count;
} Options;

// What holds where nothing is said, for a second input as for the first.
Options options_default(const char *input);

// Of the command line; argp prints help and errors of usage and ends the program by itself. `checks.defines` is to be
// freed.
bool options_parse(int argc, char **argv, Options *options, Fault *fault) MUST_CHECK;
// What --generate asks for, to standard output.
bool options_generate(const char *kind, Fault *fault) MUST_CHECK;

#endif
