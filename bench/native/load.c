/* A load generator: the same POST over and over, on a fixed number of connections.
 *
 *     load -p PORT -P PATH -b BODY_FILE [-H "name: value"]... [-c CONNECTIONS]
 *          [-d SECONDS] [-n REQUESTS] [-r RATE] [-w WARM_UP_SECONDS] [-o FILE]
 *
 * Closed loop: each connection sends its next request as soon as the previous one is
 * answered. After SECONDS no request is sent any more, and those on their way are
 * awaited; with -n the run ends after that many requests. HTTP/1.1 with keep-alive to
 * 127.0.0.1, in one thread.
 *
 * Open loop: with -r, RATE requests a second are due at equal distances, whether or not
 * earlier ones are answered. One that is due while no connection is idle waits for one. A
 * time counts from when the request was due, so neither a slow server nor a slow generator
 * can hide its queue. Requests that are due within WARM_UP_SECONDS are not measured.
 *
 * FILE gets a line for each measured answer: its status and its time in microseconds.
 *
 * The result is one line of JSON:
 *
 *     requests           answered requests
 *     bad                those of them with a status other than 2xx
 *     connection_errors  connections that broke during a request
 *     unanswered         requests without an answer a minute after the end
 *     events             lines of the bodies that start with "data:"
 *     seconds            from the first request to the last answer
 *     p50_us, p99_us     time from a request to the end of its answer
 *     first_byte_p50_us  time from a request to the first byte of its answer's body
 *     late_p99_us        in an open loop, how long after a request was due the generator
 *                        came to it
 *
 * Exit codes: 0 with a result, 1 if the server cannot be reached, 2 for wrong usage.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_AT_ONCE = 512, MAX_HEAD = 16384, MAX_BODY = 1 << 20 };
enum { WAIT_MS = 50, GRACE_SECONDS = 3 };
static const long long SECOND_NS = 1000000000LL;

/* The part of a response that is read next. */
typedef enum {
    HEAD,
    BODY_OF_LENGTH,
    CHUNK_SIZE,
    CHUNK_DATA,
    CHUNK_END,
    TRAILER,
    BODY_UNTIL_CLOSE,
} Part;

typedef struct {
    int socket;
    bool is_waiting;          /* for the rest of an answer */
    Part part;
    char head[MAX_HEAD + 1];
    size_t head_size;
    char line[32];            /* the size of a chunk, in hexadecimal */
    size_t line_size;
    unsigned long long remaining;  /* bytes of the body or the chunk */
    int status;
    bool closes;              /* the server closes the connection after the answer */
    int matched;              /* characters of "data:" at a line's start; -1: no more */
    long long due_ns, first_byte_ns;
} Connection;

typedef struct {
    long long *values;
    size_t count, capacity;
} Series;

static struct sockaddr_in address;
static int poller;
static char *request;
static size_t request_size;
static unsigned long long bad, connection_errors, event_count;
static long long received_ns;  /* when the current batch of answers was received */
static long long measured_from_ns;
static FILE *answers_file;     /* receives each measured answer; may be NULL */
static Series totals, first_bytes, lateness;

static long long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static void add_value(Series *series, long long value) {
    if (series->count == series->capacity) {
        series->capacity = series->capacity * 2 + 65536;
        series->values =
            realloc(series->values, series->capacity * sizeof *series->values);
        if (!series->values) abort();
    }
    series->values[series->count++] = value;
}

static int compare(const void *left, const void *right) {
    long long a = *(const long long *)left, b = *(const long long *)right;
    return (a > b) - (a < b);
}

/* Return a quantile in microseconds. Sorts the series. */
static double quantile_us(Series *series, double quantile) {
    if (series->count == 0) return 0;
    qsort(series->values, series->count, sizeof *series->values, compare);
    return series->values[(size_t)(quantile * (series->count - 1) + 0.5)] / 1000.0;
}

/* --------------------------------------------------------------- connections */

static void open_connection(Connection *connection) {
    int enabled = 1;
    connection->socket = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &enabled, sizeof enabled);
    if (connect(connection->socket, (struct sockaddr *)&address, sizeof address)) {
        perror("load: connect");
        exit(1);
    }
    fcntl(connection->socket, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_ADD, connection->socket, &event);
    connection->is_waiting = false;
}

static void reopen(Connection *connection) {
    close(connection->socket);
    open_connection(connection);
}

