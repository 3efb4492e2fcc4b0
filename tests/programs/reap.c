/* How long from the faulting instruction to waitpid(2)'s return: RUNS children with MEBIBYTES of touched memory each.
   Prints the minimum, the median and the maximum, in milliseconds. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

int main(int argc, char **argv) {
    size_t bytes = (argc > 1 ? strtoull(argv[1], 0, 10) : 1) << 20;
    int runs = argc > 2 ? atoi(argv[2]) : 50;
    double *fault = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *took = calloc((size_t)runs, sizeof *took);
    for (int run = 0; run < runs; run++) {
        pid_t child = fork();
        if (child == 0) {
            unsigned char *memory = malloc(bytes);
            for (size_t at = 0; at < bytes; at++) memory[at] = (unsigned char)(at * 31 >> 3);
            __asm__ volatile("" : : "r"(memory) : "memory");
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
