/* Crashes with memory for which nobody answers: pages of a file on a FUSE file system whose server stops to reply. Any user can
 * do this, in a user namespace of their own.
 *
 *   unanswered MODE DIRECTORY PIDFILE [ARGUMENT]
 *
 * MODE: stack    the stack pointer is in such a page
 *       large    256 MiB of such pages, which the kernel would dump
 *       cmdline  a part of ARGUMENT, of at least 16 KiB, is in such a page. (The kernel reads the first 80 bytes of the command
 *                line before anybody hears of the crash: it would wait itself.)
 *       rescan   as large, while another process keeps asking for the lock on the memory (clear_refs)
 *       uffd     shared memory whose absent pages a userfaultfd waits for
 *       served   the program counter is in a page of such a file, which everybody sees: root has mounted it, for all users. After that
 *                no request is answered
 * The server's PID, and that of the process behind clear_refs, are written to PIDFILE. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE ((size_t)256 << 20)
#define PAGE ((size_t)4096)
#define USER 1234

static void die(const char *what) {
    perror(what);
    exit(2);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) die(path);
    close(fd);
}

static void remember(const char *pidfile, pid_t pid) {
    char line[32];
    snprintf(line, sizeof line, "%d\n", pid);
    put(pidfile, line);
}

/* The signal that silenced the server: SIGUSR1 for pages, SIGUSR2 for everything. */
static volatile sig_atomic_t is_silent;
static void fall_silent(int signal) { is_silent = signal; }

/* The beginning of the file: an ELF header whose program headers are in the second page, and at CODE what crashes (movl $1, 0). */
#define CODE 64
static const unsigned char BEGINNING[CODE + 11] = {
    [0] = 0x7f, 'E', 'L', 'F', 2, 1, 1, [20] = 1, [33] = 0x10, [54] = 56, [56] = 1, [CODE] = 0xc7, 4, 0x25, 0, 0, 0, 0, 1};

/* Serves a directory with one file, "f". */
static void serve(int device) {
    static char request[1 << 20], reply[1 << 18];
    struct sigaction action = {.sa_handler = fall_silent};
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGUSR2, &action, 0);
    alarm(120);
    for (;;) {
        ssize_t count = read(device, request, sizeof request);
        if (count < 0) {
            if (errno == EINTR || errno == ENOENT || errno == EAGAIN) continue;
            exit(0);
        }
        struct fuse_in_header *in = (void *)request;
        void *argument = request + sizeof *in;
        struct fuse_out_header *out = (void *)reply;
        char *result = reply + sizeof *out;
        size_t length = 0;
        int error = 0;
        memset(reply, 0, 4096);
        if (is_silent == SIGUSR2) continue;
        struct fuse_attr attr = {.nlink = 1, .uid = getuid(), .gid = getgid(), .blksize = 4096};
        int is_file = in->opcode == FUSE_LOOKUP || in->nodeid == 2;
        attr.ino = is_file ? 2 : 1;
        attr.mode = is_file ? S_IFREG | 0755 : S_IFDIR | 0755;
        attr.size = is_file ? SIZE : 0;
        switch (in->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out *init = (void *)result;
            init->major = FUSE_KERNEL_VERSION;
            init->minor = FUSE_KERNEL_MINOR_VERSION;
            init->max_write = 65536;
            length = sizeof *init;
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out *entry = (void *)result;
            entry->nodeid = 2;
            entry->entry_valid = entry->attr_valid = 3600;
            entry->attr = attr;
            length = sizeof *entry;
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out *found = (void *)result;
            found->attr_valid = 3600;
            found->attr = attr;
            length = sizeof *found;
            break;
        }
        case FUSE_OPEN:
        case FUSE_OPENDIR: {
            struct fuse_open_out *opened = (void *)result;
            opened->open_flags = FOPEN_KEEP_CACHE;
            length = sizeof *opened;
            break;
        }
        case FUSE_READ: {
            struct fuse_read_in *wanted = argument;
            if (is_silent) continue;
            memset(result, 'f', length = wanted->size);
            if (wanted->offset == 0 && length > sizeof BEGINNING) memcpy(result, BEGINNING, sizeof BEGINNING);
            break;
        }
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            continue;
        case FUSE_FLUSH:
        case FUSE_RELEASE:
        case FUSE_RELEASEDIR:
        case FUSE_ACCESS:
            break;
        default:
            error = -ENOSYS;
        }
        out->unique = in->unique;
        out->error = error;
        out->len = sizeof *out + (error ? 0 : length);
        if (write(device, reply, out->len) < 0 && errno != ENOENT) perror("reply");
    }
}

