// How much of a test of numbers runs under a sanitizer: a quarter of its instances, which find what it finds of memory
// as well as all would. All of them run in the optimised build.
#ifndef HEP_TEST_EFFORT_H
#define HEP_TEST_EFFORT_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define EFFORT_SHARE 4
#else
#define EFFORT_SHARE 1
#endif

// Of so many instances, or of what so many instances come to.
#define INSTANCES(count) (((count) + EFFORT_SHARE - 1) / EFFORT_SHARE)

// The same of tests that run whole under sanitizers, too. Mutation tests run them for every mutant of a file: some of
// the instances notice most.
#ifdef HEP_FEW_INSTANCES
#define FEW_OF(count) ((count) / 8)
#else
#define FEW_OF(count) (count)
#endif

#endif
