// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp-fd: descriptors that a client hands in
 *
 * Nothing is opened by path here, so a client sends a descriptor (SCM_RIGHTS) with the bytes of a `getfd` command, and gives it a name for
 * the commands that take one. As in QEMU: a name that is used again replaces the descriptor, and a descriptor that no getfd asks for is
 * closed when the next one comes. What a client has sent is its own, and closed when it goes, except what a command has taken.
 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "vmm/control/internal.h"

const char *const qmp_fd_arguments[] = { "fdname", NULL };

void qmp_fds_init(struct qmp_fds *fds) {
        *fds = (struct qmp_fds){ .received = -1 };
}

void qmp_fds_clear(struct qmp_fds *fds) {
        safe_close(fds->received);
        for (unsigned int i = 0; i < QMP_FDS_MAX; i++)
                if (*fds->named[i].name)
                        safe_close(fds->named[i].fd);
        qmp_fds_init(fds);
}

void qmp_fds_receive(struct qmp_fds *fds, int fd) {
        safe_close(fds->received);
        fds->received = fd;
}

/* The place of @name, or with "" a free one; -1: none. */
static int place_of(const struct qmp_fds *fds, const char *name) {
        for (int i = 0; i < QMP_FDS_MAX; i++)
                if (streq(fds->named[i].name, name))
                        return i;
        return -1;
}

int qmp_fd_find(const struct qmp_fds *fds, const char *name) {
        int i = *name ? place_of(fds, name) : -1;

        return i < 0 ? -1 : fds->named[i].fd;
}

void qmp_fd_forget(struct qmp_fds *fds, const char *name) {
        *fds->named[place_of(fds, name)].name = '\0';
}

static const char *get_name(json_t *arguments, struct qmp_failure *f) {
        const char *name = json_string_value(json_object_get(arguments, "fdname"));

        if (name && *name && !strchr("0123456789", *name) && strlen(name) <= QMP_NAME_MAX)
                return name;
        qmp_fail(f, QMP_GENERIC, "Parameter 'fdname' expects a name of at most %d bytes, not beginning with a digit",
                 QMP_NAME_MAX);
        return NULL;
}

json_t *qmp_getfd(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        struct qmp_fds *fds = context->fds;
        const char *name = get_name(arguments, f);
        int place;

        if (!name)
                return NULL;
        if (fds->received < 0)
                return qmp_fail(f, QMP_GENERIC, "No file descriptor supplied via SCM_RIGHTS");
        place = place_of(fds, name);
        if (place >= 0)
                safe_close(fds->named[place].fd);
        else
                place = place_of(fds, "");
        if (place < 0)
                return qmp_fail(f, QMP_GENERIC, "%d descriptors have names: closefd one of them", QMP_FDS_MAX);
        snprintf(fds->named[place].name, sizeof(fds->named[place].name), "%s", name);
        fds->named[place].fd = TAKE_FD(fds->received);
        return json_object();
}

json_t *qmp_closefd(struct qmp_context *context, json_t *arguments, struct qmp_failure *f) {
        const char *name = get_name(arguments, f);

        if (!name)
                return NULL;
        if (qmp_fd_find(context->fds, name) < 0)
                return qmp_fail(f, QMP_GENERIC, "File descriptor named '%.40s' not found", name);
        safe_close(qmp_fd_find(context->fds, name));
        qmp_fd_forget(context->fds, name);
        return json_object();
}
