// Who is where and who talks to whom: the levels of a cluster, what their ports and links carry, coordinates of ranks,
// groups as formulas over coordinates. Owns Cluster with its parts, and Group. Bandwidths are bytes/s, times seconds.
#ifndef HEP_CLUSTER_H
#define HEP_CLUSTER_H

#include "ir/names.h"

enum { LEVELS_MAX = 8 };

typedef struct {
    const char *name;
    uint32_t count;                                      // workers per parent, n_l
    double bandwidth_bytes_per_s, latency_s, overhead_s; // of a worker's port, each way; overhead per message
} Level;

typedef struct {
    double compute_flops;                            // sustained FLOP/s of one GPU
    double memory_bytes;                             // of one GPU
    double memory_bandwidth;                         // bytes/s
    double half_rate_rows;                           // rows at which a matrix product reaches half the rate
    double encode_bandwidth;                         // dense bytes of experts or gradients that are encoded per second,
    double decode_bandwidth;                         // and that are decoded, where packets hold the largest elements;
    double quantize_bandwidth, dequantize_bandwidth; // the same where they hold some bits of every element
    EngineKind engine; // that plans are for: whose scratch counts in the memory they promise
    double peak_flops; // what its data sheet promises; 0: not known, `compute_flops` counts
    // Sustained by products of backward passes; 0: `compute_flops`. In no plan: steps have it.
    double backward_flops;
} Device;

// A worker of the outermost level, where these differ. A plan places workers at positions x_0: which of
// them form a domain, and at which offset, is part of the planner's answer.
typedef struct {
    const char *name;             // "paris"; "dc[3]" where the input names none
    uint32_t worker;              // its index in the input
    double bandwidth_bytes_per_s; // of its port, each way
    double latency_s;
} WorkerPort;

// The path between two workers of the outermost level, where it has a limit of its own: what goes from
// a to b, and as much from b to a, besides what their ports allow.
typedef struct {
    uint32_t a, b; // positions x_0, a < b
    double bandwidth_bytes_per_s, latency_s;
} WorkerLink;

typedef struct {
    const char *name;
    uint32_t level_count;
    Level levels[LEVELS_MAX]; // outermost first
    Device device;
    uint32_t port_count, link_count; // ports: levels[0].count, or 0: all like levels[0], unnamed
    WorkerPort *ports;               // by position
    WorkerLink *links;               // ascending by (a, b); pairs not listed are limited by their ports alone
} Cluster;

uint64_t cluster_gpus(const Cluster *cluster);                       // G = prod n_l
uint64_t cluster_gpus_below(const Cluster *cluster, uint32_t level); // c_l = prod_{j>l} n_j
void cluster_coordinates(const Cluster *cluster, uint64_t rank, uint32_t out[LEVELS_MAX]);
uint32_t cluster_coordinate(const Cluster *cluster, uint64_t rank, uint32_t level);
uint64_t cluster_rank(const Cluster *cluster, const uint32_t coordinates[LEVELS_MAX]);

// A group is a formula over coordinates, the same for every rank (docs/ir.md, "How a plan runs"):
//   GATHER    level l, domain S: ranks equal in all coordinates but l, and equal in x_l / S
//   EXCHANGE  level l, domain S: ranks equal in all coordinates but l, and equal in x_l % S
//   LEVEL     level l: ranks equal in all coordinates but l
//   WORLD     every rank
typedef struct {
    GroupKind kind;
    int32_t level;   // NONE for WORLD
    uint32_t domain; // S; 1 for LEVEL and WORLD
} Group;

uint64_t group_size(const Cluster *cluster, const Group *group);
// The rank of member `index`, 0 <= index < group_size, of the group that `rank` is in; members are
// ordered by rank. group_index is the inverse for `rank` itself.
uint64_t group_member_rank(const Cluster *cluster, const Group *group, uint64_t rank, uint64_t index);
uint64_t group_index(const Cluster *cluster, const Group *group, uint64_t rank);

// Over all groups that differ in x_0 and the pairs of workers in each, where workers of level 0 differ.
typedef struct {
    double latency_s;       // the largest
    double link_s_per_byte; // of the slowest link; 0: only ports limit
} WorstPair;

// The same without taking the latency of one pair for the bandwidth of another: a collective in which every GPU sends V
// bytes to its peers takes the largest of latency_s + c_0 V s_per_byte over these lines, none of which is above another
// everywhere. A pair with a link of its own is exact; of all others the slowest port and the largest latency make one
// line. Should there be more, neighbours are joined, which makes them slower.
enum { PAIR_LINES_MAX = 8 };

typedef struct {
    double latency_s, s_per_byte; // by the pair's ports, or by its link of which it has 1 / peers of V
} PairLine;

typedef struct {
    uint32_t count;                 // 0: all workers alike
    PairLine lines[PAIR_LINES_MAX]; // latencies ascend, s_per_byte descend
} PairLines;

void pair_lines_add(PairLines *lines, PairLine line);
// `bytes`: c_0 V; `inner_s`: what the ports of inner levels take, which every pair waits for.
double pair_lines_s(const PairLines *lines, double bytes, double inner_s);
PairLines cluster_pair_lines(const Cluster *cluster, const Group *group, uint32_t linked[]);

// `linked` is scratch of one number per port.
WorstPair cluster_worst_pair(const Cluster *cluster, const Group *group, uint32_t linked[]);
double cluster_slowest_port(const Cluster *cluster); // bytes/s, of level 0

// Processes are launched in the order of the input, worker by worker; ranks of a plan count positions. The process
// that is a plan's rank, and the rank that a process is.
uint64_t cluster_process_of_rank(const Cluster *cluster, uint64_t rank);
uint64_t cluster_rank_of_process(const Cluster *cluster, uint64_t process);

#endif
