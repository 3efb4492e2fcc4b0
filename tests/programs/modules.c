/* Measures the time from a fault below functions of many libraries to the return of waitpid(2): one frame in each of COUNT copies of a library in
   DIRECTORY (modules-library.c), in RUNS children. Prints the minimum, the median and the maximum in milliseconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef void step(void **next);

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
    if (argc < 4) return 2;
    int count = atoi(argv[2]), runs = atoi(argv[3]);
    double *fault = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *took = calloc((size_t)runs, sizeof *took);
    void **steps = calloc((size_t)count + 1, sizeof *steps);
    for (int number = 0; number < count; number++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%d.so", argv[1], number);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        void **entry = library ? dlsym(library, "entry") : 0;
        if (!entry) {
            fprintf(stderr, "%s\n", dlerror());
            return 3;
        }
        steps[number] = *entry;
    }
    for (int run = 0; run < runs; run++) {
        pid_t child = fork();
        if (child == 0) {
            *fault = now();
            ((step *)steps[0])(steps + 1);
            _exit(4);
        }
        waitpid(child, 0, 0);
        took[run] = now() - *fault;
    }
    qsort(took, (size_t)runs, sizeof *took, ascending);
    printf("%.2f %.2f %.2f\n", took[0], took[runs / 2], took[runs - 1]);
    return 0;
}
