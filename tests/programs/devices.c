/* Maps memory that belongs to the kernel or to a device: the rings of io_uring, of a packet socket and of a perf event. Crashes when all
 * of them are mapped. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *map(const char *what, int fd, size_t length, off_t offset) {
    void *memory = fd < 0 ? MAP_FAILED : mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    if (memory == MAP_FAILED) {
        perror(what);
        exit(2);
    }
    return memory;
}

int main(void) {
    struct io_uring_params params = {0};
    int ring = syscall(SYS_io_uring_setup, 8, &params);
    map("io_uring", ring, 4096, IORING_OFF_SQ_RING);

    int packets = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    struct tpacket_req request = {.tp_block_size = 4096, .tp_block_nr = 4, .tp_frame_size = 2048, .tp_frame_nr = 8};
    if (packets >= 0 && setsockopt(packets, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0)
        map("packet", packets, 4 * 4096, 0);
    else
        perror("packet");

    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_DUMMY};
    int counter = syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
    map("perf", counter, 2 * 4096, 0);
    *(volatile int *)0 = 1;
    return 0;
}
