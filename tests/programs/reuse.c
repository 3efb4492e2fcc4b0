/* A process that crashes, and one that gets its PID afterwards. Both have a MiB at the same address.
     reuse victim       fills it with "victim" and crashes
     reuse PID live     starts a child with this PID, which fills it with "SECRET" and waits
     reuse PID crash    the same, but the child crashes
   The child says "ready" before it waits or crashes, and ends with its parent. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void fill(const char *text) {
    char *memory = mmap((void *)0x200000000000, 1 << 20, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (memory == MAP_FAILED) exit(1);
    for (size_t at = 0; at + 8 <= 1 << 20; at += 8) memcpy(memory + at, text, strlen(text));
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "victim") == 0) {
        fill("victim");
        abort();
    }
    if (argc != 3) return 2;
    pid_t wanted = atoi(argv[1]);
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    long child = -1;
    /* The number is free when the last user of the process has gone. */
    for (int tries = 0; tries < 2000 && (child = syscall(SYS_clone3, &args, sizeof args)) < 0 && errno == EEXIST; tries++)
        usleep(1000);
    if (child < 0) {
        perror("clone3");
        return 3;
    }
    if (child > 0) return waitpid((pid_t)child, NULL, 0) == child ? 0 : 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fill("SECRET");
    if (write(1, "ready\n", 6) != 6) _exit(1);
    if (strcmp(argv[2], "crash") == 0) abort();
    for (;;) pause();
}