/* `due_ns`: when the request should have been sent. Times count from then. */
static void send_request(Connection *connection, long long due_ns) {
    connection->is_waiting = true;
    connection->part = HEAD;
    connection->head_size = connection->line_size = 0;
    connection->matched = 0;
    connection->closes = false;
    connection->first_byte_ns = 0;
    connection->due_ns = due_ns;
    /* A request is far smaller than the buffer of an idle socket. */
    if (send(connection->socket, request, request_size, MSG_NOSIGNAL) ==
        (ssize_t)request_size)
        return;
    connection_errors++;
    reopen(connection);
    connection->is_waiting = true;
    if (send(connection->socket, request, request_size, MSG_NOSIGNAL) !=
        (ssize_t)request_size) {
        fprintf(stderr, "load: a request cannot be sent\n");
        exit(1);
    }
}

/* ------------------------------------------------------------------- answers */

/* Count the lines that start with "data:". Lines may be cut anywhere. */
static void count_events(Connection *connection, const char *at, size_t size) {
    static const char FIELD[] = "data:";
    const char *end = at + size;
    while (at < end) {
        if (connection->matched < 0) {
            at = memchr(at, '\n', end - at);
            if (!at) return;
            at++;
            connection->matched = 0;
        } else if (*at == FIELD[connection->matched]) {
            at++;
            if (FIELD[++connection->matched]) continue;
            event_count++;
            connection->matched = -1;
        } else {
            connection->matched = *at == '\n' ? 0 : -1;
            at++;
        }
    }
}

/* Read status and framing from a complete head. Returns false for an interim answer. */
static bool read_head(Connection *connection) {
    connection->status = atoi(connection->head + sizeof "HTTP/1.1" - 1);
    if (connection->status == 100) return false;
    connection->part = BODY_UNTIL_CLOSE;
    for (char *line = strstr(connection->head, "\r\n"); line;
         line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15)) {
            connection->remaining = strtoull(line + 15, NULL, 10);
            connection->part = BODY_OF_LENGTH;
        } else if (!strncasecmp(line, "transfer-encoding:", 18)) {
            connection->part = CHUNK_SIZE;
        } else if (!strncasecmp(line, "connection: close", 17)) {
            connection->closes = true;
        }
    }
    return true;
}

/* Take bytes of the head; returns how many. */
static size_t feed_head(Connection *connection, const char *bytes, size_t size) {
    size_t room = MAX_HEAD - connection->head_size, earlier = connection->head_size;
    if (room == 0) {
        fprintf(stderr, "load: the head of an answer is too long\n");
        exit(1);
    }
    if (size > room) size = room;
    memcpy(connection->head + earlier, bytes, size);
    connection->head_size += size;
    char *end = memmem(connection->head, connection->head_size, "\r\n\r\n", 4);
    if (!end) return size;
    end[2] = 0;
    size_t head_size = end + 4 - connection->head;
    if (!read_head(connection)) connection->head_size = 0;
    return head_size - earlier;
}

/* Take bytes of the body; returns how many. */
static size_t feed_body(Connection *connection, const char *bytes, size_t size) {
    if (!connection->first_byte_ns) connection->first_byte_ns = received_ns;
    if (connection->part != BODY_UNTIL_CLOSE) {
        if (size > connection->remaining) size = connection->remaining;
        connection->remaining -= size;
    }
    count_events(connection, bytes, size);
    return size;
}

/* Take a character of a line between chunks. Returns whether the body has ended. */
static bool feed_line(Connection *connection, char character) {
    if (character != '\n') {
        if (character != '\r' && connection->line_size < sizeof connection->line - 1)
            connection->line[connection->line_size++] = character;
        return false;
    }
    connection->line[connection->line_size] = 0;
    bool is_empty = connection->line_size == 0;
    connection->line_size = 0;
    if (connection->part == CHUNK_END) {
        connection->part = CHUNK_SIZE;
    } else if (connection->part == CHUNK_SIZE) {
        connection->remaining = strtoull(connection->line, NULL, 16);
        connection->part = connection->remaining ? CHUNK_DATA : TRAILER;
    } else {
        return is_empty;
    }
    return false;
}

/* Feed received bytes. Returns whether the answer is complete. */
static bool feed(Connection *connection, const char *bytes, size_t size) {
    while (size > 0) {
        size_t used = 1;
        switch (connection->part) {
        case HEAD:
            used = feed_head(connection, bytes, size);
            if (connection->part == BODY_OF_LENGTH && connection->remaining == 0)
                return true;
            break;
        case BODY_OF_LENGTH:
            used = feed_body(connection, bytes, size);
            if (connection->remaining == 0) return true;
            break;
        case CHUNK_DATA:
            used = feed_body(connection, bytes, size);
            if (connection->remaining == 0) connection->part = CHUNK_END;
            break;
        case BODY_UNTIL_CLOSE:
            used = feed_body(connection, bytes, size);
            break;
        case CHUNK_SIZE:
        case CHUNK_END:
        case TRAILER:
            if (feed_line(connection, *bytes)) return true;
        }
        bytes += used;
        size -= used;
    }
    return false;
}

