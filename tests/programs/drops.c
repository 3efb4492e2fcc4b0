/* Started by root, becomes user and group 1234 in the way that argv[1] names, makes itself dumpable again and crashes.
     all        for good, with all four uids and gids
     saved      the saved uid stays root's
     thread     the main thread stays root, another thread becomes the user and crashes */
#define _GNU_SOURCE
#include <grp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void crash(void) {
    prctl(PR_SET_DUMPABLE, 1);
    *(volatile char *)0 = 1;
}

static void *in_thread(void *unused) {
    /* The system calls themselves: the C library's functions change all threads. */
    if (syscall(SYS_setresgid, 1234, 1234, 1234) != 0 || syscall(SYS_setresuid, 1234, 1234, 1234) != 0) exit(1);
    crash();
    return unused;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    if (strcmp(argv[1], "thread") == 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, in_thread, NULL) != 0) return 1;
        pthread_join(thread, NULL);
    }
    uid_t saved = strcmp(argv[1], "saved") == 0 ? 0 : 1234;
    if (setgroups(0, NULL) != 0 || setresgid(1234, 1234, 1234) != 0 || setresuid(1234, 1234, saved) != 0) return 1;
    crash();
}
