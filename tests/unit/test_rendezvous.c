// Processes of this machine meet by TCP: what launchers say, calls, and how one process reports each kind of failure
// and ends all of them soon.
// builds: dev  seconds: 5  alone
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/rendezvous_internal.h"

enum { PROCESSES_MAX = 5 };

// What a process found, in memory that all share.
typedef struct {
    bool joined, worked;
    double time_s;
    Fault fault; // as this process would print it
} Outcome;

typedef bool (*Work)(Rendezvous *rendezvous, const Launch *launch, Fault *fault);

static Outcome *outcomes;

static bool says(const char *message, const char *words)
{
    return strstr(message, words) != NULL;
}

static void process_main(const Launch *launch, Work work, double timeout_s)
{
    Outcome *own = &outcomes[launch->rank];
    double began_s = clock_now_s();
    Rendezvous *rendezvous = rendezvous_create(launch, timeout_s, &own->fault);
    own->joined = rendezvous != NULL;
    own->worked = rendezvous && work(rendezvous, launch, &own->fault);
    if (rendezvous && !own->worked)
        rendezvous_settle(rendezvous, &own->fault);
    own->time_s = clock_now_s() - began_s;
    rendezvous_destroy(rendezvous);
    _exit(0);
}

static uint16_t next_port(void)
{
    static uint16_t port;
    port = port ? port + 1 : (uint16_t)(30000 + getpid() % 2000);
    return port;
}