static void record(Connection *connection) {
    connection->is_waiting = false;
    if (connection->due_ns < measured_from_ns) return;
    long long total_ns = received_ns - connection->due_ns;
    add_value(&totals, total_ns);
    if (!connection->first_byte_ns) connection->first_byte_ns = received_ns;
    add_value(&first_bytes, connection->first_byte_ns - connection->due_ns);
    if (connection->status < 200 || connection->status > 299) bad++;
    if (answers_file)
        fprintf(answers_file, "%d %lld\n", connection->status, total_ns / 1000);
}

/* Read all that has arrived. Returns whether a request was answered or broke off. */
static bool receive(Connection *connection) {
    static char bytes[1 << 18];
    bool is_complete = false, is_closed = false;
    for (;;) {
        ssize_t size = recv(connection->socket, bytes, sizeof bytes, 0);
        if (size > 0 && connection->is_waiting && !is_complete)
            is_complete = feed(connection, bytes, size);
        is_closed = size == 0 || (size < 0 && errno != EAGAIN);
        if (size < (ssize_t)sizeof bytes) break;
    }
    bool was_waiting = connection->is_waiting;
    if (is_closed && was_waiting && connection->part == BODY_UNTIL_CLOSE)
        is_complete = true;
    if (is_complete) record(connection);
    if (is_closed && was_waiting && !is_complete) connection_errors++;
    if (is_closed || (is_complete && connection->closes)) reopen(connection);
    return is_complete || (is_closed && was_waiting);
}

/* ----------------------------------------------------------------------- run */

/* Run until the time is over or all requests are answered. Returns the seconds from the
 * first request to the last answer; `unanswered` is what is still missing a minute
 * later. */
static double run(Connection *connections, int connection_count, double seconds,
                  unsigned long long max_requests, int *unanswered) {
    long long start = nanoseconds(), last_answer = start;
    long long end = start + (long long)(seconds * SECOND_NS);
    unsigned long long sent = 0;
    int active = 0;
    for (; active < connection_count && sent < max_requests; active++, sent++)
        send_request(&connections[active], nanoseconds());
    while (active > 0) {
        struct epoll_event events[EVENTS_AT_ONCE];
        int count = epoll_wait(poller, events, EVENTS_AT_ONCE, WAIT_MS);
        received_ns = nanoseconds();
        if (received_ns > end + 60 * SECOND_NS) break;
        for (int index = 0; index < count; index++) {
            Connection *connection = events[index].data.ptr;
            if (!receive(connection)) continue;
            last_answer = received_ns;
            active--;
            if (received_ns >= end || sent >= max_requests) continue;
            send_request(connection, nanoseconds());
            active++;
            sent++;
        }
    }
    *unanswered = active;
    return (double)(last_answer - start) / SECOND_NS;
}

/* Wait until something arrives, or until `until_ns`. Returns the number of events. */
static int wait_for_events(struct epoll_event *events, long long until_ns) {
    long long wait_ns = until_ns - nanoseconds();
    if (wait_ns < 0) wait_ns = 0;
    if (wait_ns > WAIT_MS * 1000000LL) wait_ns = WAIT_MS * 1000000LL;
    struct timespec timeout = {.tv_nsec = wait_ns};
    return epoll_pwait2(poller, events, EVENTS_AT_ONCE, &timeout, NULL);
}

/* The same as `run` for requests at a fixed rate. `unanswered` counts the requests that
 * were due and not answered a few seconds after the end. */