/* Mounts the file system and opens its file. */
static int mount_and_open(const char *node, const char *dir, const char *pidfile, const char *more_options, pid_t *server) {
    char options[128], path[4096];
    int device = open(node, O_RDWR | O_CLOEXEC);
    if (device < 0) die(node);
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0%s", device, more_options);
    if (mount("unanswered", dir, "fuse", MS_NOSUID | MS_NODEV, options)) die("mount");
    *server = fork();
    if (*server == 0) serve(device);
    close(device);
    remember(pidfile, *server);
    snprintf(path, sizeof path, "%s/f", dir);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) die(path);
    return file;
}

/* udev gives the device to everybody. Where none runs, root makes another node of it. */
static void make_node(char *node, size_t size, const char *pidfile) {
    snprintf(node, size, "%s.fuse", pidfile);
    if (mknod(node, S_IFCHR | 0666, makedev(10, 229)) || chmod(node, 0666)) die(node);
}

/* Crashes in a page of a file that everybody can open, and for which nobody answers from then on. */
static void crash_in_served(const char *dir, const char *pidfile) {
    char node[4096];
    pid_t server;
    make_node(node, sizeof node, pidfile);
    int file = mount_and_open(node, dir, pidfile, ",allow_other", &server);
    char *memory = mmap(0, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
    if (memory == MAP_FAILED) die("mmap");
    if (memory[1] != 'E') die("read");
    /* The end of the process would close it, and wait for the server. */
    close(file);
    if (kill(server, SIGUSR2)) die("kill");
    ((void (*)(void))(memory + CODE))();
}

/* Mounts the file system in a user namespace and returns a private, writable mapping of its file. */
static char *map_unanswered(const char *dir, const char *pidfile) {
    char line[64], node[4096] = "/dev/fuse";
    pid_t server;
    if (getuid() == 0) {
        make_node(node, sizeof node, pidfile);
        if (setgid(USER) || setuid(USER) || prctl(PR_SET_DUMPABLE, 1)) die("setuid");
    }
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) die("unshare");
    put("/proc/self/setgroups", "deny");
    /* The kernel itself dumps what fits into the pipe, whoever reads it. This comes before the file. */
    char *first = sbrk(1 << 20);
    if (first == (void *)-1) die("sbrk");
    memset(first, 1, 1 << 20);
    snprintf(line, sizeof line, "0 %d 1", uid);
    put("/proc/self/uid_map", line);
    snprintf(line, sizeof line, "0 %d 1", gid);
    put("/proc/self/gid_map", line);
    int file = mount_and_open(node, dir, pidfile, "", &server);
    char *memory = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (memory == MAP_FAILED) die("mmap");
    /* A page that was written to makes the kernel dump all of the mapping. */
    memory[0] = 1;
    memory[SIZE / 2] = 1;
    if (kill(server, SIGUSR1)) die("kill");
    return memory;
}

static void ask_for_the_lock(pid_t pid, const char *pidfile) {
    pid_t child = fork();
    if (child) {
        remember(pidfile, child);
        return;
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/clear_refs", pid);
    alarm(120);
    for (;;) {
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0) exit(0);
        if (write(fd, "4", 1) < 0 && errno == ESRCH) exit(0);
        close(fd);
        /* Not all of a processor. */
        usleep(1000);
    }
}

static void wait_with_userfaultfd(void) {
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (uffd < 0) die("userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(uffd, UFFDIO_API, &api)) die("UFFDIO_API");
    int memfd = memfd_create("waited-for", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, SIZE)) die("memfd");
    char *memory = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (memory == MAP_FAILED) die("mmap");
    memory[0] = 1;
    struct uffdio_register range = {
        .range = {.start = (uint64_t)memory, .len = SIZE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &range)) die("UFFDIO_REGISTER");
}

int main(int argc, char **argv) {
    if (argc != (!strcmp(argv[1], "cmdline") ? 5 : 4)) return 2;
    /* The arguments may be gone soon. */
    char mode[16];
    snprintf(mode, sizeof mode, "%s", argv[1]);
    if (!strcmp(mode, "uffd")) {
        wait_with_userfaultfd();
    } else if (!strcmp(mode, "served")) {
        crash_in_served(argv[2], argv[3]);
    } else {
        char *memory = map_unanswered(argv[2], argv[3]);
        if (!strcmp(mode, "rescan")) ask_for_the_lock(getpid(), argv[3]);
        if (!strcmp(mode, "cmdline")) {
            char *page = (char *)(((uintptr_t)argv[4] + 2 * PAGE) & ~(PAGE - 1));
            if (mremap(memory + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED) die("mremap");
        }
        if (!strcmp(mode, "stack")) {
#ifdef __x86_64__
            /* The page of the stack pointer exists, the one above it does not. */
            __asm__ volatile("mov %0, %%rsp\n\tmovl $1, 0" : : "r"(memory + PAGE - 64));
#endif
        }
    }
    *(volatile int *)0 = 1;
    return 0;
}
