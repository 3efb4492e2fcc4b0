/* Runs in place of the shim and holds it back: writes the PID of the crashed process to ROOT/late/OWN-PID, waits for the file
   ROOT/late/OWN-PID.go, and executes the shim (argv[0] up to its last dot) in its own place, with the kernel's pipe and pidfd.
   As "shim.old" it does what a kernel without %F does: there is no pidfd, and the last argument is empty. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    char shim[4096], waiting[4096], go[4200], hidden[4200];
    snprintf(shim, sizeof shim, "%s", argv[0]);
    char *ending = strrchr(shim, '.');
    if (!ending || argc < 5) return 2;
    if (strcmp(ending, ".old") == 0) {
        close(3);
        argv[argc - 1] = "";
    }
    *ending = 0;
    /* The arguments are: --root ROOT PID ... */
    snprintf(waiting, sizeof waiting, "%s/late/%d", argv[2], (int)getpid());
    snprintf(go, sizeof go, "%s.go", waiting);
    snprintf(hidden, sizeof hidden, "%s.tmp", waiting);
    int out = open(hidden, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    if (out < 0 || dprintf(out, "%s", argv[3]) < 0 || rename(hidden, waiting) != 0) return 1;
    for (int tries = 0; tries < 20000 && access(go, F_OK) != 0; tries++) usleep(1000);
    execv(shim, argv);
    return 127;
}
