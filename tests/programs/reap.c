/* Measures the time from the faulting instruction to the return of waitpid(2), in RUNS children that have touched MEBIBYTES of
   memory each, contiguous or, with SPREAD, in single pages spread over that many mebibytes. Prints the minimum, the median and the
   maximum in milliseconds. If the environment has GATE, the path of a FIFO, each child waits until it is opened for writing
   before it faults. */
#define _GNU_SOURCE
#include "mixed.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static int ascending(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

static void touch(size_t bytes, size_t spread) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    uint8_t *memory = mmap(0, spread ? spread : bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) _exit(2);
    if (!spread) mix(memory, bytes);
    size_t pages = bytes / 4096, step = spread / pages / 4096 * 4096;
    for (size_t page = 0; spread && page < pages; page++) memset(memory + page * step, (int)(page % 255) + 1, 4096);
}

int main(int argc, char **argv) {
    size_t bytes = (argc > 1 ? strtoull(argv[1], 0, 10) : 1) << 20;
    int runs = argc > 2 ? atoi(argv[2]) : 50;
    size_t spread = argc > 3 ? strtoull(argv[3], 0, 10) << 20 : 0;
    double *fault = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *took = calloc((size_t)runs, sizeof *took);
    for (int run = 0; run < runs; run++) {
        pid_t child = fork();
        if (child == 0) {
            touch(bytes, spread);
            if (getenv("GATE")) close(open(getenv("GATE"), O_RDONLY));
            *fault = now();
            *(volatile int *)0 = 1;
        }
        int status;
        waitpid(child, &status, 0);
        took[run] = now() - *fault;
        usleep(2000);
    }
    qsort(took, (size_t)runs, sizeof *took, ascending);
    printf("%.2f %.2f %.2f\n", took[0], took[runs / 2], took[runs - 1]);
    return 0;
}
