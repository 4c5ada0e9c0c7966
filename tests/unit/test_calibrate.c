// Calibration under emulated links finds what is emulated: transfers are never faster than that, and not much slower.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "runtime/calibrate/calibrate.h"

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

// The emulation passes nothing faster than it says. A loaded machine may take longer, but not much.
static void assert_near(const Spread *measured, double emulated)
{
    cr_assert_leq(measured->median, 1.02 * emulated, "%g of %g", measured->median, emulated);
    cr_assert_geq(measured->median, 0.8 * emulated, "%g of %g", measured->median, emulated);
    cr_assert(measured->min <= measured->median && measured->median <= measured->max && measured->count > 0);
}

Test(calibrate, finds_emulated_ports)
{
    Cluster cluster = {.name = "two_tiers", .level_count = 2};
    cluster.levels[0] = (Level){.name = "dc", .count = 3, .bandwidth_bytes_per_s = 4e6, .latency_s = 8e-3};
    cluster.levels[1] = (Level){.name = "gpu", .count = 2, .bandwidth_bytes_per_s = 20e6, .latency_s = 2e-3};
    Calibration found;
    Text text = {0};
    calibrate(&cluster, true, &found, &text);
    for (uint32_t l = 0; l < 2; l++) {
        assert_near(&found.levels[l].bandwidth_bytes_per_s, cluster.levels[l].bandwidth_bytes_per_s);
        cr_assert_geq(found.levels[l].latency_s.median, cluster.levels[l].latency_s);
        cr_assert_leq(found.levels[l].latency_s.median, cluster.levels[l].latency_s + 30e-3);
    }
    cr_assert_gt(found.compute_flops, 1e6);
    cr_assert_gt(found.memory_bandwidth.median, 1e6);
    cr_assert_gt(found.encode_bandwidth.median, 1e5);
    cr_assert_gt(found.decode_bandwidth.median, found.encode_bandwidth.median, "decoding only adds what was sent");
    cr_assert_gt(found.memory_bytes, 1e6);
    cr_assert_eq(found.port_count, 0, "alike workers were told apart");
    cr_assert(strstr(text.data, "1970-01-01") && strstr(text.data, "level dc {\n    count = 3 "), "%s", text.data);
    text_free(&text);
    calibration_free(&found);
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
    Text text = {0};
    calibrate(&cluster, true, &found, &text);
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

Test(calibrate, reads_levels)
{
    Cluster cluster;
    char good[] = "dc=4,gpu=2", *bad[] = {(char[]){""}, (char[]){"dc"}, (char[]){"dc=1"}, (char[]){"=3"},
                                          (char[]){"d-c=3"}, (char[]){"dc=3x"}, (char[]){"dc=-3"},
                                          (char[]){"dc=2,dc=3"}};
    cr_assert_null(calibrate_parse_levels(good, &cluster));
    cr_assert_eq(cluster.level_count, 2);
    cr_assert_str_eq(cluster.levels[1].name, "gpu");
    cr_assert_eq(cluster_gpus(&cluster), 8);
    for (size_t b = 0; b < COUNT_OF(bad); b++)
        cr_assert_not_null(calibrate_parse_levels(bad[b], &cluster), "%zu", b);
}
