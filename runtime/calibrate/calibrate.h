// Calibration: what links and ranks really deliver, measured under the launcher of the job that is to be planned, and
// written as the cluster block of a .hep file. Links are measured through the communicator that plans use, all ranks at
// once; matrix products through the engine's kernels.
#ifndef HEP_CALIBRATE_H
#define HEP_CALIBRATE_H

#include <stdatomic.h>

#include "ir/base/text.h"
#include "runtime/comm/comm_threads.h"

enum { MATRIX_SIZES = 5, BACKWARD_SIZES = 2 };

typedef struct {
    double median, min, max;
    uint32_t count;  // samples; 0: not measured
    bool unreliable; // samples differ by so much that the median says little
} Spread;

typedef struct {
    Spread bandwidth_bytes_per_s; // of a port, each way, with all ranks below every port sending and receiving
    Spread latency_s;             // of an exchange with all siblings in which hardly anything is sent
    double port_bytes;            // that passed a port each way in each sample; 0: the middle one of ports that differ
} LevelMeasure;

typedef struct {
    uint32_t rows;
    Spread flops; // FLOP/s of one rank while all ranks compute
} MatrixMeasure;

typedef struct {
    LevelMeasure levels[LEVELS_MAX];
    uint32_t port_count; // workers of the outermost level, where these differ or the cluster names them; else 0
    Spread *ports;       // [port_count] bandwidths in bytes/s, by position; one worker at a time talks to all others
    Spread *pairs;       // [port_count][port_count] bandwidths of two workers that talk to nobody else
    MatrixMeasure matrices[MATRIX_SIZES];
    MatrixMeasure backward[BACKWARD_SIZES];    // the same of their gradients
    double compute_flops, half_rate_rows;      // of the curve through `matrices`
    double backward_flops;                     // of the curve with the same half-rate rows through `backward`
    Spread dtype_flops[DTYPE_COUNT];           // of GPUs: FLOP/s of the largest number of rows in the other dtypes
    Spread memory_bandwidth;                   // bytes/s read and written by one rank while all ranks do
    Spread encode_bandwidth, decode_bandwidth; // bytes/s of dense experts, likewise: by their largest elements
    Spread quantize_bandwidth, dequantize_bandwidth; // by some bits of every element
    double memory_bytes;                             // a rank's share of what its machine has left
    const char *communicator;
    double load;                            // of the machine before it began, see machine_load
    uint32_t processors, processors_online; // see processors_allowed
} Calibration;

typedef struct CalibrateDevice CalibrateDevice;

typedef struct {
    const CalibrateDevice *device; // whose memory and kernels are measured; NULL: the host's
    const Cluster *cluster;        // structure; bandwidths and latencies count only where links are emulated
    const ModelDims *dims;         // whose expert is computed: hidden, inner, activation, dtype
    Comm *comm; // this process is one rank of this world; NULL: all ranks are threads of this process
    bool emulate_links;
    double timeout_s;
    double sample_s; // how long a sample of a link takes: windows have to open, and it must dwarf a barrier
    const atomic_int *interrupted;                     // ends it when it becomes non-zero; may be NULL
    void (*progress)(void *context, const char *what); // what is measured now; may be NULL
    void *context;
} CalibrateOptions;

// "dc=4,gpu=2": names and counts of levels, outermost first; names point into `text`, which is cut up.
bool calibrate_parse_levels(char *text, Cluster *cluster, Fault *fault) MUST_CHECK;

// An expert of moderate size, for where no plan says one.
ModelDims calibrate_default_dims(void);
// 0.25 s for a sample; everything else is to be filled in.
CalibrateOptions calibrate_options_default(void);

// False and a fault on failure; the result may be freed either way. Every process gets all of it.
bool calibrate_run(const CalibrateOptions *options, Calibration *calibration, Fault *fault) MUST_CHECK;
void calibration_free(Calibration *calibration);

// A .hep file with the cluster block and, as comments, how its numbers came about. `time_s` is seconds since 1970.
void calibration_print(const CalibrateOptions *options, const Calibration *calibration, const char *version,
                       int64_t time_s, Text *out);
// A line per figure that is not to be relied on, and why; nothing where all are good.
void calibration_print_warnings(const CalibrateOptions *options, const Calibration *calibration, Text *out);

#endif
