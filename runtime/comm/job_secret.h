// What the processes of one job know and others do not: by it they recognise each other before anything else is said.
#ifndef HEP_JOB_SECRET_H
#define HEP_JOB_SECRET_H

#include "ir/base/fault.h"

enum { SECRET_BYTES = 32 }; // of secrets, challenges and proofs alike

typedef struct {
    unsigned char bytes[SECRET_BYTES];
} Secret;

// HEP_JOB_SECRET of the environment, or what the launcher told all processes of this job, and most likely no others:
// the latter keeps jobs apart, but somebody who knows the launcher's environment can guess it.
bool job_secret_read(Secret *secret, Fault *fault) MUST_CHECK;
// Bytes that nobody can foresee.
bool job_secret_challenge(unsigned char challenge[SECRET_BYTES], Fault *fault) MUST_CHECK;
// Proves, to who knows the secret, that `role` has said `data` and knows it, too.
void job_secret_prove(const Secret *secret, const char *role, const void *data, size_t bytes,
                      unsigned char proof[SECRET_BYTES]);
// In a time that does not depend on where they differ.
bool job_secret_equal(const unsigned char proof[SECRET_BYTES], const unsigned char other[SECRET_BYTES]);

#endif
