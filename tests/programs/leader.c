/* The main thread ends, and another one has a bad pointer later. */
#include <pthread.h>
#include <unistd.h>

static void *work(void *unused) {
    (void)unused;
    usleep(100000);
    *(volatile int *)0 = 1;
    return 0;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
    pthread_exit(0);
}
