// Calibration under emulated links finds what is emulated: transfers are never faster than that, and not much slower.
// builds: fast  seconds: 10  alone
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "runtime/calibrate/calibrate_internal.h"

static ModelDims small_expert(void)
{
    ModelDims dims = calibrate_default_dims();
    dims.hidden = 32;
    dims.inner = 64;
    return dims;
}

static void calibrate(const Cluster *cluster, bool emulate, Calibration *calibration, Text *text)
{
    ModelDims dims = small_expert();
    CalibrateOptions options = calibrate_options_default();
    options.cluster = cluster;
    options.dims = &dims;
    options.emulate_links = emulate;
    options.sample_s = 0.04;
    Fault fault = {0};
    cr_assert(calibrate_run(&options, calibration, &fault), "%s", fault.message);
    if (text)
        calibration_print(&options, calibration, "0", 0, text);
}

// The emulation passes nothing faster than it says. On a busy machine it may take longer; a bandwidth, which follows
// from how much longer more bytes take, may seem higher, too.
static bool is_near(const Spread *measured, double emulated)
{
    cr_assert_leq(measured->median, 1.5 * emulated, "%g of %g", measured->median, emulated);
    cr_assert(measured->min <= measured->median && measured->median <= measured->max && measured->count > 0);
    return measured->median >= 0.8 * emulated && measured->median <= 1.02 * emulated;
}

static void assert_near(const Spread *measured, double emulated)
{
    cr_assert(is_near(measured, emulated), "%g of %g", measured->median, emulated);
}

// Calibrates until the machine was quiet enough for all that it found to be near, which it always is without other
// programs.
static void calibrate_quietly(const Cluster *cluster, bool (*near)(const Cluster *cluster, const Calibration *found),
                              Calibration *found, Text *text)
{
    enum { TRIES = 12 };
    for (int try = 0; try < TRIES; try++) {
        *text = (Text){0};
        calibrate(cluster, true, found, text);
        if (near(cluster, found))
            return;
        if (try < TRIES - 1) {
            text_free(text);
            calibration_free(found);
        }
    }
    cr_assert_fail("never near what was emulated:\n%s", text->data);
}

static bool levels_near(const Cluster *cluster, const Calibration *found)
{
    bool near = found->port_count == 0; // alike workers are not told apart
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        const Level *level = &cluster->levels[l];
        const Spread *latency_s = &found->levels[l].latency_s;
        cr_assert_geq(latency_s->median, level->latency_s);
        near = is_near(&found->levels[l].bandwidth_bytes_per_s, level->bandwidth_bytes_per_s) && near;
        near = near && latency_s->median <= level->latency_s + 30e-3;
    }
    return near;
}

Test(calibrate, finds_emulated_ports)
{
    Cluster cluster = {.name = "two_tiers", .level_count = 2};
    cluster.levels[0] = (Level){.name = "dc", .count = 3, .bandwidth_bytes_per_s = 4e6, .latency_s = 8e-3};
    cluster.levels[1] = (Level){.name = "gpu", .count = 2, .bandwidth_bytes_per_s = 20e6, .latency_s = 2e-3};
    Calibration found;
    Text text;
    calibrate_quietly(&cluster, levels_near, &found, &text);
    for (uint32_t l = 0; l < 2; l++) {
        assert_near(&found.levels[l].bandwidth_bytes_per_s, cluster.levels[l].bandwidth_bytes_per_s);
        cr_assert_geq(found.levels[l].latency_s.median, cluster.levels[l].latency_s);
        cr_assert_leq(found.levels[l].latency_s.median, cluster.levels[l].latency_s + 30e-3);
    }
    cr_assert_eq(found.port_count, 0, "alike workers were told apart");
    cr_assert_gt(found.compute_flops, 1e6);
    cr_assert_gt(found.memory_bandwidth.median, 1e6);
    cr_assert_gt(found.encode_bandwidth.median, 1e5);
    cr_assert_gt(found.decode_bandwidth.median, found.encode_bandwidth.median, "decoding only adds what was sent");
    cr_assert_gt(found.memory_bytes, 1e6);
    cr_assert(strstr(text.data, "1970-01-01") && strstr(text.data, "level dc {\n    count = 3 "), "%s", text.data);
    text_free(&text);
    calibration_free(&found);
}

// Of the four workers below: what two that talk to nobody else can reach.
static double pair_bandwidth(const Cluster *cluster, uint32_t a, uint32_t b)
{
    const WorkerPort *ports = cluster->ports;
    return a == 1 && b == 3 ? 3e6 : fmin(ports[a].bandwidth_bytes_per_s, ports[b].bandwidth_bytes_per_s);
}

static bool ports_near(const Cluster *cluster, const Calibration *found)
{
    bool near = found->port_count == cluster->port_count;
    for (uint32_t p = 0; near && p < cluster->port_count; p++)
        near = is_near(&found->ports[p], cluster->ports[p].bandwidth_bytes_per_s);
    for (uint32_t a = 0; near && a < cluster->port_count; a++)
        for (uint32_t b = 0; near && b < cluster->port_count; b++)
            if (a != b && found->pairs[a * 4 + b].count > 0)
                near = is_near(&found->pairs[a * 4 + b], pair_bandwidth(cluster, a < b ? a : b, a < b ? b : a));
    return near && found->pairs[1 * 4 + 3].count > 0 && found->pairs[2 * 4 + 1].count > 0;
}

