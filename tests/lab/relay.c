// lab_relay DELAY_US PORT...: a switch in user space between network interfaces, which hands every frame on
// DELAY_US microseconds after it came. Stands in for bridge and netem where the kernel has no netem. Frames
// carry virtio headers, so that segmentation and checksum offload stay on. A frame for MAC address
// 02:00:00:00:00:NN goes to the NNth port, one for all to all other ports. Runs until it is killed, and dies with its
// parent. tests/lab/lab starts it.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORTS_MAX = 64, FRAME_BYTES_MAX = 1 << 17, SOCKET_BYTES = 64 << 20, BURST = 64, MAC_LAST = 5 };

typedef struct Frame {
    struct Frame *next;
    int64_t due_ns;
    size_t bytes;
    char data[]; // virtio header, Ethernet header, payload
} Frame;

typedef struct {
    int socket;
    Frame *first, **last; // waiting to leave, ascending by due_ns
    int blocked;          // the socket takes no more
} Port;

static Port ports[PORTS_MAX];
static nfds_t port_count;
static int64_t delay_ns;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "lab_relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_port(const char *name)
{
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name)};
    int one = 1, bytes = SOCKET_BYTES, port = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));
    if (port < 0 || address.sll_ifindex == 0 || bind(port, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        setsockopt(port, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0 ||
        setsockopt(port, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) < 0)
        fail(name);
    // Only root of the machine may exceed its limits; others get what is allowed.
    if (setsockopt(port, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0)
        setsockopt(port, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
    if (setsockopt(port, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
        setsockopt(port, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    return port;
}

static void enqueue(Port *port, const char *data, size_t bytes, int64_t due_ns)
{
    Frame *frame = malloc(sizeof(*frame) + bytes);
    if (!frame)
        return; // a switch without room drops the frame
    *frame = (Frame){.due_ns = due_ns, .bytes = bytes};
    memcpy(frame->data, data, bytes);
    *port->last = frame;
    port->last = &frame->next;
}

static void take_frames(nfds_t from)
{
    static char data[FRAME_BYTES_MAX];
    for (int i = 0; i < BURST; i++) {
        ssize_t bytes = recv(ports[from].socket, data, sizeof(data), 0);
        if (bytes < (ssize_t)(sizeof(struct virtio_net_hdr) + ETH_HLEN))
            return; // nothing there, or an interface that is down
        int64_t due_ns = now_ns() + delay_ns;
        const unsigned char *to = (const unsigned char *)data + sizeof(struct virtio_net_hdr);
        for (nfds_t p = 0; p < port_count; p++) {
            if (p != from && (to[0] & 1 || to[MAC_LAST] == p + 1))
                enqueue(&ports[p], data, (size_t)bytes, due_ns);
        }
    }
}

static void send_due(Port *port, int64_t time_ns)
{
    port->blocked = 0;
    while (port->first && port->first->due_ns <= time_ns) {
        Frame *frame = port->first;
        ssize_t sent = send(port->socket, frame->data, frame->bytes, 0);
        if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) {
            port->blocked = errno == EAGAIN;
            frame->due_ns += errno == EAGAIN ? 0 : 200000;
            return;
        }
        port->first = frame->next; // sent, or the interface is down and the frame lost
        if (!port->first)
            port->last = &port->first;
        free(frame);
    }
}

static struct timespec until_next(int64_t time_ns)
{
    int64_t wait_ns = INT64_C(1000000000);
    for (nfds_t p = 0; p < port_count; p++) {
        if (ports[p].first && !ports[p].blocked && ports[p].first->due_ns - time_ns < wait_ns)
            wait_ns = ports[p].first->due_ns - time_ns;
    }
    if (wait_ns < 0)
        wait_ns = 0;
    return (struct timespec){.tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000};
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc - 2 > PORTS_MAX) {
        fputs("usage: lab_relay DELAY_US PORT...\n", stderr);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1UL);
    delay_ns = (int64_t)(strtod(argv[1], NULL) * 1e3);
    for (port_count = 0; port_count < (nfds_t)argc - 2; port_count++) {
        Port *port = &ports[port_count];
        *port = (Port){.socket = open_port(argv[port_count + 2]), .last = &port->first};
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd polls[PORTS_MAX];
        struct timespec wait = until_next(now_ns());
        for (nfds_t p = 0; p < port_count; p++)
            polls[p] = (struct pollfd){.fd = ports[p].socket, .events = POLLIN | (ports[p].blocked ? POLLOUT : 0)};
        ppoll(polls, port_count, &wait, NULL);
        for (nfds_t p = 0; p < port_count; p++) {
            if (polls[p].revents)
                take_frames(p);
        }
        for (nfds_t p = 0; p < port_count; p++)
            send_due(&ports[p], now_ns());
    }
}
