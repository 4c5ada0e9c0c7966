// See signals.h. Handlers write atomics alone: any thread may take a signal.
#include "runtime/signals.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

atomic_int signals_asked;
atomic_int signals_state_asked;
static atomic_llong asked_ms; // CLOCK_MONOTONIC, of the first that asked for the end
static atomic_bool heeded;
static int chosen_signal;
static void (*end_at_once)(int second);
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LLONG_LOCK_FREE == 2, "signal handlers must not take locks");

// `timeout`, shells and launchers may signal a process and its group: what comes so soon is the same request.
enum { SAME_REQUEST_MS = 200 };

static const struct {
    const char *name;
    int number;
} known[] = {{"USR2", SIGUSR2}, {"USR1", SIGUSR1}, {"TERM", SIGTERM}, {"INT", SIGINT}, {"HUP", SIGHUP},
             {"QUIT", SIGQUIT}, {"ALRM", SIGALRM}, {"XCPU", SIGXCPU}, {"PWR", SIGPWR}, {"URG", SIGURG}};

int signals_parse(const char *name)
{
    char *end;
    long number = strtol(name, &end, 10);
    bool is_number = name[0] >= '0' && name[0] <= '9' && *end == '\0';
    const char *word = strncasecmp(name, "SIG", 3) == 0 ? name + 3 : name;
    for (size_t k = 0; k < COUNT_OF(known); k++)
        if (is_number ? number == known[k].number : strcasecmp(word, known[k].name) == 0)
            return known[k].number;
    return 0;
}

const char *signals_name(size_t index)
{
    return index < COUNT_OF(known) ? known[index].name : NULL;
}

const char *signals_describe(int signal, char text[FORMAT_MAX])
{
    const char *name = sigabbrev_np(signal);
    snprintf(text, FORMAT_MAX, "%s%s", name ? "SIG" : "a signal", name ? name : "");
    return text;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void on_end(int number)
{
    int none = 0;
    if (!atomic_load(&heeded))
        end_at_once(0);
    if (atomic_load(&signals_asked) == 0)
        atomic_store(&asked_ms, now_ms());
    if (atomic_compare_exchange_strong(&signals_asked, &none, number) ||
        now_ms() - atomic_load(&asked_ms) < SAME_REQUEST_MS)
        return;
    if (number == SIGURG) // of these the only one that by default ends nothing
        end_at_once(number);
    signal(number, SIG_DFL);
    raise(number); // delivered when this handler returns
}

static void on_state(int number)
{
    (void)number;
    atomic_store(&signals_state_asked, 1);
}

static void catch_one(int number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

// Libraries that MPI brings along take SIGHUP before `main` runs (UCX does, to show its state), whoever started the
// program: whether it was to be ignored is looked up before any library is initialised.
static bool ignores_hangup;

static void note_hangup(void)
{
    struct sigaction before;
    ignores_hangup = sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler == SIG_IGN;
}

__attribute__((section(".preinit_array"), used)) static void (*const at_first)(void) = note_hangup;

void signals_prepare(void)
{
    signal(SIGXFSZ, SIG_IGN);
}

static void catch_all(void)
{
    if (ignores_hangup)
        signal(SIGHUP, SIG_IGN);
    else
        catch_one(SIGHUP, on_end);
    catch_one(SIGUSR1, on_state);
    catch_one(SIGINT, on_end);
    catch_one(SIGTERM, on_end);
    if (chosen_signal != 0)
        catch_one(chosen_signal, on_end);
}

void signals_catch(int chosen, void (*end)(int second))
{
    chosen_signal = chosen;
    end_at_once = end;
    catch_all();
}

void signals_heed(void)
{
    atomic_store(&heeded, true);
    catch_all(); // libraries that were loaded meanwhile may have taken some
}
