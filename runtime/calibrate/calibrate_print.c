// Writes a calibration as a .hep file. Numbers have the three digits that such measurements are good for.
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "runtime/calibrate/calibrate_internal.h"

static const double narrow_ratio = 0.75; // of a port, up to which a pair is written as a link

typedef const char *(*Format)(char out[FORMAT_MAX], double value);

static void print_spread(const char *what, const Spread *spread, Format format, Text *out)
{
    char median[FORMAT_MAX], min[FORMAT_MAX], max[FORMAT_MAX];
    text_format(out, "%s %s (%s to %s in %" PRIu32 "%s)", what, format(median, spread->median),
                format(min, spread->min), format(max, spread->max), spread->count,
                spread->unreliable ? ": unreliable" : "");
}

static const char *format_memory_rate(char out[FORMAT_MAX], double bytes_per_s)
{
    size_t length = strlen(format_bytes(out, bytes_per_s));
    snprintf(out + length, FORMAT_MAX - length, "/s");
    return out;
}

// Load that half of the processors carry holds up whoever wants all of them.
static bool is_busy(const Calibration *calibration)
{
    return calibration->load > 0.5 * calibration->processors_online;
}

static void print_machine(const char *before, const Calibration *calibration, Text *out)
{
    if (is_busy(calibration))
        text_format(out,
                    "%sOther programs were running before it began: a load of %.1f on %" PRIu32
                    " processors. Measure when the machine is idle.\n",
                    before, calibration->load, calibration->processors_online);
    if (calibration->processors < calibration->processors_online)
        text_format(out, "%sThe first process may use %" PRIu32 " of %" PRIu32 " processors (its affinity mask).\n",
                    before, calibration->processors, calibration->processors_online);
}

static void print_head(const CalibrateOptions *options, const Calibration *calibration, const char *version,
                       int64_t time_s, Text *out)
{
    char date[64] = "";
    time_t time = (time_t)time_s;
    struct tm utc;
    if (gmtime_r(&time, &utc))
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M UTC", &utc);
    text_format(out,
                "# Measured by hep-run %s --calibrate, %s: %" PRIu64 " ranks, communicator %s%s.\n"
                "# Medians of the samples; in comments smallest and largest. Take it into a description by\n"
                "#   include \"THIS FILE\"\n"
                "# in place of its cluster block.\n",
                version, date, cluster_gpus(options->cluster), calibration->communicator,
                options->emulate_links ? ", links emulated" : "");
    print_machine("# ", calibration, out);
    text_append(out, "\n");
}

// The position of the worker that the input lists as number `worker`.
static uint32_t position_of(const Cluster *cluster, uint32_t worker)
{
    for (uint32_t p = 0; p < cluster->port_count; p++)
        if (cluster->ports[p].worker == worker)
            return p;
    return worker;
}

// Names that are no words were given as numbers: "dc[3]".
static bool is_named(const Cluster *cluster)
{
    for (uint32_t p = 0; p < cluster->port_count; p++)
        for (const char *c = cluster->ports[p].name; *c; c++)
            if (*c == '[')
                return false;
    return cluster->port_count > 0;
}

static void print_names(const Cluster *cluster, Text *out)
{
    text_append(out, "    names = [");
    for (uint32_t w = 0; w < cluster->port_count; w++)
        text_format(out, "%s\"%s\"", w ? ", " : "", cluster->ports[position_of(cluster, w)].name);
    text_append(out, "]\n");
}

static void print_level(const Cluster *cluster, uint32_t index, const LevelMeasure *measure, Text *out)
{
    const Level *level = &cluster->levels[index];
    char bandwidth[FORMAT_MAX], latency[FORMAT_MAX], bytes[FORMAT_MAX];
    bool measured = measure->bandwidth_bytes_per_s.count;
    if (measured) {
        if (measure->port_bytes > 0)
            text_format(out, "  # %s each way through every port:", format_bytes(bytes, measure->port_bytes));
        else
            text_append(out, "  # Of the ports below the middle one:");
        print_spread("", &measure->bandwidth_bytes_per_s, format_bandwidth, out);
        print_spread(";\n  # of exchanges of next to nothing:", &measure->latency_s, format_time, out);
    } else {
        text_append(out, "  # not measured: nothing passes a level of one worker");
    }
    double bytes_per_s = measured ? measure->bandwidth_bytes_per_s.median : level->bandwidth_bytes_per_s;
    text_format(out, "\n  level %s {\n    count = %" PRIu32 "  bandwidth = %s  latency = %s\n", level->name,
                level->count, format_bandwidth(bandwidth, bytes_per_s),
                format_time(latency, measured ? measure->latency_s.median : level->latency_s));
    if (index == 0 && is_named(cluster))
        print_names(cluster, out);
    text_append(out, "  }\n");
}

