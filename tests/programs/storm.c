/* Starts COUNT children, PARALLEL at a time, that only crash. Prints how many milliseconds that took. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 100, parallel = argc > 2 ? atoi(argv[2]) : 8;
    double begun = now();
    for (int started = 0, ended = 0; ended < count;) {
        if (started < count && started - ended < parallel) {
            if (fork() == 0) *(volatile int *)0 = 1;
            started++;
        } else if (wait(0) > 0) {
            ended++;
        }
    }
    printf("%.0f\n", now() - begun);
    return 0;
}
