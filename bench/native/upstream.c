/* A simulated OpenAI-compatible provider, cheap enough to be no part of what is measured.
 *
 *     upstream PORT [MILLISECONDS]
 *
 * It serves HTTP/1.1 on 127.0.0.1 with keep-alive, in one thread. Every POST to
 * a path that ends in /chat/completions is answered; the model's name says how:
 *
 *     mock              a complete answer of about 1 kB
 *     mock-n200-d5      if the request has "stream": true: 200 chunks, 5 ms apart
 *     mock-n200-d0      the same 200 chunks at once
 *
 * If the request asks for usage in the stream ("include_usage": true), a chunk with the
 * usage follows the last one, then [DONE]. A complete answer is sent after MILLISECONDS;
 * without them at once. SIGTERM ends the program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_AT_ONCE = 512, DEFAULT_CHUNKS = 200, MAX_CHUNKS = 100000 };

/* A growing piece of memory: bytes from `start` to `end` are not consumed yet. */
typedef struct {
    char *data;
    size_t start, end, capacity;
} Buffer;

typedef struct Connection {
    int socket;
    Buffer in, out;
    bool is_streaming, wants_usage, waits_for_room, is_closed;
    bool sends_complete;      /* the only chunk of this "stream" is a complete answer */
    int chunk_count, next_chunk, delay_ms;
    long due_ms;              /* when the next chunk is due */
    int stream_index;         /* position in `streams`, -1 if not in it */
    struct Connection *next_closed;
} Connection;

static int poller;
static int complete_delay_ms;
static Connection **streams;  /* connections whose next chunk has a due time */
static int stream_count, stream_capacity;
static Connection *closed_connections;

/* The texts are built once at the start. */
static Buffer complete_answer, first_chunk, last_chunk, usage_chunk;
static Buffer word_chunks[8], word_chunks_without_usage[8];

static long milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

/* ------------------------------------------------------------------- buffers */

static void reserve(Buffer *buffer, size_t size) {
    if (buffer->start == buffer->end) buffer->start = buffer->end = 0;
    if (buffer->end + size <= buffer->capacity) return;
    if (buffer->start > 0) {
        size_t pending = buffer->end - buffer->start;
        memmove(buffer->data, buffer->data + buffer->start, pending);
        buffer->start = 0;
        buffer->end = pending;
    }
    if (buffer->end + size <= buffer->capacity) return;
    buffer->capacity = (buffer->end + size) * 2;
    buffer->data = realloc(buffer->data, buffer->capacity);
    if (!buffer->data) abort();
}

static void append(Buffer *buffer, const char *bytes, size_t size) {
    reserve(buffer, size);
    memcpy(buffer->data + buffer->end, bytes, size);
    buffer->end += size;
}

static void append_buffer(Buffer *buffer, const Buffer *other) {
    append(buffer, other->data + other->start, other->end - other->start);
}

static void append_format(Buffer *buffer, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (size < 0 || size >= (int)sizeof text) abort();
    append(buffer, text, size);
}

/* --------------------------------------------------------------------- texts */

static const char IDENTITY[] =
    "\"id\":\"chatcmpl-benchmark0123456789abcd\",\"object\":\"%s\","
    "\"created\":1760000000,\"model\":\"simulated-mini-2026-01-01\"";
static const char USAGE[] =
    "\"usage\":{\"prompt_tokens\":60,\"completion_tokens\":%d,\"total_tokens\":%d";

/* Build a server-sent event within a chunk of the transfer encoding. `usage` is "null",
 * or empty for a chunk without the field. */
static Buffer event_chunk(const char *delta, const char *finish, const char *usage) {
    Buffer event = {0}, framed = {0};
    append_format(&event, "data: {");
    append_format(&event, IDENTITY, "chat.completion.chunk");
    append_format(&event,
                  ",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0123456789\","
                  "\"choices\":[{\"index\":0,\"delta\":{%s},\"logprobs\":null,"
                  "\"finish_reason\":%s}]%s%s}\n\n",
                  delta, finish, *usage ? ",\"usage\":" : "", usage);
    append_format(&framed, "%zx\r\n", event.end);
    append_buffer(&framed, &event);
    append(&framed, "\r\n", 2);
    free(event.data);
    return framed;
}

