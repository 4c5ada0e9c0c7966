// hep-run's command line: what can be asked for, and what was.
#ifndef HEP_RUN_OPTIONS_H
#define HEP_RUN_OPTIONS_H

#include "runtime/job/job.h"

typedef struct {
    const char *input;
    const char *json; // file, "-" for standard output, NULL for none
    const char *trace, *trace_ranks, *profile;
    const char *calibrate; // file, "-" for standard output, NULL: a plan is to be run
    char *levels;
    const char *generate; // of --generate: nothing else counts
    bool quiet, every_step, iterations_given, warmup_given, validation_given;
    const char *training_option;      // the first one given that only training plans have a use for, or NULL
    int signal;                       // of --checkpoint-signal; 0: none
    const Communicator *communicator; // NULL: as this process was started
    JobOptions job;
} Options;

// Is this name standard output or input? NULL is neither.
bool is_standard(const char *path);
// How many of the reports go to standard output instead of the tables.
int standard_outputs(const Options *options);

// Of the command line; argp prints help and errors of usage and ends the program by itself.
bool options_parse(int argc, char **argv, Options *options, Fault *fault) MUST_CHECK;
// What --generate asks for, to standard output.
bool options_generate(const char *kind, Fault *fault) MUST_CHECK;

#endif
