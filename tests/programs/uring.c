/* Raises SIGSEGV below functions with names, with COUNT requests of io_uring that complete while the core is written: one each MICROSECONDS. The
   process has MEBIBYTES of memory, each word of which is its index times an odd number, and THREADS threads that wait. With a fifth argument
   a thread crashes, and the main thread has ended. */
#define _GNU_SOURCE
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 64 };

static int *volatile nowhere;
static struct __kernel_timespec after[ENTRIES];
static unsigned count;
static long microseconds;

static void check(int is_good, const char *what) {
    if (is_good) return;
    perror(what);
    _exit(2);
}

static void *map(int ring, size_t length, off_t offset) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);
    check(memory != MAP_FAILED, "mmap");
    return memory;
}

/* What completes is told to the thread that asked for it. */
static void submit(void) {
    struct io_uring_params params = {0};
    int ring = syscall(SYS_io_uring_setup, ENTRIES, &params);
    check(ring >= 0, "io_uring_setup");
    char *queue = map(ring, params.sq_off.array + params.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    struct io_uring_sqe *requests = map(ring, params.sq_entries * sizeof *requests, IORING_OFF_SQES);
    for (unsigned i = 0; i < count; i++) {
        long at = microseconds * (i + 1);
        after[i] = (struct __kernel_timespec){.tv_sec = at / 1000000, .tv_nsec = at % 1000000 * 1000};
        requests[i] = (struct io_uring_sqe){.opcode = IORING_OP_TIMEOUT, .fd = -1, .addr = (uintptr_t)&after[i], .len = 1};
        ((unsigned *)(queue + params.sq_off.array))[i] = i;
    }
    *(volatile unsigned *)(queue + params.sq_off.tail) = count;
    check(syscall(SYS_io_uring_enter, ring, count, 0, 0, NULL, 0) == (int)count, "io_uring_enter");
}

__attribute__((noinline)) int innermost(int value) { return *nowhere + value; }
__attribute__((noinline)) int middle(int value) { return innermost(value + 1) + 1; }
__attribute__((noinline)) void *outermost(void *unused) {
    (void)unused;
    submit();
    return (void *)(intptr_t)(middle(1) + 1);
}

static void *wait_for_ever(void *unused) {
    (void)unused;
    for (;;) pause();
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    count = (unsigned)atoi(argv[1]);
    microseconds = atol(argv[2]);
    size_t words = strtoull(argv[3], NULL, 10) << 17;
    check(count <= ENTRIES, "COUNT");
    uint64_t *memory = mmap(NULL, words * 8 + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "mmap");
    for (size_t i = 0; i < words; i++) memory[i] = i * 0x9e3779b97f4a7c15ull;
    pthread_t thread;
    for (int i = atoi(argv[4]); i > 0; i--) check(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0, "pthread_create");
    if (argc > 5) {
        check(pthread_create(&thread, NULL, outermost, NULL) == 0, "pthread_create");
        pthread_exit(NULL);
    }
    outermost(NULL);
    return 0;
}