static void build_usage_chunk(void) {
    Buffer event = {0};
    append_format(&event, "data: {");
    append_format(&event, IDENTITY, "chat.completion.chunk");
    append_format(&event, ",\"choices\":[],");
    append_format(&event, USAGE, 200, 260);
    append_format(&event, "}}\n\n");
    append_format(&usage_chunk, "%zx\r\n", event.end);
    append_buffer(&usage_chunk, &event);
    append(&usage_chunk, "\r\n", 2);
    free(event.data);
}

static void build_complete_answer(void) {
    static const char SENTENCE[] = "Aqueducts carried water to the city for centuries. ";
    Buffer body = {0};
    append_format(&body, "{");
    append_format(&body, IDENTITY, "chat.completion");
    append_format(&body,
                  ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
                  "\"content\":\"");
    for (int repetition = 0; repetition < 8; repetition++)
        append(&body, SENTENCE, sizeof SENTENCE - 1);
    append_format(&body,
                  "\",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,"
                  "\"finish_reason\":\"stop\"}],");
    append_format(&body, USAGE, 100, 160);
    append_format(&body,
                  ",\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
                  "\"completion_tokens_details\":{\"reasoning_tokens\":0,"
                  "\"audio_tokens\":0,\"accepted_prediction_tokens\":0,"
                  "\"rejected_prediction_tokens\":0}},"
                  "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0123\"}");
    append_format(&complete_answer,
                  "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                  "x-request-id: req_0123456789\r\nContent-Length: %zu\r\n\r\n",
                  body.end);
    append_buffer(&complete_answer, &body);
    free(body.data);
}

static void build_texts(void) {
    static const char *WORDS[8] = {" water", " stone", " river", " marble",
                                   " arch",  " spring", " valley", " bridge"};
    char delta[64];
    build_complete_answer();
    build_usage_chunk();
    first_chunk = event_chunk(
        "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null", "null", "");
    last_chunk = event_chunk("", "\"stop\"", "");
    for (int index = 0; index < 8; index++) {
        snprintf(delta, sizeof delta, "\"content\":\"%s\"", WORDS[index]);
        word_chunks[index] = event_chunk(delta, "null", "null");
        word_chunks_without_usage[index] = event_chunk(delta, "null", "");
    }
}

/* --------------------------------------------------------------- connections */

static void forget_stream(Connection *connection) {
    if (connection->stream_index < 0) return;
    Connection *last = streams[--stream_count];
    streams[connection->stream_index] = last;
    last->stream_index = connection->stream_index;
    connection->stream_index = -1;
}

static void remember_stream(Connection *connection) {
    if (stream_count == stream_capacity) {
        stream_capacity = stream_capacity * 2 + 64;
        streams = realloc(streams, stream_capacity * sizeof *streams);
        if (!streams) abort();
    }
    connection->stream_index = stream_count;
    streams[stream_count++] = connection;
}

/* The memory is freed after the current batch of events, which may still name it. */
static void close_connection(Connection *connection) {
    if (connection->is_closed) return;
    connection->is_closed = true;
    forget_stream(connection);
    close(connection->socket);
    connection->next_closed = closed_connections;
    closed_connections = connection;
}

static void free_closed_connections(void) {
    while (closed_connections) {
        Connection *connection = closed_connections;
        closed_connections = connection->next_closed;
        free(connection->in.data);
        free(connection->out.data);
        free(connection);
    }
}

/* Ask to be woken when the socket has room again, or stop asking. */
static void wait_for_room(Connection *connection, bool waits) {
    if (connection->waits_for_room == waits) return;
    connection->waits_for_room = waits;
    struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0),
                                .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->socket, &event);
}

static void flush(Connection *connection) {
    Buffer *out = &connection->out;
    while (out->start < out->end) {
        ssize_t sent = send(connection->socket, out->data + out->start,
                            out->end - out->start, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN)
                wait_for_room(connection, true);
            else
                close_connection(connection);
            return;
        }
        out->start += sent;
    }
    wait_for_room(connection, false);
}

/* ------------------------------------------------------------------- answers */

/* Return the number after `-` and `letter` in a model's name, or `otherwise`. */
static int option(const char *name, size_t size, char letter, int otherwise) {
    for (size_t at = 0; at + 2 < size; at++)
        if (name[at] == '-' && name[at + 1] == letter && name[at + 2] >= '0' &&
            name[at + 2] <= '9')
            return atoi(name + at + 2);
    return otherwise;
}

