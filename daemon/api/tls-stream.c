// SPDX-License-Identifier: GPL-2.0-or-later
/* tls-stream: see tls-stream.h */
#include "daemon/api/tls-stream.h"

#include <stdbool.h>

#include "base/cleanup.h"

/* What a stream and its two halves share; each holds a reference. */
struct shared {
        GSocketConnection *base;
        gnutls_session_t session;
        bool held; /* a write is encrypted, and not all of it has gone */
        bool closed;
};

static GSocket *socket_of(const struct shared *s) {
        return g_socket_connection_get_socket(s->base);
}

static void shared_clear(void *opaque) {
        struct shared *s = opaque;

        gnutls_deinit(s->session);
        g_object_unref(s->base);
}

static void shared_unref(struct shared *s) {
        if (s)
                g_rc_box_release_full(s, shared_clear);
}

/* A result of GnuTLS's as GIO wants it. */
static gssize fail(ssize_t code, GError **error) {
        if (code == GNUTLS_E_AGAIN || code == GNUTLS_E_INTERRUPTED || !gnutls_error_is_fatal((int)code))
                g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK, "not now");
        else if (code == GNUTLS_E_PUSH_ERROR || code == GNUTLS_E_PREMATURE_TERMINATION)
                g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_CLOSED, "the client is gone");
        else
                g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, gnutls_strerror((int)code));
        return -1;
}

static gssize receive(struct shared *s, void *buf, gsize n, GError **error) {
        ssize_t r = s->closed ? 0 : gnutls_record_recv(s->session, buf, n);

        /* A client that does not say goodbye: HTTP says by itself where a message ends. */
        return r >= 0 ? r : r == GNUTLS_E_PREMATURE_TERMINATION ? 0 : fail(r, error);
}

static gssize deliver(struct shared *s, const void *buf, gsize n, GError **error) {
        ssize_t r = s->closed ? (ssize_t)GNUTLS_E_PUSH_ERROR
                    : s->held ? gnutls_record_send(s->session, NULL, 0)
                              : gnutls_record_send(s->session, buf, n);

        s->held = r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED;
        return r >= 0 ? MIN(r, (ssize_t)n) : fail(r, error);
}

/* For callers who wait, of whom there are none now. */
static bool wait_for(struct shared *s, GIOCondition condition, GCancellable *cancellable, GError **was) {
        if (!g_error_matches(*was, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK))
                return false;
        g_clear_error(was);
        return g_socket_condition_wait(socket_of(s), condition, cancellable, was);
}

static GSource *source_for(struct shared *s, GObject *stream, GIOCondition condition, bool now,
                           GCancellable *cancellable) {
        GSource *child = now ? g_timeout_source_new(0) : g_socket_create_source(socket_of(s), condition, NULL);
        GSource *source = g_pollable_source_new_full(stream, child, cancellable);

        g_source_unref(child);
        return source;
}

/* Not by G_DEFINE_TYPE, which keeps the type in a variable of its own: GObject knows it by its name. */
static GType type_of(const char *name, GType parent, size_t class_size, GClassInitFunc class_init, size_t size,
                     GType interface, const GInterfaceInfo *info) {
        GType type = g_type_from_name(name);

        if (type)
                return type;
        type = g_type_register_static_simple(parent, name, (guint)class_size, class_init, (guint)size, NULL, 0);
        if (info)
                g_type_add_interface_static(type, interface, info);
        return type;
}

static void parent_finalize(GObject *object, GType parent) {
        G_OBJECT_CLASS(g_type_class_peek(parent))->finalize(object);
}

/* ---- input ------------------------------------------------------------------------------------------------------------- */

