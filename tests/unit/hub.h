// A carrier for tests: ranks are threads, channels are places where members put what they send until all have taken it.
// Sizes that differ are counted: the library has to find out before.
#ifndef HEP_TEST_HUB_H
#define HEP_TEST_HUB_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/hep.h"

enum { HUB_MEMBERS = 8, HUB_CHANNELS = 64 };

typedef struct {
    int32_t ranks[HUB_MEMBERS];
    int count, order; // how many of the same ranks there were before
    const char *send[HUB_MEMBERS];
    const int64_t *send_bytes[HUB_MEMBERS];
    uint64_t posted[HUB_MEMBERS], taken[HUB_MEMBERS];
    bool broken; // a member has left without having waited
} HubChannel;

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    HubChannel channels[HUB_CHANNELS];
    int count;
    double timeout_s;
    atomic_int mismatches, calls;
} Hub;

typedef struct {
    Hub *hub;
    struct {
        HubChannel *channel;
        int own;
    } opened[HUB_CHANNELS];
    int opened_count;
    const char *why;
} HubRank;

static inline void hub_init(Hub *hub, double timeout_s)
{
    memset(hub, 0, sizeof(*hub));
    pthread_mutex_init(&hub->mutex, NULL);
    clock_cond_init(&hub->changed);
    hub->timeout_s = timeout_s;
}

static inline int hub_open(void *user, int number, const int32_t *ranks, int count, int own)
{
    HubRank *rank = user;
    Hub *hub = rank->hub;
    int order = 0;
    for (int c = 0; c < rank->opened_count; c++) {
        const HubChannel *channel = rank->opened[c].channel;
        order +=
            channel && channel->count == count && memcmp(channel->ranks, ranks, (size_t)count * sizeof(*ranks)) == 0;
    }
    pthread_mutex_lock(&hub->mutex);
    HubChannel *found = NULL;
    for (int c = 0; c < hub->count; c++)
        if (hub->channels[c].count == count && hub->channels[c].order == order &&
            memcmp(hub->channels[c].ranks, ranks, (size_t)count * sizeof(*ranks)) == 0)
            found = &hub->channels[c];
    if (!found && hub->count < HUB_CHANNELS) {
        found = &hub->channels[hub->count++];
        found->count = count;
        found->order = order;
        memcpy(found->ranks, ranks, (size_t)count * sizeof(*ranks));
    }
    pthread_mutex_unlock(&hub->mutex);
    if (!found || number >= HUB_CHANNELS)
        return 1;
    rank->opened[number].channel = found;
    rank->opened[number].own = own;
    rank->opened_count = number + 1;
    return 0;
}

static inline bool hub_wait(HubRank *rank, double until_s)
{
    Hub *hub = rank->hub;
    struct timespec until = clock_timespec(until_s);
    if (clock_now_s() < until_s) {
        pthread_cond_timedwait(&hub->changed, &hub->mutex, &until);
        return true;
    }
    rank->why = "the hub has waited long enough";
    return false;
}

// All members have come as often as this one, or have taken as often.
static inline bool hub_meet(HubRank *rank, HubChannel *channel, const uint64_t *of, int own)
{
    double until_s = clock_now_s() + rank->hub->timeout_s;
    for (int m = 0; m < channel->count; m++)
        while (of[m] < of[own] && !channel->broken)
            if (!hub_wait(rank, until_s))
                channel->broken = true; // and stays so, whoever still waits
    return !channel->broken;
}

static inline bool hub_take(HubRank *rank, const HubChannel *channel, int own, char *recv, const int64_t *recv_bytes)
{
    for (int m = 0; m < channel->count; m++) {
        const char *from = channel->send[m];
        for (int before = 0; before < own; before++)
            from += channel->send_bytes[m][before];
        if (channel->send_bytes[m][own] != recv_bytes[m]) {
            atomic_fetch_add(&rank->hub->mismatches, 1);
            rank->why = "sizes differ";
            return false;
        }
        if (recv_bytes[m])
            memcpy(recv, from, (size_t)recv_bytes[m]);
        recv += recv_bytes[m];
    }
    return true;
}

static inline int hub_exchange(void *user, int number, const void *send, const int64_t *send_bytes, void *recv,
                               const int64_t *recv_bytes)
{
    HubRank *rank = user;
    Hub *hub = rank->hub;
    HubChannel *channel = rank->opened[number].channel;
    int own = rank->opened[number].own;
    atomic_fetch_add(&hub->calls, 1);
    pthread_mutex_lock(&hub->mutex);
    channel->send[own] = send;
    channel->send_bytes[own] = send_bytes;
    channel->posted[own]++;
    pthread_cond_broadcast(&hub->changed);
    bool ok = hub_meet(rank, channel, channel->posted, own) && hub_take(rank, channel, own, recv, recv_bytes);
    channel->taken[own]++;
    pthread_cond_broadcast(&hub->changed);
    ok = ok && hub_meet(rank, channel, channel->taken, own);
    pthread_mutex_unlock(&hub->mutex);
    return !ok;
}

static inline int hub_all_gather(void *user, int number, const void *own_bytes, void *all, int64_t bytes)
{
    HubRank *rank = user;
    int count = rank->opened[number].channel->count, own = rank->opened[number].own;
    int64_t send_bytes[HUB_MEMBERS] = {0}, recv_bytes[HUB_MEMBERS] = {0};
    char *others = calloc((size_t)(bytes * count) + 1, 1), *got = calloc((size_t)(bytes * count) + 1, 1);
    for (int m = 0, at = 0; m < count; m++) {
        send_bytes[m] = recv_bytes[m] = m == own ? 0 : bytes;
        if (m != own && bytes)
            memcpy(others + at++ * bytes, own_bytes, (size_t)bytes);
    }
    int code = hub_exchange(user, number, others, send_bytes, got, recv_bytes);
    for (int m = 0, at = 0; m < count && code == 0; m++)
        if (m != own && bytes)
            memcpy((char *)all + m * bytes, got + at++ * bytes, (size_t)bytes);
    free(others);
    free(got);
    return code;
}

static inline const char *hub_why(void *user)
{
    return ((HubRank *)user)->why;
}

#endif
