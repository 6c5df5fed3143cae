// The floor: what the bare system calls cost. It starts N daemons, restarts `d1` at USR1, ends them at TERM, reaps
// whatever ends, and does nothing else: no table, no log, no grace, no process groups, no status, no care.
//
//   floor N PROGRAM STAMPS [ARGUMENT...]      daemons are `PROGRAM dI STAMPS [ARGUMENT...]`, I from 0
//   floor -p N PROGRAM STAMPS [ARGUMENT...]   the same, and their output comes through pipes, behind `[dI] `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX 1000
static int n, with_pipes, null, log_fd[MAX];
static pid_t pids[MAX];
static char **command, partial[MAX][65536];
static size_t left[MAX];
static sigset_t all;

static void start(int i) {
    int ends[2];
    if (with_pipes && pipe2(ends, O_CLOEXEC) < 0) _exit(2);
    pids[i] = fork();
    if (pids[i] == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        dup2(null, 0);
        if (with_pipes) {
            dup2(ends[1], 1);
            dup2(ends[1], 2);
        }
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        char *argv[16] = {command[0], name};
        for (int a = 1; a < 14 && command[a]; a++) argv[a + 1] = command[a];
        execv(argv[0], argv);
        _exit(127);
    }
    if (with_pipes) {
        close(ends[1]);
        log_fd[i] = ends[0];
    }
}

static void put(const char *at, size_t size) {
    for (ssize_t w; size > 0; at += w, size -= w)
        if ((w = write(1, at, size)) < 0) w = 0;
}

static void relay(int i) {
    static char out[1 << 18];
    ssize_t got = read(log_fd[i], partial[i] + left[i], sizeof partial[i] - left[i]);
    if (got <= 0) {
        close(log_fd[i]);
        log_fd[i] = -1;
        return;
    }
    char prefix[16], *from = partial[i], *end = from + left[i] + got, *newline;
    size_t used = 0, length = snprintf(prefix, sizeof prefix, "[d%d] ", i);
    while ((newline = memchr(from, '\n', end - from))) {
        size_t line = newline + 1 - from;
        if (used + length + line > sizeof out) {
            put(out, used);
            used = 0;
        }
        memcpy(out + used, prefix, length);
        memcpy(out + used + length, from, line);
        used += length + line;
        from = newline + 1;
    }
    put(out, used);
    left[i] = end - from;
    memmove(partial[i], from, left[i]);
}

int main(int argc, char **argv) {
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    if (argc > 1 && strcmp(argv[1], "-p") == 0) {
        with_pipes = 1;
        argv++;
    }
    n = atoi(argv[1]);
    command = argv + 2;
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct pollfd fds[MAX + 1] = {{signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK), POLLIN, 0}};
    for (int i = 0; i < n; i++) start(i);
    int alive = n, stopping = 0, restarting = 0;
    while (alive > 0) {
        for (int i = 0; with_pipes && i < n; i++) fds[i + 1] = (struct pollfd){log_fd[i], POLLIN, 0};
        if (poll(fds, with_pipes ? n + 1 : 1, -1) < 0) continue;
        for (int i = 0; with_pipes && i < n; i++)
            if (fds[i + 1].revents) relay(i);
        struct signalfd_siginfo info;
        while (fds[0].revents && read(fds[0].fd, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo == SIGUSR1) restarting = kill(pids[1], SIGTERM) == 0;
            if (info.ssi_signo == SIGTERM) {
                stopping = 1;
                for (int i = 0; i < n; i++) kill(pids[i], SIGTERM);
            }
            for (pid_t pid; info.ssi_signo == SIGCHLD && (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
                for (int i = 0; i < n; i++) {
                    if (pids[i] != pid) continue;
                    if (restarting && i == 1 && !stopping) start(i);
                    else alive--;
                }
        }
    }
    return 0;
}
