// The daemon that every contender starts: it says when it runs, and then does what it is told.
//
//   probe NAME STAMPS                    appends `NAME PID T` and waits
//   probe NAME STAMPS lines MEGABYTES    then writes that much in lines of 100 bytes, `NAME-done`, and waits
//   probe NAME STAMPS orphans N          then makes N orphans, one after the other, `NAME-gone`, and waits
//
// Supervisors of the daemontools family execute ./run: called by that name, it takes its arguments from the file ./args,
// so that nobody's start has to pay for a shell.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void stamp(const char *file, const char *name, const char *what, long long t) {
    char line[256];
    int n = snprintf(line, sizeof line, "%s%s %d %lld\n", name, what, getpid(), t);
    int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, line, n) != n) _exit(3);
    close(fd);
}

static void lines(long megabytes) {
    static char block[64000];
    memset(block, 'x', sizeof block);
    for (size_t i = 99; i < sizeof block; i += 100) block[i] = '\n';
    for (long left = megabytes * 1000000; left > 0;) {
        size_t size = left < (long)sizeof block ? (size_t)left : sizeof block;
        for (size_t at = 0; at < size;) {
            ssize_t n = write(1, block + at, size - at);
            if (n < 0 && errno != EINTR) _exit(4);
            if (n > 0) at += n;
        }
        left -= size;
    }
}

// As fast as two processes can: each time a child forks one that ends at once, and leaves it to PID 1. So PID 1 is woken again and
// again for one or a few, as it is by a shell script or a build. (If they all end at once, what counts is how the kernel finds one
// among them, which is the same for everybody.) Gone is gone: a zombie still answers kill(pid, 0).
static void orphans(const char *file, const char *name, int n) {
    volatile pid_t *pids =
        mmap(NULL, n * sizeof *pids, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    stamp(file, name, "-ready", now());
    usleep(50000);
    pid_t forkers[2];
    for (int f = 0; f < 2; f++) {
        if ((forkers[f] = fork()) < 0) _exit(5);
        for (int i = f; forkers[f] == 0 && i < n; i += 2) {
            pid_t parent = fork();
            if (parent == 0) {
                pid_t pid = fork();
                if (pid == 0) _exit(0);
                pids[i] = pid;
                _exit(pid < 0);
            }
            int status = 1;
            while (waitpid(parent, &status, 0) != parent) {}
            if (status != 0) _exit(6);
        }
        if (forkers[f] == 0) _exit(0);
    }
    for (int f = 0; f < 2; f++) {
        int status = 1;
        while (waitpid(forkers[f], &status, 0) != forkers[f]) {}
        if (status != 0) _exit(7);
    }
    for (int i = 0; i < n; i++)
        while (kill(pids[i], 0) == 0) usleep(20);
    stamp(file, name, "-gone", now());
}

int main(int argc, char **argv) {
    long long t = now();
    static char args[1024];
    char *from_file[8] = {argv[0]};
    const char *base = strrchr(argv[0], '/');
    if (strcmp(base ? base + 1 : argv[0], "run") == 0) {
        argc = 1;
        int fd = open("args", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, args, sizeof args - 1) <= 0) return 2;
        close(fd);
        argv = from_file;
        for (char *word = strtok(args, " \n"); word && argc < 8; word = strtok(NULL, " \n")) argv[argc++] = word;
    }
    if (argc < 3) return 2;
    stamp(argv[2], argv[1], "", t);
    if (argc == 5 && strcmp(argv[3], "lines") == 0) {
        lines(atol(argv[4]));
        stamp(argv[2], argv[1], "-done", now());
    } else if (argc == 5 && strcmp(argv[3], "orphans") == 0) {
        orphans(argv[2], argv[1], atoi(argv[4]));
    }
    for (;;) pause();
}