// Starts `size` processes with what `launches` says of each, and waits for them.
static void run(uint64_t size, const Launch launches[], Work work, double timeout_s)
{
    outcomes = mmap(NULL, PROCESSES_MAX * sizeof(*outcomes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[PROCESSES_MAX];
    for (uint64_t p = 0; p < size; p++) {
        children[p] = fork();
        if (children[p] == 0)
            process_main(&launches[p], work, timeout_s);
    }
    for (uint64_t p = 0; p < size; p++)
        waitpid(children[p], NULL, 0);
}

static void launches_fill(uint64_t size, Launch launches[])
{
    uint16_t port = next_port();
    for (uint64_t p = 0; p < size; p++)
        launches[p] = (Launch){.launcher = "test", .rank = p, .size = size, .host = "127.0.0.1", .port = port};
}

static void run_all(uint64_t size, Work work, double timeout_s)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(size, launches);
    run(size, launches, work, timeout_s);
}

// ---- calls -----------------------------------------------------------------------------------

static bool exchange_numbers(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    for (uint64_t round = 0; round < 50; round++) {
        uint64_t all[PROCESSES_MAX], shared = launch->rank == 0 ? round * 7 : 0, own = launch->rank * 1000 + round;
        if (!rendezvous_all_gather(rendezvous, &own, all, sizeof(own), fault) ||
            !rendezvous_broadcast(rendezvous, &shared, sizeof(shared), fault))
            return false;
        for (uint64_t r = 0; r < launch->size; r++)
            if (all[r] != r * 1000 + round || shared != round * 7)
                return fault_set(fault, FAULT_RUN, "wrong number");
    }
    return rendezvous_machine_size(rendezvous) == launch->size;
}

Test(rendezvous, calls)
{
    run_all(4, exchange_numbers, 20);
    for (int r = 0; r < 4; r++)
        cr_assert(outcomes[r].worked, "rank %d: %s", r, outcomes[r].fault.message);
    run_all(1, exchange_numbers, 20);
    cr_assert(outcomes[0].worked, "%s", outcomes[0].fault.message);
}

static bool share_plan(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    size_t bytes = 3 << 20;
    char *plan = malloc(bytes);
    memset(plan, launch->rank == 0 ? 42 : 0, bytes);
    bool ok = rendezvous_broadcast(rendezvous, plan, bytes, fault);
    for (size_t i = 0; i < bytes; i++)
        ok = ok && plan[i] == 42;
    free(plan);
    return ok;
}

Test(rendezvous, megabytes)
{
    run_all(3, share_plan, 20);
    for (int r = 0; r < 3; r++)
        cr_assert(outcomes[r].worked, "rank %d: %s", r, outcomes[r].fault.message);
}

// ---- failures --------------------------------------------------------------------------------

// One process reports it, in words that match; nobody succeeds; all have ended within the time.
static void assert_told(uint64_t size, uint64_t teller, const char *words, double within_s)
{
    for (uint64_t r = 0; r < size; r++) {
        const Outcome *of = &outcomes[r];
        cr_expect_not(of->worked, "rank %d", (int)r);
        cr_expect(lt(dbl, of->time_s, within_s), "rank %d", (int)r);
        if (r == teller)
            cr_expect(says(of->fault.message, words), "rank %d says '%s', not '%s'", (int)r, of->fault.message, words);
        else
            cr_expect_eq(of->fault.message[0], '\0', "rank %d says '%s'", (int)r, of->fault.message);
    }
}

static bool wait_for_all(Rendezvous *rendezvous, Fault *fault)
{
    uint64_t own = 0, all[PROCESSES_MAX];
    return rendezvous_all_gather(rendezvous, &own, all, sizeof(own), fault);
}

static bool die_third(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    if (launch->rank == 2)
        raise(SIGKILL);
    return wait_for_all(rendezvous, fault);
}

Test(rendezvous, a_rank_dies)
{
    run_all(4, die_third, 30);
    assert_told(4, 0, "rank 2, process ", 10);
    cr_expect(says(outcomes[0].fault.message, "is gone"));
    cr_expect_eq(outcomes[0].fault.peer, 2);
}

static bool die_first(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    if (launch->rank == 0)
        raise(SIGKILL);
    return wait_for_all(rendezvous, fault);
}

Test(rendezvous, the_first_dies)
{
    run_all(3, die_first, 30);
    assert_told(3, 1, "rank 0, process ", 10);
}

static bool fail_second(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    if (launch->rank != 1)
        return wait_for_all(rendezvous, fault);
    fault_set(fault, FAULT_RUN, "out of cheese");
    fault->rank = 1;
    fault->step = 7;
    rendezvous_abort(rendezvous, fault);
    return false;
}

Test(rendezvous, a_rank_fails)
{
    run_all(4, fail_second, 30);
    assert_told(4, 0, "out of cheese", 10);
    cr_expect_eq(outcomes[0].fault.rank, 1);
    cr_expect_eq(outcomes[0].fault.step, 7);
}

static bool stop_second(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    if (launch->rank == 1 && fork() == 0) { // wakes it when the others are through
        sleep(5);
        kill(getppid(), SIGKILL);
        _exit(0);
    }
    if (launch->rank == 1)
        raise(SIGSTOP);
    return wait_for_all(rendezvous, fault);
}

Test(rendezvous, a_rank_stops)
{
    run_all(3, stop_second, 1.5);
    assert_told(3, 0, "gave no sign of life for 1.5 s", 10);
}

static bool leave_second(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    return launch->rank == 1 ? fault_set(fault, FAULT_RUN, "left") : wait_for_all(rendezvous, fault);
}

Test(rendezvous, a_rank_leaves)
{
    run_all(2, leave_second, 30);
    assert_told(2, 0, "left", 10);
}

Test(rendezvous, unlike_sizes)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(2, launches);
    launches[1].size = 3;
    run(2, launches, exchange_numbers, 3);
    assert_told(2, 0, "was told of 3 processes, rank 0 of 2", 10);
}

Test(rendezvous, one_rank_twice)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(3, launches);
    launches[2].rank = 1;
    run(3, launches, exchange_numbers, 3);
    cr_expect(says(outcomes[0].fault.message, "claims to be rank 1, as another does"), "%s", outcomes[0].fault.message);
}

Test(rendezvous, a_rank_is_missing)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(4, launches);
    run(2, launches, exchange_numbers, 1);
    assert_told(2, 0, "rank 2 of 4 did not come to 127.0.0.1", 10);
    cr_expect(says(outcomes[0].fault.message, "(nor did 1 more)"), "%s", outcomes[0].fault.message);
}