static double run_at_rate(Connection *connections, int connection_count, double seconds,
                          double rate, int *unanswered) {
    Connection **idle = malloc(connection_count * sizeof *idle);
    if (!idle) abort();
    for (int index = 0; index < connection_count; index++)
        idle[index] = &connections[index];
    long long start = nanoseconds(), last_answer = start;
    long long end = start + (long long)(seconds * SECOND_NS);
    double interval_ns = SECOND_NS / rate;
    unsigned long long total = (unsigned long long)(seconds * rate);
    unsigned long long sent = 0, noticed = 0, ended = 0;
    int idle_count = connection_count;
    measured_from_ns += start;
    while (ended < total) {
        long long now = nanoseconds();
        if (now > end + GRACE_SECONDS * SECOND_NS) break;
        for (; noticed < total; noticed++) {
            long long due = start + (long long)(noticed * interval_ns);
            if (due > now) break;
            if (due >= measured_from_ns) add_value(&lateness, now - due);
        }
        while (sent < noticed && idle_count > 0)
            send_request(idle[--idle_count],
                         start + (long long)(sent++ * interval_ns));
        struct epoll_event events[EVENTS_AT_ONCE];
        int count = wait_for_events(
            events, noticed < total ? start + (long long)(noticed * interval_ns)
                                    : now + SECOND_NS);
        received_ns = nanoseconds();
        for (int index = 0; index < count; index++) {
            Connection *connection = events[index].data.ptr;
            if (!receive(connection)) continue;
            last_answer = received_ns;
            idle[idle_count++] = connection;
            ended++;
        }
    }
    *unanswered = (int)(total - ended);
    free(idle);
    return (double)(last_answer - start) / SECOND_NS;
}

static void build_request(int port, const char *path, const char *headers,
                          const char *body_file) {
    char *body = malloc(MAX_BODY);
    FILE *file = fopen(body_file, "r");
    if (!file || !body) {
        perror("load: body");
        exit(2);
    }
    size_t size = fread(body, 1, MAX_BODY, file);
    fclose(file);
    request = malloc(size + strlen(headers) + strlen(path) + 512);
    if (!request) abort();
    int head = sprintf(request,
                       "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                       "User-Agent: modelyard-bench\r\nAccept: */*\r\n"
                       "Content-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n",
                       path, port, headers, size);
    memcpy(request + head, body, size);
    request_size = head + size;
    free(body);
}

static int wrong_usage(void) {
    fprintf(stderr, "usage: load -p PORT -P PATH -b BODY_FILE [-H HEADER]... "
                    "[-c CONNECTIONS] [-d SECONDS] [-n REQUESTS]\n"
                    "            [-r RATE] [-w WARM_UP_SECONDS] [-o FILE]\n");
    return 2;
}

int main(int argument_count, char **arguments) {
    int port = 0, connection_count = 1, letter, unanswered;
    double seconds = 1, rate = 0, warm_up_seconds = 0;
    unsigned long long max_requests = ~0ULL;
    const char *path = "/", *body_file = NULL, *answers_path = NULL;
    char headers[8192] = "";
    while ((letter = getopt(argument_count, arguments, "p:P:b:H:c:d:n:r:w:o:")) > 0) {
        size_t used = strlen(headers);
        if (letter == 'p') port = atoi(optarg);
        else if (letter == 'P') path = optarg;
        else if (letter == 'b') body_file = optarg;
        else if (letter == 'H')
            snprintf(headers + used, sizeof headers - used, "%s\r\n", optarg);
        else if (letter == 'c') connection_count = atoi(optarg);
        else if (letter == 'd') seconds = atof(optarg);
        else if (letter == 'n') max_requests = strtoull(optarg, NULL, 10);
        else if (letter == 'r') rate = atof(optarg);
        else if (letter == 'w') warm_up_seconds = atof(optarg);
        else if (letter == 'o') answers_path = optarg;
        else return wrong_usage();
    }
    if (!port || !body_file || connection_count < 1) return wrong_usage();
    if (answers_path && !(answers_file = fopen(answers_path, "w"))) {
        perror("load: answers");
        return 2;
    }
    measured_from_ns = (long long)(warm_up_seconds * SECOND_NS);
    signal(SIGPIPE, SIG_IGN);
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    poller = epoll_create1(0);
    build_request(port, path, headers, body_file);
    Connection *connections = calloc(connection_count, sizeof *connections);
    if (!connections) abort();
    for (int index = 0; index < connection_count; index++)
        open_connection(&connections[index]);
    double elapsed =
        rate > 0
            ? run_at_rate(connections, connection_count, seconds, rate, &unanswered)
            : run(connections, connection_count, seconds, max_requests, &unanswered);
    if (answers_file) fclose(answers_file);
    printf("{\"requests\":%zu,\"bad\":%llu,\"connection_errors\":%llu,"
           "\"unanswered\":%d,\"events\":%llu,\"seconds\":%.4f,\"p50_us\":%.1f,"
           "\"p99_us\":%.1f,\"first_byte_p50_us\":%.1f,\"late_p99_us\":%.1f}\n",
           totals.count, bad, connection_errors, unanswered, event_count, elapsed,
           quantile_us(&totals, 0.5), quantile_us(&totals, 0.99),
           quantile_us(&first_bytes, 0.5), quantile_us(&lateness, 0.99));
    return 0;
}