static void print_worker(const Cluster *cluster, uint32_t worker, Text *out)
{
    if (is_named(cluster))
        text_format(out, "%s[\"%s\"]", cluster->levels[0].name, cluster->ports[position_of(cluster, worker)].name);
    else
        text_format(out, "%s[%" PRIu32 "]", cluster->levels[0].name, worker);
}

static void print_ports(const Cluster *cluster, const Calibration *calibration, Text *out)
{
    char bandwidth[FORMAT_MAX];
    if (calibration->port_count)
        text_append(out, "  # Each one alone with all others; what these can take together is the most it can show.\n");
    for (uint32_t w = 0; w < calibration->port_count; w++) {
        const Spread *port = &calibration->ports[position_of(cluster, w)];
        text_append(out, "  port ");
        print_worker(cluster, w, out);
        text_format(out, " { bandwidth = %s }", format_bandwidth(bandwidth, port->median));
        print_spread("   #", port, format_bandwidth, out);
        text_append(out, "\n");
    }
}

// A pair that carries less than either port of it: the path between has a limit of its own.
static void print_links(const Cluster *cluster, const Calibration *calibration, Text *out)
{
    char bandwidth[FORMAT_MAX];
    uint32_t count = calibration->port_count;
    for (uint32_t a = 0; a < count; a++)
        for (uint32_t b = a + 1; b < count; b++) {
            uint32_t from = position_of(cluster, a), to = position_of(cluster, b);
            const Spread *pair = &calibration->pairs[from * count + to];
            if (pair->median > narrow_ratio * calibration->ports[from].median ||
                pair->median > narrow_ratio * calibration->ports[to].median)
                continue;
            text_format(out, "  link ");
            print_worker(cluster, a, out);
            text_append(out, ", ");
            print_worker(cluster, b, out);
            text_format(out, " { bandwidth = %s }", format_bandwidth(bandwidth, pair->median));
            print_spread("   #", pair, format_bandwidth, out);
            text_append(out, "\n");
        }
}

static void print_device(const CalibrateOptions *options, const Calibration *calibration, Text *out)
{
    char a[FORMAT_MAX], b[FORMAT_MAX], c[FORMAT_MAX], d[FORMAT_MAX], e[FORMAT_MAX], f[FORMAT_MAX], g[FORMAT_MAX],
        h[FORMAT_MAX];
    const ModelDims *dims = options->dims;
    text_format(out, "  # An expert of hidden %" PRIu32 ", inner %" PRIu32 ", %s, %s, on every rank at once:\n",
                dims->hidden, dims->inner, activation_name(dims->activation), dtype_name(dims->dtype));
    for (uint32_t m = 0; m < MATRIX_SIZES; m++) {
        text_format(out, "  # %6" PRIu32 " rows", calibration->matrices[m].rows);
        print_spread("", &calibration->matrices[m].flops, format_rate, out);
        text_append(out, "\n");
    }
    for (uint32_t m = 0; m < BACKWARD_SIZES; m++) {
        text_format(out, "  # %6" PRIu32 " rows, its gradients", calibration->backward[m].rows);
        print_spread("", &calibration->backward[m].flops, format_rate, out);
        text_append(out, "\n");
    }
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++)
        if (calibration->dtype_flops[dtype].count) {
            text_format(out, "  # %6" PRIu32 " rows in %s", calibration->matrices[MATRIX_SIZES - 1].rows,
                        dtype_name((Dtype)dtype));
            print_spread("", &calibration->dtype_flops[dtype], format_rate, out);
            text_append(out, "\n");
        }
    text_format(
        out, "  # %s, every rank:", options->device ? options->device->memory_words : "Memory, two reads and a write");
    print_spread("", &calibration->memory_bandwidth, format_memory_rate, out);
    text_append(out, "\n");
    print_spread("  # The same expert encoded, every rank:", &calibration->encode_bandwidth, format_memory_rate, out);
    print_spread("; decoded:", &calibration->decode_bandwidth, format_memory_rate, out);
    print_spread("\n  # In a bit per weight:", &calibration->quantize_bandwidth, format_memory_rate, out);
    print_spread("; decoded:", &calibration->dequantize_bandwidth, format_memory_rate, out);
    text_format(
        out,
        "\n  device {\n    compute = %s  backward_compute = %s  half_rate_rows = %.3g\n    memory = "
        "%s  memory_bandwidth = "
        "%s/s\n    encode_bandwidth = %s/s  decode_bandwidth = %s/s\n    quantize_bandwidth = %s/s  "
        "dequantize_bandwidth = %s/s%s\n  }\n",
        format_rate(a, calibration->compute_flops), format_rate(h, calibration->backward_flops),
        calibration->half_rate_rows, format_bytes(b, calibration->memory_bytes),
        format_bytes(c, calibration->memory_bandwidth.median), format_bytes(d, calibration->encode_bandwidth.median),
        format_bytes(e, calibration->decode_bandwidth.median), format_bytes(f, calibration->quantize_bandwidth.median),
        format_bytes(g, calibration->dequantize_bandwidth.median), options->device ? "  engine = cuda" : "");
}

