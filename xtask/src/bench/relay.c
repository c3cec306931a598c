// A TCP relay on one epoll loop: what any proxy that copies bytes between two sockets must pay. `relay PORT TO`.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int peer[65536];
static char buf[65536];

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return a;
}

static void watch(int epoll, int fd, unsigned events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
}

static void accept_one(int epoll, int listener, int to) {
    int one = 1, client = accept4(listener, 0, 0, SOCK_NONBLOCK);
    if (client < 0) return;
    int upstream = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = loopback(to);
    connect(upstream, (void *)&a, sizeof a);
    fcntl(upstream, F_SETFL, O_NONBLOCK);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(upstream, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    peer[client] = upstream;
    peer[upstream] = client;
    watch(epoll, client, EPOLLIN | EPOLLET);
    watch(epoll, upstream, EPOLLIN | EPOLLET);
}

// Reads until the socket is empty; what the other side does not take at once is waited for.
static void pass(int from) {
    int to = peer[from];
    while (to) {
        ssize_t n = read(from, buf, sizeof buf);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            peer[from] = peer[to] = 0;
            close(from);
            close(to);
            return;
        }
        for (ssize_t sent = 0; sent < n;) {
            ssize_t w = write(to, buf + sent, n - sent);
            if (w > 0) sent += w;
            else if (errno != EAGAIN) break;
        }
        if (n < (ssize_t)sizeof buf) return;
    }
}

int main(int count, char **args) {
    if (count != 3) return 2;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = loopback(atoi(args[1]));
    if (bind(listener, (void *)&a, sizeof a) || listen(listener, 1024)) {
        perror("bind");
        return 1;
    }
    watch(epoll, listener, EPOLLIN);
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener) accept_one(epoll, listener, atoi(args[2]));
            else pass(events[i].data.fd);
        }
    }
}