/* Whether a JSON text sets this field (written with its quotation marks) to true. */
static bool is_true(const char *body, size_t size, const char *field) {
    const char *at = memmem(body, size, field, strlen(field)), *end = body + size;
    if (!at) return false;
    at += strlen(field);
    while (at < end && (*at == ' ' || *at == ':')) at++;
    return at < end && *at == 't';
}

static void append_delayed_answer(Connection *connection) {
    append_buffer(&connection->out, &complete_answer);
    connection->is_streaming = connection->sends_complete = false;
    forget_stream(connection);
}

static void append_next_chunk(Connection *connection) {
    static const char LAST_EVENT[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    Buffer *out = &connection->out;
    if (connection->sends_complete) {
        append_delayed_answer(connection);
        return;
    }
    int index = connection->next_chunk++;
    if (index == 0)
        append_buffer(out, &first_chunk);
    else if (index == connection->chunk_count - 1)
        append_buffer(out, &last_chunk);
    else if (connection->wants_usage)
        append_buffer(out, &word_chunks[index % 8]);
    else
        append_buffer(out, &word_chunks_without_usage[index % 8]);
    if (connection->next_chunk < connection->chunk_count) return;
    if (connection->wants_usage) append_buffer(out, &usage_chunk);
    append(out, LAST_EVENT, sizeof LAST_EVENT - 1);
    connection->is_streaming = false;
    forget_stream(connection);
}

static void start_stream(Connection *connection) {
    static const char HEAD[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        "Cache-Control: no-cache\r\nx-request-id: req_0123456789\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    append(&connection->out, HEAD, sizeof HEAD - 1);
    connection->next_chunk = 0;
    connection->is_streaming = true;
    if (connection->delay_ms == 0) {
        while (connection->is_streaming) append_next_chunk(connection);
        return;
    }
    remember_stream(connection);
    connection->due_ms = milliseconds() + connection->delay_ms;
    append_next_chunk(connection);
}

static void send_complete(Connection *connection) {
    if (complete_delay_ms == 0) {
        append_buffer(&connection->out, &complete_answer);
        return;
    }
    connection->is_streaming = connection->sends_complete = true;
    remember_stream(connection);
    connection->due_ms = milliseconds() + complete_delay_ms;
}

static void answer(Connection *connection, const char *body, size_t size) {
    if (!is_true(body, size, "\"stream\"")) {
        send_complete(connection);
        return;
    }
    const char *name = memmem(body, size, "mock", 4);
    const char *end = name ? memchr(name, '"', body + size - name) : NULL;
    size_t name_size = end ? (size_t)(end - name) : 0;
    int chunks = option(name, name_size, 'n', DEFAULT_CHUNKS);
    if (chunks < 2) chunks = 2;
    if (chunks > MAX_CHUNKS) chunks = MAX_CHUNKS;
    connection->chunk_count = chunks;
    connection->delay_ms = option(name, name_size, 'd', 0);
    connection->wants_usage = is_true(body, size, "\"include_usage\"");
    start_stream(connection);
}

/* ------------------------------------------------------------------ requests */

/* Return the value of a header field in a head, or NULL. `name` ends with a colon. */
static const char *header(const char *head, const char *head_end, const char *name) {
    const char *line = memmem(head, head_end - head, "\r\n", 2);
    while (line && line + 2 < head_end) {
        line += 2;
        if (!strncasecmp(line, name, strlen(name))) return line + strlen(name);
        line = memmem(line, head_end - line, "\r\n", 2);
    }
    return NULL;
}

/* Join the chunks of a request body in place. Returns the bytes that it took in the
 * input and sets `size`; returns 0 if the body is not complete yet. */
static size_t join_chunks(char *body, const char *end, size_t *size, bool moves) {
    char *at = body;
    *size = 0;
    for (;;) {
        char *line_end = memmem(at, end - at, "\r\n", 2);
        if (!line_end) return 0;
        size_t length = strtoul(at, NULL, 16);
        at = line_end + 2;
        if ((size_t)(end - at) < length + 2) return 0;
        if (length == 0) return at + 2 - body;
        if (moves) memmove(body + *size, at, length);
        *size += length;
        at += length + 2;
    }
}

static const char NOT_FOUND[] =
    "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/* Answer the first request of the input if it is complete. Returns whether it was. */
static bool handle_request(Connection *connection) {
    Buffer *in = &connection->in;
    char *head = in->data + in->start, *end = in->data + in->end;
    char *head_end = memmem(head, end - head, "\r\n\r\n", 4);
    if (!head_end) return false;
    char *body = head_end + 4;
    const char *length = header(head, head_end + 2, "content-length:");
    size_t size = length ? strtoul(length, NULL, 10) : 0, used = size;
    if (header(head, head_end + 2, "transfer-encoding:")) {
        /* The first pass only looks whether all is here: joining changes the input. */
        used = join_chunks(body, end, &size, false);
        if (used == 0) return false;
        join_chunks(body, end, &size, true);
    } else if ((size_t)(end - body) < size) {
        return false;
    }
    /* Another format than chat is not served, which a gateway finds out by asking. */
    char *line_end = memmem(head, end - head, "\r\n", 2);
    static const char PATH[] = "/chat/completions";
    if (memmem(head, line_end - head, PATH, sizeof PATH - 1))
        answer(connection, body, size);
    else
        append(&connection->out, NOT_FOUND, sizeof NOT_FOUND - 1);
    in->start = body + used - in->data;
    return true;
}

static void handle_requests(Connection *connection) {
    while (!connection->is_closed && !connection->is_streaming &&
           connection->in.start < connection->in.end && handle_request(connection))
        continue;
    if (!connection->is_closed) flush(connection);
}

static void read_input(Connection *connection) {
    for (;;) {
        Buffer *in = &connection->in;
        reserve(in, 4096);
        size_t room = in->capacity - in->end;
        ssize_t size = recv(connection->socket, in->data + in->end, room, 0);
        if (size < 0 && errno == EAGAIN) break;
        if (size <= 0) {
            close_connection(connection);
            return;
        }
        in->end += size;
        if ((size_t)size < room) break;
    }
    handle_requests(connection);
}

static void accept_connections(int listener) {
    for (;;) {
        int enabled = 1;
        int socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (socket < 0) return;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &enabled, sizeof enabled);
        Connection *connection = calloc(1, sizeof *connection);
        if (!connection) abort();
        connection->socket = socket;
        connection->stream_index = -1;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event);
    }
}

