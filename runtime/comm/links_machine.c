// See links_machine.h. Every byte that passes an emulated link is copied once by a processor of this machine.
#include "runtime/comm/links_machine.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ir/base/tasks.h"
#include "runtime/base/clock.h"

enum { COPIED_BYTES = 16 << 20, COPIES = 4, SLEEPS = 25 };

static const double sleep_s = 50e-6;

static double copy_rate(void)
{
    char *from = malloc(COPIED_BYTES), *to = malloc(COPIED_BYTES);
    double best_s = INFINITY;
    if (from && to) {
        memset(from, 1, COPIED_BYTES);
        memset(to, 2, COPIED_BYTES);
        for (int i = 0; i < COPIES; i++) {
            double begin_s = clock_now_s();
            memcpy(to, from, COPIED_BYTES);
            __asm__ volatile("" : : "r"(to) : "memory"); // the copy is wanted
            best_s = fmin(best_s, clock_now_s() - begin_s);
        }
    }
    free(from);
    free(to);
    return COPIED_BYTES / fmax(best_s, 1e-9);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double wake_delay(void)
{
    double late_s[SLEEPS];
    for (int i = 0; i < SLEEPS; i++) {
        double until_s = clock_now_s() + sleep_s;
        clock_sleep_until(until_s);
        late_s[i] = clock_now_s() - until_s;
    }
    qsort(late_s, SLEEPS, sizeof(*late_s), compare_doubles);
    return late_s[SLEEPS / 2];
}

LinksMachine links_machine_measure(void)
{
    return (LinksMachine){.copy_bytes_per_s = copy_rate(), .processors = processors_allowed(), .wake_s = wake_delay()};
}

// What all ports of a level carry one way when they are busy.
static double level_bytes_per_s(const Cluster *cluster, uint32_t level)
{
    double sum = 0;
    uint64_t workers = cluster_gpus(cluster) / cluster_gpus_below(cluster, level);
    if (level > 0 || cluster->port_count == 0)
        return (double)workers * cluster->levels[level].bandwidth_bytes_per_s;
    for (uint32_t p = 0; p < cluster->port_count; p++)
        sum += cluster->ports[p].bandwidth_bytes_per_s;
    return sum;
}

void links_machine_explain(const LinksMachine *machine, const Cluster *cluster, Text *out)
{
    char wanted[FORMAT_MAX], had[FORMAT_MAX];
    double copied = machine->copy_bytes_per_s * machine->processors;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        const Level *level = &cluster->levels[l];
        double sum = level_bytes_per_s(cluster, l);
        if (level->count < 2)
            continue;
        if (sum > copied)
            text_format(out,
                        "this machine cannot emulate the bandwidth of level '%s': its ports carry %s/s together, "
                        "%" PRIu32 " processor%s copy at most %s/s: transfers take at least %.3g times as long\n",
                        level->name, format_bytes(wanted, sum), machine->processors,
                        machine->processors == 1 ? "" : "s", format_bytes(had, copied), sum / copied);
        if (level->latency_s > 0 && level->latency_s < machine->wake_s)
            text_format(out,
                        "this machine cannot emulate the latency of level '%s', %s: threads wake up %s late as it is\n",
                        level->name, format_time(wanted, level->latency_s), format_time(had, machine->wake_s));
    }
}
