/* Lives until it is told otherwise. Starts THREADS threads (first argument, default 3) that wait in different system calls, one that counts, and
   fills MEBIBYTES (second argument) of memory with data that does not compress. Answers each line of standard input: "count" with the counter,
   "errors" with the system calls that failed; "crash" raises SIGSEGV, "vfork" has a child of vfork(2) wait for three seconds. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long counter, errors;
static int *volatile nowhere;
static int pipes[2];
static pthread_barrier_t barrier;

__attribute__((noinline)) void wait_in_read(void) { char byte; if (read(pipes[0], &byte, 1) != 1) errors++; }
__attribute__((noinline)) void wait_in_sleep(void) {
    struct timespec time = { 3600, 0 };
    if (nanosleep(&time, 0)) errors++;
}
__attribute__((noinline)) void wait_in_futex(void) {
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    pthread_mutex_lock(&mutex);
    for (;;) pthread_cond_wait(&never, &mutex);
}
__attribute__((noinline)) void count(void) { for (;;) counter++; }

static void *run(void *number) {
    pthread_barrier_wait(&barrier);
    switch ((intptr_t)number % 3) {
    case 0: wait_in_read(); break;
    case 1: wait_in_sleep(); break;
    default: wait_in_futex();
    }
    return 0;
}

static void *run_counter(void *unused) { pthread_barrier_wait(&barrier); count(); return unused; }

__attribute__((noinline)) void answer(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "count", 5)) printf("%lu\n", counter);
        if (!strncmp(line, "errors", 6)) printf("%lu\n", errors);
        if (!strncmp(line, "crash", 5)) *nowhere = 1;
        if (!strncmp(line, "vfork", 5)) {
            puts("forks");
            fflush(stdout);
            if (!vfork()) { sleep(3); _exit(0); }
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    long threads = argc > 1 ? atol(argv[1]) : 3;
    size_t words = argc > 2 ? (strtoull(argv[2], 0, 10) << 20) / 8 : 0;
    uint64_t *memory = malloc(words * 8 + 8), state = 88172645463325252ull;
    for (size_t i = 0; i < words; i++) {
        state ^= state << 13; state ^= state >> 7; state ^= state << 17;
        memory[i] = state;
    }
    /* Put together here, so that it is nowhere else in memory. */
    char *hidden = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shown = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(hidden, 8192, MADV_DONTDUMP);
    for (int i = 0; i < 32; i++) { hidden[i] = 'H' + i % 7; shown[i] = 'a' + i % 7; }
    if (pipe(pipes)) return 3;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 * 1024);
    pthread_barrier_init(&barrier, 0, (unsigned)threads + 2);
    pthread_t thread;
    for (long i = 0; i < threads; i++)
        if (pthread_create(&thread, &attributes, run, (void *)(intptr_t)i)) return 2;
    if (pthread_create(&thread, &attributes, run_counter, 0)) return 2;
    pthread_barrier_wait(&barrier);
    usleep(20000);
    puts("ready");
    fflush(stdout);
    answer();
}