void calibration_print(const CalibrateOptions *options, const Calibration *calibration, const char *version,
                       int64_t time_s, Text *out)
{
    const Cluster *cluster = options->cluster;
    print_head(options, calibration, version, time_s, out);
    text_format(out, "cluster %s {\n", cluster->name && cluster->name[0] ? cluster->name : "measured");
    for (uint32_t l = 0; l < cluster->level_count; l++)
        print_level(cluster, l, &calibration->levels[l], out);
    print_ports(cluster, calibration, out);
    print_links(cluster, calibration, out);
    print_device(options, calibration, out);
    text_append(out, "}\n");
}

// ---- warnings --------------------------------------------------------------------------------

static void warn(const char *what, const Spread *spread, Format format, Text *out)
{
    char median[FORMAT_MAX], min[FORMAT_MAX], max[FORMAT_MAX];
    if (spread->unreliable)
        text_format(out, "%s is unreliable: %" PRIu32 " samples from %s to %s, of which %s is the middle one\n", what,
                    spread->count, format(min, spread->min), format(max, spread->max), format(median, spread->median));
}

static void warn_of_levels(const CalibrateOptions *options, const Calibration *calibration, Text *out)
{
    char what[128];
    for (uint32_t l = 0; l < options->cluster->level_count; l++) {
        snprintf(what, sizeof(what), "latency of level '%s'", options->cluster->levels[l].name);
        warn(what, &calibration->levels[l].latency_s, format_time, out);
        snprintf(what, sizeof(what), "bandwidth of level '%s'", options->cluster->levels[l].name);
        warn(what, &calibration->levels[l].bandwidth_bytes_per_s, format_bandwidth, out);
    }
    for (uint32_t p = 0; p < calibration->port_count; p++) {
        snprintf(what, sizeof(what), "bandwidth of port %" PRIu32, p);
        warn(what, &calibration->ports[p], format_bandwidth, out);
    }
}

void calibration_print_warnings(const CalibrateOptions *options, const Calibration *calibration, Text *out)
{
    char what[128];
    print_machine("", calibration, out);
    warn_of_levels(options, calibration, out);
    for (uint32_t m = 0; m < MATRIX_SIZES; m++) {
        snprintf(what, sizeof(what), "compute rate of %" PRIu32 " rows", calibration->matrices[m].rows);
        warn(what, &calibration->matrices[m].flops, format_rate, out);
    }
    for (uint32_t m = 0; m < BACKWARD_SIZES; m++) {
        snprintf(what, sizeof(what), "compute rate of the gradients of %u rows", calibration->backward[m].rows);
        warn(what, &calibration->backward[m].flops, format_rate, out);
    }
    warn("memory bandwidth", &calibration->memory_bandwidth, format_memory_rate, out);
    warn("bandwidth of encoding", &calibration->encode_bandwidth, format_memory_rate, out);
    warn("bandwidth of decoding", &calibration->decode_bandwidth, format_memory_rate, out);
    warn("bandwidth of quantizing", &calibration->quantize_bandwidth, format_memory_rate, out);
    warn("bandwidth of dequantizing", &calibration->dequantize_bandwidth, format_memory_rate, out);
}
