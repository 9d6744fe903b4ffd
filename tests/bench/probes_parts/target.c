/* What is probed: one listener for every address of 127.0.0.0/8, as cheap as it can be made.
 *
 *     target PORT tcp|http COUNTS
 *
 * Accepts and closes, or answers each request with 200 first. How many connections came in each second of the
 * monotonic clock is kept in the file COUNTS: 65536 numbers of 64 bits, that of second S at S modulo 65536. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECONDS 65536

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

static void check(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(1);
    }
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    int http = !strcmp(arguments[2], "http");
    int file = open(arguments[3], O_RDWR | O_CREAT, 0600);
    check(file < 0 || ftruncate(file, SECONDS * sizeof(uint64_t)), arguments[3]);
    uint64_t *seconds = mmap(0, SECONDS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    check(seconds == MAP_FAILED, "mmap");
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in all = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /* A connection is handed over with its request, so that reading it never waits. */
    if (http) setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &one, sizeof one);
    check(bind(listener, (struct sockaddr *)&all, sizeof all), "bind");
    check(listen(listener, 4096), "listen");
    for (;;) {
        int connection = accept(listener, 0, 0);
        if (connection < 0) continue;
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        seconds[now.tv_sec % SECONDS]++;
        char request[4096];
        if (http && recv(connection, request, sizeof request, MSG_DONTWAIT) > 0)
            send(connection, answer, sizeof answer - 1, MSG_NOSIGNAL);
        close(connection);
    }
}