Test(calibrate, finds_unlike_ports_and_links)
{
    WorkerPort ports[] = {
        {"oslo", 2, 2e6, 1e-3}, {"bonn", 0, 8e6, 1e-3}, {"rome", 1, 8e6, 1e-3}, {"bari", 3, 8e6, 1e-3}};
    WorkerLink links[] = {{1, 3, 3e6, 1e-3}};
    Cluster cluster = {.name = "unlike", .level_count = 1, .port_count = 4, .ports = ports};
    cluster.link_count = 1;
    cluster.links = links;
    cluster.levels[0] = (Level){.name = "dc", .count = 4, .bandwidth_bytes_per_s = 8e6, .latency_s = 1e-3};
    Calibration found;
    Text text;
    calibrate_quietly(&cluster, ports_near, &found, &text);
    cr_assert_eq(found.port_count, 4);
    for (uint32_t p = 0; p < 4; p++)
        assert_near(&found.ports[p], ports[p].bandwidth_bytes_per_s);
    assert_near(&found.pairs[1 * 4 + 3], 3e6);
    assert_near(&found.pairs[2 * 4 + 1], 8e6);
    const char *link = strstr(text.data, "  link ");
    cr_assert(link && strstr(link, "link dc[\"bonn\"], dc[\"bari\"] {") == link + 2, "%s", text.data);
    cr_assert_null(strstr(link + 1, "  link "), "%s", text.data);
    cr_assert(strstr(text.data, "names = [\"bonn\", \"rome\", \"oslo\", \"bari\"]"), "%s", text.data);
    cr_assert(strstr(text.data, "port dc[\"oslo\"] {"), "%s", text.data);
    text_free(&text);
    calibration_free(&found);
}

// Half of the samples must agree within a factor of two, and the fastest must not be three times as fast as the middle.
Test(calibrate, tells_when_samples_are_no_good)
{
    const struct {
        double samples[7];
        uint32_t count;
        bool unreliable;
    } cases[] = {
        {{1, 1.1, 1.2, 1.1, 1}, 5, false},
        {{1, 1.1, 90, 1.1, 1}, 5, false},           // one was held up
        {{1, 1.1, 90, 80, 1}, 5, true},             // two of five: the middle half is 1 to 80
        {{4, 4.2, 1, 4.1, 4.3, 4.4, 4.5}, 7, true}, // nearly all were, alike: 4.2 against 1
        {{4, 4.2, 2, 4.1, 4.3, 4.4, 4.5}, 7, false},
        {{2, 3, 4.1}, 3, true},
        {{2, 3, 3.9}, 3, false},
    };
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        double samples[7];
        memcpy(samples, cases[c].samples, sizeof(samples));
        Spread times = calibrate_spread(samples, cases[c].count);
        cr_assert_eq(times.unreliable, cases[c].unreliable, "case %zu", c);
        cr_assert_eq(calibrate_rate(times, 10).unreliable, cases[c].unreliable, "case %zu, as a rate", c);
    }
}

Test(calibrate, warns_of_figures_that_are_no_good)
{
    ModelDims dims = small_expert();
    Cluster cluster = {.name = "c", .level_count = 1, .levels = {{.name = "dc", .count = 2}}};
    CalibrateOptions options = calibrate_options_default();
    Calibration found = {.communicator = "threads", .load = 0.4, .processors = 2, .processors_online = 2};
    Text text = {0};
    options.cluster = &cluster;
    options.dims = &dims;
    found.levels[0].latency_s = (Spread){2e-3, 1e-4, 9e-3, 25, false};
    found.levels[0].bandwidth_bytes_per_s = (Spread){1e9, 9e8, 1.1e9, 5, false};
    calibration_print_warnings(&options, &found, &text);
    cr_assert_eq(text.length, 0, "%s", text.data);
    found.levels[0].latency_s.unreliable = true;
    found.memory_bandwidth = (Spread){535e6, 363e6, 2.24e9, 5, true};
    found.load = 5.4;
    found.processors = 1;
    calibration_print_warnings(&options, &found, &text);
    cr_assert_str_eq(text.data,
                     "Other programs were running before it began: a load of 5.4 on 2 processors. Measure when the "
                     "machine is idle.\nThe first process may use 1 of 2 processors (its affinity mask).\n"
                     "latency of level 'dc' is unreliable: 25 samples from 100 us to 9 ms, of which 2 ms is the middle "
                     "one\nmemory bandwidth is unreliable: 5 samples from 363 MB/s to 2.24 GB/s, of which 535 MB/s is "
                     "the middle one\n");
    text_free(&text);
    calibration_print(&options, &found, "0", 0, &text);
    cr_assert(strstr(text.data, "2 ms (100 us to 9 ms in 25: unreliable)"), "%s", text.data);
    cr_assert(strstr(text.data, "\n# Other programs were running"), "%s", text.data);
    text_free(&text);
}

Test(calibrate, reads_levels)
{
    Cluster cluster;
    char good[] = "dc=4,gpu=2",
         *bad[] = {(char[]){""},      (char[]){"dc"},    (char[]){"dc=1"},  (char[]){"=3"},
                   (char[]){"d-c=3"}, (char[]){"dc=3x"}, (char[]){"dc=-3"}, (char[]){"dc=2,dc=3"}};
    cr_assert(calibrate_parse_levels(good, &cluster, &(Fault){0}));
    cr_assert_eq(cluster.level_count, 2);
    cr_assert_str_eq(cluster.levels[1].name, "gpu");
    cr_assert_eq(cluster_gpus(&cluster), 8);
    for (size_t b = 0; b < COUNT_OF(bad); b++) {
        Fault fault = {0};
        cr_assert_not(calibrate_parse_levels(bad[b], &cluster, &fault), "%zu", b);
        cr_assert_eq(fault.kind, FAULT_USAGE);
        cr_assert_eq(strncmp(fault.message, "--levels: ", 10), 0, "%s", fault.message);
    }
}
