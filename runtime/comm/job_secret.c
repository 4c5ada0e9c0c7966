// See job_secret.h. The cryptography is Nettle's.
#include "runtime/comm/job_secret.h"

#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { GIVEN_BYTES_MIN = 16 };

// Those that all processes of a job have alike. The first is random; the rest number the job.
static const char *const of_launchers[] = {"OMPI_MCA_orte_precondition_transports",
                                           "OMPI_MCA_ess_base_jobid",
                                           "PMIX_NAMESPACE",
                                           "SLURM_JOB_ID",
                                           "SLURM_STEP_ID",
                                           "TORCHELASTIC_RUN_ID",
                                           "MASTER_PORT"};

static void add_variable(struct sha256_ctx *digest, const char *name)
{
    const char *value = getenv(name);
    if (!value)
        return;
    sha256_update(digest, strlen(name) + 1, (const uint8_t *)name);
    sha256_update(digest, strlen(value) + 1, (const uint8_t *)value);
}

bool job_secret_read(Secret *secret, Fault *fault)
{
    const char *given = getenv("HEP_JOB_SECRET");
    struct sha256_ctx digest;
    if (given && strlen(given) < GIVEN_BYTES_MIN)
        return fault_set(fault, FAULT_RUN,
                         "HEP_JOB_SECRET has %zu characters: expected %d or more, the same on all processes",
                         strlen(given), GIVEN_BYTES_MIN);
    sha256_init(&digest);
    if (given)
        add_variable(&digest, "HEP_JOB_SECRET");
    for (size_t v = 0; !given && v < COUNT_OF(of_launchers); v++)
        add_variable(&digest, of_launchers[v]);
    sha256_digest(&digest, SECRET_BYTES, secret->bytes);
    return true;
}

bool job_secret_challenge(unsigned char challenge[SECRET_BYTES], Fault *fault)
{
    return getrandom(challenge, SECRET_BYTES, 0) == SECRET_BYTES ||
           fault_set(fault, FAULT_RUN, "the system gives no random bytes");
}

void job_secret_prove(const Secret *secret, const char *role, const void *data, size_t bytes,
                      unsigned char proof[SECRET_BYTES])
{
    struct hmac_sha256_ctx of;
    hmac_sha256_set_key(&of, SECRET_BYTES, secret->bytes);
    hmac_sha256_update(&of, strlen(role) + 1, (const uint8_t *)role);
    hmac_sha256_update(&of, bytes, data);
    hmac_sha256_digest(&of, SECRET_BYTES, proof);
}

bool job_secret_equal(const unsigned char proof[SECRET_BYTES], const unsigned char other[SECRET_BYTES])
{
    return memeql_sec(proof, other, SECRET_BYTES);
}
