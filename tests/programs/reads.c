/* Reads 4 KiB at a time at random offsets of FILE, past the page cache, until SIGTERM arrives. Prints how many reads there were, and the
   median, the 99th percentile and the maximum of their times in microseconds. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 24, SIZE = 4096 };

static volatile sig_atomic_t stopped;
static uint32_t took[MOST];

static void stop(int signal) { (void)signal; stopped = 1; }

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    int file = argc > 1 ? open(argv[1], O_RDONLY | O_DIRECT) : -1;
    struct stat stat;
    void *buffer;
    if (file < 0 || fstat(file, &stat) != 0 || stat.st_size < SIZE || posix_memalign(&buffer, SIZE, SIZE) != 0) {
        perror("FILE");
        return 2;
    }
    signal(SIGTERM, stop);
    uint64_t state = 88172645463325252ull;
    size_t count = 0;
    while (!stopped && count < MOST) {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        uint64_t begun = now();
        if (pread(file, buffer, SIZE, (off_t)(state % ((uint64_t)stat.st_size / SIZE) * SIZE)) != SIZE) return 1;
        took[count++] = (uint32_t)(now() - begun);
        usleep(200);
    }
    if (count == 0) return 1;
    qsort(took, count, sizeof *took, ascending);
    printf("%zu %u %u %u\n", count, took[count / 2], took[count * 99 / 100], took[count - 1]);
    return 0;
}
