// Loads many libraries, has threads wait in them, and crashes in a call through all of them. For scripts/bench.
// many-main DIRECTORY LIBRARIES THREADS
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int (*run[1000])(int);
static int libraries;
static __thread int is_waiting;
int *volatile nowhere;

int enter(int number, int depth);
int enter(int number, int depth)
{
    if (depth > 0)
        return run[number % libraries](depth) + 1;
    if (is_waiting)
        pause();
    return *nowhere;
}

static void *wait_in(void *number)
{
    is_waiting = 1;
    return (void *)(long)enter(5 * (int)(long)number, 12);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    libraries = atoi(argv[2]);
    for (int n = 0; n < libraries; n++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/many-%d.so", argv[1], n);
        void *library = dlopen(name, RTLD_NOW);
        snprintf(name, sizeof name, "run_%d", n);
        run[n] = library ? (int (*)(int))dlsym(library, name) : NULL;
        if (run[n] == NULL)
            return 3;
    }
    for (long n = 0; n < atoi(argv[3]) - 1; n++) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_in, (void *)n);
    }
    usleep(300000);
    // Each library has two frames or three, and 64 are recorded.
    return enter(0, libraries);
}
