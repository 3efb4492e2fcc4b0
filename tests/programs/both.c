/* Runs in place of the shim: starts the shim (argv[0] without ".both") on the kernel's pipe, and when it has ended, writes the
   rest of the pipe to ROOT/kernel/PID. That is the whole core if it was read from memory, and nothing if it was drained from the
   pipe. Zeros become holes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char path[4096], shim[4096];
    snprintf(shim, sizeof shim, "%s", argv[0]);
    char *ending = strstr(shim, ".both");
    if (!ending || argc < 4) return 2;
    *ending = 0;
    /* The arguments are: --root ROOT PID ... */
    snprintf(path, sizeof path, "%s/kernel/%s", argv[2], argv[3]);
    pid_t child = fork();
    if (child == 0) {
        execv(shim, argv);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    int out = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    static char buffer[1 << 20], zeros[1 << 20];
    long length = 0;
    for (ssize_t count; (count = read(0, buffer, sizeof buffer)) > 0; length += count)
        if (memcmp(buffer, zeros, (size_t)count) != 0 && pwrite(out, buffer, (size_t)count, length) != count) return 1;
    if (ftruncate(out, length) != 0) return 1;
    snprintf(path + strlen(path), 8, ".done");
    close(open(path, O_CREAT | O_WRONLY, 0644));
    return 0;
}