Test(rendezvous, the_first_is_missing)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(2, launches);
    outcomes = NULL;
    run(1, &launches[1], exchange_numbers, 1);
    cr_expect(says(outcomes[1].fault.message, "no rank 0 at 127.0.0.1"), "%s", outcomes[1].fault.message);
}

// ---- strangers -------------------------------------------------------------------------------

static int connect_to(uint16_t port, const char *host)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    for (int attempt = 0; attempt < 200; attempt++) {
        int peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(peer, (struct sockaddr *)&address, sizeof(address)) == 0)
            return peer;
        close(peer);
        usleep(10000);
    }
    return -1;
}

// Rank 0 is there already: strangers, most of whom say nothing, come before rank 1 does.
static bool after_strangers(const Launch *launch)
{
    static const char http[] = "GET / HTTP/1.1\r\n\r\n";
    Hello hello = {
        .magic = HELLO_MAGIC, .version = PROTOCOL_VERSION, .fault_bytes = sizeof(Fault), .rank = 1, .size = 2};
    unsigned char proof[SECRET_BYTES] = {0};
    bool sent = true;
    for (int s = 0; s < 40; s++) {
        int stranger = connect_to(launch->port, "127.0.0.1");
        sent = sent && stranger >= 0;
        if (s == 10)
            sent = sent && send(stranger, http, sizeof(http), 0) > 0;
        else if (s == 11) // of another version: of a wrong size
            sent = sent && frame_send(stranger, FRAME_HELLO, false, &hello, sizeof(hello) - 8);
        else if (s == 12) { // one that claims to be rank 1, and guesses
            sent = sent && frame_send(stranger, FRAME_HELLO, false, &hello, sizeof(hello)) &&
                   frame_send(stranger, FRAME_PROOF, false, proof, sizeof(proof));
        } else if (s == 13) // half a header
            sent = sent && send(stranger, &hello, 7, 0) > 0;
    }
    return sent && connect_to(launch->port, "127.0.0.2") < 0; // rank 0 listens where it is looked for, and nowhere else
}

static void run_among_strangers(Outcome *first, Outcome *second)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(2, launches);
    outcomes = mmap(NULL, PROCESSES_MAX * sizeof(*outcomes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0)
        process_main(&launches[0], exchange_numbers, 20);
    pid_t other = fork();
    if (other == 0) {
        outcomes[2].worked = after_strangers(&launches[0]);
        process_main(&launches[1], exchange_numbers, 20);
    }
    waitpid(child, NULL, 0);
    waitpid(other, NULL, 0);
    cr_expect(outcomes[2].worked, "strangers could not speak, or rank 0 listens everywhere");
    *first = outcomes[0];
    *second = outcomes[1];
}

Test(rendezvous, strangers)
{
    Outcome first, second;
    run_among_strangers(&first, &second);
    cr_expect(first.worked, "%s", first.fault.message);
    cr_expect(second.worked, "%s", second.fault.message);
    cr_expect(lt(dbl, second.time_s, 2), "strangers hold up the job");
}

Test(rendezvous, another_secret)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(2, launches);
    launches[1].secret.bytes[SECRET_BYTES - 1] = 1;
    run(2, launches, exchange_numbers, 1);
    cr_expect(says(outcomes[0].fault.message, "rank 1 of 2 did not come"), "%s", outcomes[0].fault.message);
    cr_expect(says(outcomes[0].fault.message,
                   "of 1 refused connection, the last came from 127.0.0.1: it does not know the secret of this job"),
              "%s", outcomes[0].fault.message);
    cr_expect(says(outcomes[1].fault.message, "is of another job: set HEP_JOB_SECRET"), "%s",
              outcomes[1].fault.message);
}