typedef struct {
        GInputStream parent;
        struct shared *shared;
} TlsInput;
static gssize input_read(GInputStream *stream, void *buf, gsize n, GCancellable *cancellable, GError **error) {
        struct shared *s = ((TlsInput *)stream)->shared;

        for (;;) {
                GError *was = NULL;
                gssize r = receive(s, buf, n, &was);

                if (r >= 0)
                        return r;
                if (!wait_for(s, G_IO_IN, cancellable, &was)) {
                        g_propagate_error(error, was);
                        return -1;
                }
        }
}

static gboolean input_close(GInputStream *stream, GCancellable *cancellable, GError **error) {
        return TRUE;
}

static gssize input_read_now(GPollableInputStream *stream, void *buf, gsize n, GError **error) {
        return receive(((TlsInput *)stream)->shared, buf, n, error);
}

static gboolean input_is_readable(GPollableInputStream *stream) {
        const struct shared *s = ((TlsInput *)stream)->shared;

        return s->closed || gnutls_record_check_pending(s->session) > 0 ||
               (g_socket_condition_check(socket_of(s), G_IO_IN) & G_IO_IN);
}

static GSource *input_source(GPollableInputStream *stream, GCancellable *cancellable) {
        struct shared *s = ((TlsInput *)stream)->shared;

        return source_for(s, G_OBJECT(stream), G_IO_IN, s->closed || gnutls_record_check_pending(s->session) > 0,
                          cancellable);
}

static void input_finalize(GObject *object) {
        shared_unref(((TlsInput *)object)->shared);
        parent_finalize(object, G_TYPE_INPUT_STREAM);
}

static void tls_input_pollable_init(void *opaque, void *data) {
        GPollableInputStreamInterface *iface = opaque;

        iface->read_nonblocking = input_read_now;
        iface->is_readable = input_is_readable;
        iface->create_source = input_source;
}

static void tls_input_class_init(void *opaque, void *data) {
        GInputStreamClass *class = opaque;

        class->read_fn = input_read;
        class->close_fn = input_close;
        G_OBJECT_CLASS(class)->finalize = input_finalize;
}

static GType tls_input_type(void) {
        static const GInterfaceInfo pollable = { .interface_init = tls_input_pollable_init };

        return type_of("LodgeTlsInput", G_TYPE_INPUT_STREAM, sizeof(GInputStreamClass), tls_input_class_init,
                       sizeof(TlsInput), G_TYPE_POLLABLE_INPUT_STREAM, &pollable);
}

/* ---- output ------------------------------------------------------------------------------------------------------------ */

typedef struct {
        GOutputStream parent;
        struct shared *shared;
} TlsOutput;
static gssize output_write(GOutputStream *stream, const void *buf, gsize n, GCancellable *cancellable, GError **error) {
        struct shared *s = ((TlsOutput *)stream)->shared;

        for (;;) {
                GError *was = NULL;
                gssize r = deliver(s, buf, n, &was);

                if (r >= 0)
                        return r;
                if (!wait_for(s, G_IO_OUT, cancellable, &was)) {
                        g_propagate_error(error, was);
                        return -1;
                }
        }
}

static gboolean output_close(GOutputStream *stream, GCancellable *cancellable, GError **error) {
        return TRUE;
}

static gssize output_write_now(GPollableOutputStream *stream, const void *buf, gsize n, GError **error) {
        return deliver(((TlsOutput *)stream)->shared, buf, n, error);
}

static gboolean output_is_writable(GPollableOutputStream *stream) {
        const struct shared *s = ((TlsOutput *)stream)->shared;

        return s->closed || (g_socket_condition_check(socket_of(s), G_IO_OUT) & G_IO_OUT);
}

static GSource *output_source(GPollableOutputStream *stream, GCancellable *cancellable) {
        struct shared *s = ((TlsOutput *)stream)->shared;

        return source_for(s, G_OBJECT(stream), G_IO_OUT, s->closed, cancellable);
}

static void output_finalize(GObject *object) {
        shared_unref(((TlsOutput *)object)->shared);
        parent_finalize(object, G_TYPE_OUTPUT_STREAM);
}

