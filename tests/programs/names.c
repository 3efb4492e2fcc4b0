/* Crashes in functions whose names are in different places: in the dynamic linker's symbols, in the symbol table of a file alone, in a library that
   is no longer where it was, in the vDSO.

   names static|threads|vdso
   names library PATH FUNCTION [delete|replace|wait]
                                                  the library is deleted, or replaced by PATH.new, or standard input ends
   names memory-library PATH FUNCTION             a copy of the library in memory
   names memfd ARGUMENT...                        runs itself from memory, with these arguments */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* What keeps a call from becoming a jump. */
#define STAY __asm__ volatile("" ::: "memory")

__attribute__((noinline)) static void static_fault(volatile int *where)
{
    *where = 1;
    STAY;
}

__attribute__((noinline)) static void static_caller(volatile int *where)
{
    static_fault(where);
    STAY;
}

__attribute__((noinline)) void exported_caller(volatile int *where)
{
    static_caller(where);
    STAY;
}

static pthread_barrier_t started;

__attribute__((noinline)) static void static_wait(void)
{
    pause();
    STAY;
}

static void *waiting_thread(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&started);
    static_wait();
    STAY;
    return NULL;
}

static int copy_to_memory(const char *path)
{
    static char buffer[1 << 16];
    int from = open(path, O_RDONLY), to = memfd_create("copy", 0);
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, count) != count)
            exit(3);
    close(from);
    return to;
}

static void call_library(const char *path, const char *function, const char *then)
{
    char other[4096];
    void *library = dlopen(path, RTLD_NOW);
    void (*call)(void) = library ? (void (*)(void))dlsym(library, function) : NULL;
    if (!call) {
        fprintf(stderr, "%s\n", dlerror());
        exit(3);
    }
    snprintf(other, sizeof other, "%s.new", path);
    if (then && !strcmp(then, "wait")) {
        char byte;
        if (write(STDOUT_FILENO, ".", 1) != 1)
            exit(3);
        while (read(STDIN_FILENO, &byte, 1) > 0)
            ;
    }
    if (then && !strcmp(then, "delete"))
        unlink(path);
    if (then && !strcmp(then, "replace"))
        rename(other, path);
    call();
    STAY;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "static";
    if (!strcmp(mode, "threads")) {
        pthread_t thread;
        pthread_barrier_init(&started, NULL, 3);
        pthread_create(&thread, NULL, waiting_thread, NULL);
        pthread_create(&thread, NULL, waiting_thread, NULL);
        pthread_barrier_wait(&started);
        usleep(50000);
    }
    if (!strcmp(mode, "vdso"))
        clock_gettime(CLOCK_MONOTONIC, (struct timespec *)8);
    if (!strcmp(mode, "library"))
        call_library(argv[2], argv[3], argc > 4 ? argv[4] : NULL);
    if (!strcmp(mode, "memory-library")) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", copy_to_memory(argv[2]));
        call_library(path, argv[3], NULL);
    }
    if (!strcmp(mode, "memfd"))
        fexecve(copy_to_memory("/proc/self/exe"), argv + 1, environ);
    exported_caller(NULL);
    STAY;
    return 0;
}