// One that knows the secret, says what it wants, and has its proof accepted.
static int introduce(const Launch *launch, const Hello *hello)
{
    Said said = {.hello = *hello};
    unsigned char proof[SECRET_BYTES];
    FrameHeader header;
    int peer = connect_to(launch->port, "127.0.0.1");
    bool ok = peer >= 0 && frame_send(peer, FRAME_HELLO, false, hello, sizeof(*hello)) &&
              frame_receive(peer, &header, sizeof(header), clock_now_s() + 5) && header.kind == FRAME_CHALLENGE &&
              frame_receive(peer, said.challenge, SECRET_BYTES, clock_now_s() + 5);
    job_secret_prove(&launch->secret, PROVES_MEMBER, &said, sizeof(said), proof);
    return ok && frame_send(peer, FRAME_PROOF, false, proof, sizeof(proof)) ? peer : -1;
}

Test(rendezvous, text_of_peers_is_plain)
{
    Launch launches[PROCESSES_MAX];
    launches_fill(2, launches);
    Hello hello = {
        .magic = HELLO_MAGIC, .version = PROTOCOL_VERSION, .fault_bytes = sizeof(Fault), .rank = 1, .size = 9};
    memset(hello.place.host, 'x', sizeof(hello.place.host)); // without an end
    memcpy(hello.place.host, "a\x1b[31m\r\nhep-run: b", 18);
    outcomes = mmap(NULL, PROCESSES_MAX * sizeof(*outcomes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (child == 0)
        process_main(&launches[0], exchange_numbers, 20);
    cr_expect(ge(int, introduce(&launches[0], &hello), 0));
    waitpid(child, NULL, 0);
    cr_expect(says(outcomes[0].fault.message, " on a?[31m??hep-run: bxx"), "%s", outcomes[0].fault.message);
    cr_expect(says(outcomes[0].fault.message, "was told of 9 processes"), "%s", outcomes[0].fault.message);
}

// A rank 0 whose places have no ends, and steer terminals.
static void be_rank_0(int listener, const Secret *secret)
{
    FrameHeader header;
    Said said;
    unsigned char proof[SECRET_BYTES];
    Place places[2];
    int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    double until_s = clock_now_s() + 5;
    bool ok = frame_receive(peer, &header, sizeof(header), until_s) &&
              frame_receive(peer, &said.hello, sizeof(said.hello), until_s) &&
              job_secret_challenge(said.challenge, &(Fault){0}) &&
              frame_send(peer, FRAME_CHALLENGE, false, said.challenge, SECRET_BYTES) &&
              frame_receive(peer, &header, sizeof(header), until_s) &&
              frame_receive(peer, proof, sizeof(proof), until_s);
    memset(places, 0x1b, sizeof(places));
    job_secret_prove(secret, PROVES_FIRST, &said, sizeof(said), proof);
    ok = ok && frame_send_welcome(peer, false, proof, places, sizeof(places));
    _exit(ok ? 0 : 1);
}

Test(rendezvous, places_have_ends)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), status;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    cr_assert(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 4) == 0);
    getsockname(listener, (struct sockaddr *)&address, &length);
    Launch launch = {.launcher = "test", .rank = 1, .size = 2, .host = "127.0.0.1", .port = ntohs(address.sin_port)};
    pid_t child = fork();
    if (child == 0)
        be_rank_0(listener, &launch.secret);
    Fault fault = {0};
    Rendezvous *rendezvous = rendezvous_create(&launch, 5, &fault);
    cr_assert(rendezvous != NULL, "%s", fault.message);
    for (uint64_t r = 0; r < 2; r++) {
        cr_expect_eq(strlen(rendezvous->places[r].host), PLACE_HOST_MAX - 1);
        cr_expect_eq(strspn(rendezvous->places[r].host, "?"), PLACE_HOST_MAX - 1);
    }
    cr_expect_eq(rendezvous_machine_size(rendezvous), 2);
    rendezvous_destroy(rendezvous);
    waitpid(child, &status, 0);
    cr_expect_eq(status, 0);
}