static void tls_output_pollable_init(void *opaque, void *data) {
        GPollableOutputStreamInterface *iface = opaque;

        iface->write_nonblocking = output_write_now;
        iface->is_writable = output_is_writable;
        iface->create_source = output_source;
}

static void tls_output_class_init(void *opaque, void *data) {
        GOutputStreamClass *class = opaque;

        class->write_fn = output_write;
        class->close_fn = output_close;
        G_OBJECT_CLASS(class)->finalize = output_finalize;
}

static GType tls_output_type(void) {
        static const GInterfaceInfo pollable = { .interface_init = tls_output_pollable_init };

        return type_of("LodgeTlsOutput", G_TYPE_OUTPUT_STREAM, sizeof(GOutputStreamClass), tls_output_class_init,
                       sizeof(TlsOutput), G_TYPE_POLLABLE_OUTPUT_STREAM, &pollable);
}

/* ---- both -------------------------------------------------------------------------------------------------------------- */

typedef struct {
        GIOStream parent;
        struct shared *shared;
        TlsInput *input;
        TlsOutput *output;
} TlsStream;
static GInputStream *stream_input(GIOStream *stream) {
        return &((TlsStream *)stream)->input->parent;
}

static GOutputStream *stream_output(GIOStream *stream) {
        return &((TlsStream *)stream)->output->parent;
}

/* Goodbye, if it goes out at once: nobody is waited for. */
static void stream_end(struct shared *s) {
        if (s->closed)
                return;
        s->closed = true;
        if (!s->held)
                gnutls_bye(s->session, GNUTLS_SHUT_WR);
        g_io_stream_close(G_IO_STREAM(s->base), NULL, NULL);
}

static gboolean stream_close(GIOStream *stream, GCancellable *cancellable, GError **error) {
        stream_end(((TlsStream *)stream)->shared);
        return TRUE;
}

/* Not in a thread, as GIO's default would. */
static void stream_close_async(GIOStream *stream, int priority, GCancellable *cancellable, GAsyncReadyCallback callback,
                               gpointer opaque) {
        GTask *task = g_task_new(stream, cancellable, callback, opaque);

        stream_end(((TlsStream *)stream)->shared);
        g_task_return_boolean(task, TRUE);
        g_object_unref(task);
}

static gboolean stream_close_finish(GIOStream *stream, GAsyncResult *result, GError **error) {
        return g_task_propagate_boolean(G_TASK(result), error);
}

static void stream_finalize(GObject *object) {
        TlsStream *stream = (TlsStream *)object;

        g_clear_object(&stream->input);
        g_clear_object(&stream->output);
        shared_unref(stream->shared);
        parent_finalize(object, G_TYPE_IO_STREAM);
}

static void tls_stream_class_init(void *opaque, void *data) {
        GIOStreamClass *class = opaque;

        class->get_input_stream = stream_input;
        class->get_output_stream = stream_output;
        class->close_fn = stream_close;
        class->close_async = stream_close_async;
        class->close_finish = stream_close_finish;
        G_OBJECT_CLASS(class)->finalize = stream_finalize;
}

static GType tls_stream_type(void) {
        return type_of("LodgeTlsStream", G_TYPE_IO_STREAM, sizeof(GIOStreamClass), tls_stream_class_init,
                       sizeof(TlsStream), G_TYPE_INVALID, NULL);
}

GIOStream *tls_stream_new(GSocketConnection *base, gnutls_session_t session) {
        TlsStream *stream = g_object_new(tls_stream_type(), NULL);

        stream->shared = g_rc_box_new0(struct shared);
        *stream->shared = (struct shared){ .base = g_object_ref(base), .session = session };
        stream->input = g_object_new(tls_input_type(), NULL);
        stream->input->shared = g_rc_box_acquire(stream->shared);
        stream->output = g_object_new(tls_output_type(), NULL);
        stream->output->shared = g_rc_box_acquire(stream->shared);
        return &stream->parent;
}
