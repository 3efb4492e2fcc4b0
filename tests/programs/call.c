/* Makes one system call under filters: `call NUMBER ARGUMENT...` reads the filters from standard input, each as the number of its
   instructions (4 bytes) and the instructions, puts them in force in this order, makes the call and exits with its error, or 0. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    enum { FILTERS = 8, LENGTH = 4096, USAGE = 255 };
    static struct sock_filter instructions[FILTERS][LENGTH];
    static struct sock_fprog programs[FILTERS];
    int count = 0;
    /* No core if a filter ends it. */
    if (argc < 2 || prctl(PR_SET_DUMPABLE, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return USAGE;
    for (uint32_t length; read(0, &length, sizeof length) == sizeof length; count++) {
        size_t bytes = length * sizeof instructions[0][0], done = 0;
        if (count == FILTERS || length > LENGTH) return USAGE;
        for (ssize_t got; done < bytes; done += (size_t)got)
            if ((got = read(0, (char *)instructions[count] + done, bytes - done)) <= 0) return USAGE;
        programs[count] = (struct sock_fprog){(unsigned short)length, instructions[count]};
    }
    long arguments[6] = {0};
    for (int at = 0; at < 6 && at + 2 < argc; at++) arguments[at] = strtol(argv[at + 2], NULL, 0);
    long number = strtol(argv[1], NULL, 0);
    for (int at = 0; at < count; at++)
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &programs[at]) != 0) return USAGE;
    long result = syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
    _exit(result == -1 ? errno : 0);
}