// It lives, says so, and does nothing: who waits for it does not wait for ever.
static bool sleep_second(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    if (launch->rank == 1)
        for (int second = 0; second < 6 && !rendezvous_aborted(rendezvous, fault); second++)
            sleep(1);
    return launch->rank != 1 && wait_for_all(rendezvous, fault);
}

Test(rendezvous, a_rank_only_says_that_it_lives)
{
    run_all(3, sleep_second, 1);
    assert_told(3, 0, "rank 1, process ", 8);
    cr_expect(says(outcomes[0].fault.message, "has done nothing for longer than the time limit"), "%s",
              outcomes[0].fault.message);
}

// It computes for longer than the time limit: that is no reason to give up.
static bool compute_second(Rendezvous *rendezvous, const Launch *launch, Fault *fault)
{
    for (double until_s = clock_now_s() + 3; launch->rank == 1 && clock_now_s() < until_s;)
        continue;
    return wait_for_all(rendezvous, fault);
}

Test(rendezvous, a_rank_computes)
{
    run_all(2, compute_second, 1);
    for (int r = 0; r < 2; r++)
        cr_expect(outcomes[r].worked, "rank %d: %s", r, outcomes[r].fault.message);
}

// ---- what launchers say ----------------------------------------------------------------------

static void forget_launchers(void)
{
    static const char *const names[] = {"RANK",
                                        "HEP_JOB_SECRET",
                                        "WORLD_SIZE",
                                        "LOCAL_RANK",
                                        "MASTER_ADDR",
                                        "MASTER_PORT",
                                        "TORCHELASTIC_USE_AGENT_STORE",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_LOCAL_RANK",
                                        "OMPI_COMM_WORLD_LOCAL_SIZE",
                                        "PMI_SIZE",
                                        "PMI_RANK",
                                        "MPI_LOCALRANKID",
                                        "MPI_LOCALNRANKS",
                                        "SLURM_STEP_NUM_TASKS",
                                        "SLURM_PROCID",
                                        "SLURM_LOCALID",
                                        "SLURM_STEP_NODELIST"};
    for (size_t n = 0; n < COUNT_OF(names); n++)
        unsetenv(names[n]);
}

typedef struct {
    const char *environment[6]; // NAME=value
    LaunchState state;
    uint64_t rank, size, local_rank;
    const char *host; // or a part of the message
    uint16_t port;    // 0: any
} LaunchCase;