/* ---------------------------------------------------------------------- loop */

/* Send the chunks that are due. Each stream keeps to its own schedule: a late chunk does
 * not delay those after it. */
static void send_due_chunks(long now) {
    /* From the end, because a stream that ends is replaced by the last one. */
    for (int index = stream_count - 1; index >= 0; index--) {
        Connection *connection = streams[index];
        if (connection->due_ms > now) continue;
        while (connection->is_streaming && connection->due_ms <= now) {
            connection->due_ms += connection->delay_ms;
            append_next_chunk(connection);
        }
        flush(connection);
        if (!connection->is_closed && !connection->is_streaming)
            handle_requests(connection);
    }
}

/* Return the milliseconds until the next chunk is due, or -1 if no stream is open. */
static int milliseconds_to_next_chunk(void) {
    if (stream_count == 0) return -1;
    long earliest = streams[0]->due_ms;
    for (int index = 1; index < stream_count; index++)
        if (streams[index]->due_ms < earliest) earliest = streams[index]->due_ms;
    long remaining = earliest - milliseconds();
    return remaining > 0 ? (int)remaining : 0;
}

static int listen_on(int port) {
    int enabled = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &enabled, sizeof enabled);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 4096)) {
        perror("upstream");
        exit(1);
    }
    return listener;
}

int main(int argument_count, char **arguments) {
    if (argument_count != 2 && argument_count != 3) {
        fprintf(stderr, "usage: upstream PORT [MILLISECONDS]\n");
        return 2;
    }
    if (argument_count == 3) complete_delay_ms = atoi(arguments[2]);
    signal(SIGPIPE, SIG_IGN);
    build_texts();
    int listener = listen_on(atoi(arguments[1]));
    poller = epoll_create1(0);
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening);
    for (;;) {
        struct epoll_event events[EVENTS_AT_ONCE];
        int count = epoll_wait(poller, events, EVENTS_AT_ONCE,
                               milliseconds_to_next_chunk());
        for (int index = 0; index < count; index++) {
            Connection *connection = events[index].data.ptr;
            if (!connection)
                accept_connections(listener);
            else if (connection->is_closed)
                continue;
            else if (events[index].events & EPOLLOUT)
                handle_requests(connection);
            else
                read_input(connection);
        }
        send_due_chunks(milliseconds());
        free_closed_connections();
    }
}
