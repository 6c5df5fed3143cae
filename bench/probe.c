// The daemon that every contender starts: it says when it runs, and then does what it is told.
//
//   probe NAME STAMPS                    appends `NAME PID T` and waits
//   probe NAME STAMPS lines MEGABYTES    then writes that much in lines of 100 bytes, `NAME-done`, and waits
//   probe NAME STAMPS orphans N          then makes N orphans that all end at once, `NAME-last`, `NAME-gone`, and waits
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

// All of them are PID 1's children before the first one ends: their parent, a child of this process, is gone by then.
// Gone is gone: a zombie still answers kill(pid, 0).
static void orphans(const char *file, const char *name, int n) {
    struct { volatile long long t; volatile pid_t pid; } *each =
        mmap(NULL, n * sizeof *each, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int gate[2];
    if (pipe2(gate, O_CLOEXEC) < 0) _exit(5);
    pid_t parent = fork();
    if (parent == 0) {
        close(gate[1]);
        for (int i = 0; i < n; i++) {
            pid_t pid = fork();
            if (pid == 0) {
                char c;
                while (read(gate[0], &c, 1) < 0) {}
                each[i].t = now();
                _exit(0);
            }
            if (pid < 0) _exit(6);
            each[i].pid = pid;
        }
        _exit(0);
    }
    int status;
    while (waitpid(parent, &status, 0) != parent) {}
    if (status != 0) _exit(7);
    usleep(50000);
    stamp(file, name, "-ready", now());
    usleep(50000);
    close(gate[1]);
    for (int i = 0; i < n; i++)
        while (kill(each[i].pid, 0) == 0) usleep(20);
    long long gone = now(), last = 0;
    for (int i = 0; i < n; i++)
        if (each[i].t > last) last = each[i].t;
    stamp(file, name, "-last", last);
    stamp(file, name, "-gone", gone);
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