static const LaunchCase cases[] = {
    {{NULL}, LAUNCH_NONE, 0, 0, 0, "", 0},
    {{"WORLD_SIZE=4", "RANK=3", "LOCAL_RANK=1", "MASTER_ADDR=paris", "MASTER_PORT=29500"},
     LAUNCH_FOUND,
     3,
     4,
     1,
     "paris",
     29500},
    {{"WORLD_SIZE=4", "RANK=3", "MASTER_ADDR=paris", "MASTER_PORT=29500", "TORCHELASTIC_USE_AGENT_STORE=True"},
     LAUNCH_FOUND,
     3,
     4,
     0,
     "paris",
     29501},
    {{"WORLD_SIZE=4", "RANK=4", "MASTER_ADDR=paris", "MASTER_PORT=1"}, LAUNCH_WRONG, 0, 0, 0, "RANK is '4'", 0},
    {{"WORLD_SIZE=4", "RANK=x"}, LAUNCH_WRONG, 0, 0, 0, "RANK is 'x'", 0},
    {{"WORLD_SIZE=4"}, LAUNCH_WRONG, 0, 0, 0, "RANK is not set", 0},
    {{"WORLD_SIZE=4", "RANK=0", "MASTER_ADDR=paris"}, LAUNCH_WRONG, 0, 0, 0, "MASTER_PORT is not set", 0},
    {{"WORLD_SIZE=4", "RANK=0", "MASTER_PORT=77"}, LAUNCH_WRONG, 0, 0, 0, "set MASTER_ADDR", 0},
    {{"WORLD_SIZE=4", "RANK=0", "MASTER_ADDR=", "MASTER_PORT=77"}, LAUNCH_WRONG, 0, 0, 0, "set MASTER_ADDR", 0},
    {{"WORLD_SIZE=4", "RANK=0", "MASTER_ADDR=paris", "MASTER_PORT=0"}, LAUNCH_WRONG, 0, 0, 0, "MASTER_PORT is '0'", 0},
    {{"WORLD_SIZE=4", "RANK=0", "MASTER_ADDR=[fe80::1]", "MASTER_PORT=7"}, LAUNCH_FOUND, 0, 4, 0, "fe80::1", 7},
    {{"WORLD_SIZE=4", "RANK=0", "MASTER_ADDR=oslo", "MASTER_PORT=7", "HEP_JOB_SECRET=short"},
     LAUNCH_WRONG,
     0,
     0,
     0,
     "HEP_JOB_SECRET has 5 characters: expected 16 or more",
     0},
    {{"OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_LOCAL_RANK=1",
      "OMPI_COMM_WORLD_LOCAL_SIZE=2"},
     LAUNCH_FOUND,
     1,
     2,
     1,
     "127.0.0.1",
     0},
    {{"OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_LOCAL_SIZE=2"},
     LAUNCH_WRONG,
     0,
     0,
     0,
     "mpirun started processes on several machines: set MASTER_ADDR",
     0},
    {{"SLURM_STEP_NUM_TASKS=8", "SLURM_PROCID=5", "SLURM_LOCALID=1", "SLURM_STEP_NODELIST=node[07-08,11]"},
     LAUNCH_FOUND,
     5,
     8,
     1,
     "node07",
     0},
    {{"SLURM_STEP_NUM_TASKS=8", "SLURM_PROCID=5", "SLURM_STEP_NODELIST=oslo,paris"}, LAUNCH_FOUND, 5, 8, 0, "oslo", 0},
    {{"SLURM_STEP_NUM_TASKS=1", "SLURM_PROCID=0"}, LAUNCH_NONE, 0, 0, 0, "", 0},
};

// Of one job alike, of others not; what is given counts alone.
Test(rendezvous, secrets)
{
    Secret first, again, other, given, also;
    Fault fault = {0};
    forget_launchers();
    setenv("SLURM_JOB_ID", "4711", 1);
    cr_assert(job_secret_read(&first, &fault) && job_secret_read(&again, &fault));
    setenv("SLURM_JOB_ID", "4712", 1);
    cr_assert(job_secret_read(&other, &fault));
    cr_expect(job_secret_equal(first.bytes, again.bytes));
    cr_expect_not(job_secret_equal(first.bytes, other.bytes));
    setenv("HEP_JOB_SECRET", "0123456789abcdef", 1);
    cr_assert(job_secret_read(&given, &fault));
    unsetenv("SLURM_JOB_ID");
    cr_assert(job_secret_read(&also, &fault));
    cr_expect(job_secret_equal(given.bytes, also.bytes));
    cr_expect_not(job_secret_equal(given.bytes, other.bytes));
    forget_launchers();
}

Test(rendezvous, launchers)
{
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        const LaunchCase *of = &cases[c];
        Launch launch = {0};
        Fault fault = {0};
        forget_launchers();
        for (size_t e = 0; e < COUNT_OF(of->environment) && of->environment[e]; e++)
            putenv((char *)of->environment[e]);
        cr_assert_eq(launch_read(&launch, &fault), of->state, "case %zu: %s", c, fault.message);
        if (of->state == LAUNCH_WRONG)
            cr_expect(says(fault.message, of->host), "case %zu: %s", c, fault.message);
        if (of->state != LAUNCH_FOUND)
            continue;
        cr_expect_eq(launch.rank, of->rank, "case %zu", c);
        cr_expect_eq(launch.size, of->size, "case %zu", c);
        cr_expect_eq(launch.local_rank, of->local_rank, "case %zu", c);
        cr_expect_str_eq(launch.host, of->host, "case %zu", c);
        cr_expect(of->port ? launch.port == of->port : launch.port >= 20000, "case %zu", c);
    }
    forget_launchers();
}
