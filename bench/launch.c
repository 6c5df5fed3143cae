// Runs a program as PID 1 of a fresh pid namespace, with a /proc of its own, in a cgroup of its own.
//
//   launch STAMPS CGROUP LOG PROGRAM [ARGUMENT...]
//
// STAMPS gets a line `exec 0 T` right before execve, `end STATUS T` once PID 1 is gone. T is CLOCK_MONOTONIC in ns.
// CGROUP is joined last, by PID 1 itself: what it has used is what the program and its daemons have used.
// LOG is a file, or `-`: then stdout is a pipe that is drained here, and `end` is followed by `drained BYTES LINES`.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static char buffer[1 << 20];

int main(int argc, char **argv) {
    if (argc < 5) errx(2, "usage: launch STAMPS CGROUP LOG PROGRAM [ARGUMENT...]");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int stamps = open(argv[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    char procs[4096];
    snprintf(procs, sizeof procs, "%s/cgroup.procs", argv[2]);
    int cgroup = open(procs, O_WRONLY | O_CLOEXEC);
    int drain[2] = {-1, -1}, log;
    if (strcmp(argv[3], "-") == 0) {
        if (pipe2(drain, O_CLOEXEC) < 0) err(1, "pipe");
        log = drain[1];
    } else {
        log = open(argv[3], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    }
    if (stamps < 0 || cgroup < 0 || log < 0) err(1, "%s, %s or %s", argv[1], procs, argv[3]);
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0) err(1, "unshare (are you root?)");
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) err(1, "mount");
    pid_t pid = fork();
    if (pid < 0) err(1, "fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) err(1, "mount /proc");
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null, 0);
        dup2(log, 1);
        dup2(log, 2);
        if (write(cgroup, "0", 1) != 1) err(1, "%s", procs);
        dprintf(stamps, "exec 0 %lld\n", now());
        execvp(argv[4], argv + 4);
        err(127, "%s", argv[4]);
    }
    dprintf(stamps, "pid %d %lld\n", pid, now());
    long long bytes = 0, lines = 0;
    if (drain[0] >= 0) {
        close(drain[1]);
        for (ssize_t n; (n = read(drain[0], buffer, sizeof buffer)) > 0;) {
            bytes += n;
            for (char *at = buffer; (at = memchr(at, '\n', buffer + n - at)); at++) lines++;
        }
    }
    int status;
    while (waitpid(pid, &status, 0) != pid) {}
    dprintf(stamps, "end %d %lld\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), now());
    if (drain[0] >= 0) dprintf(stamps, "drained %lld %lld\n", bytes, lines);
    return 0;
}
