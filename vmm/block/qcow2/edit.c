// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * edit: the bitmaps of an image that nobody has open are read and changed
 *
 * Theory of operation. A change opens the image for writing as a machine does, but no guest will write, so the bitmaps in the file stay good instead
 * of being "in use". Closing in order makes new bitmaps durable before the header points there, and only then the old ones are freed. So a kill, or
 * a full disk, leaves the image with its old bitmaps or its new ones; clusters that nothing points at are found by the repair that the dirty bit
 * asks for.
 *
 * The change is made in memory before the image is opened, so what is refused touches nothing: a mistyped name must not cost the other bitmaps,
 * should the host fail just then.
 *
 * Threads. One; the caller holds the file's lock.
 */
#include "vmm/block/qcow2/image.h"

int qcow2_bitmaps_read(struct file *file, struct qcow2_bitmaps **ret, struct error *e) {
        _cleanup_qcow2_header_ struct qcow2_header h = { 0 };
        int r = qcow2_header_load(file, &h, e);

        if (r == 0)
                r = qcow2_header_refuse(&h, false, e);
        if (r == 0)
                r = qcow2_header_fits(&h, file, e);
        return r < 0 ? r : qcow2_bitmaps_load(file, &h, false, ret, e);
}

/* @edited takes the place of the bitmaps that were loaded, which are those that it was made from. */
static int put(struct qcow2 *q, struct qcow2_bitmaps *edited, struct error *e) {
        int r;

        qcow2_bitmaps_free(q->bitmaps);
        q->bitmaps = edited;
        pthread_mutex_lock(&q->lock);
        r = image_begin(q); /* clusters are given back, even if none is taken */
        pthread_mutex_unlock(&q->lock);
        return r < 0 ? error_set(e, r, "disk-write", NULL, "cannot write the image's header")
                     : layer_finish(&q->layer, e);
}

int qcow2_bitmaps_edit(struct file *file, int (*edit)(struct qcow2_bitmaps *b, const void *opaque, struct error *e),
                       const void *opaque, struct error *e) {
        _cleanup_(qcow2_bitmaps_freep) struct qcow2_bitmaps *b = NULL;
        const struct qcow2_options options = { .same_content = true };
        struct layer *layer;
        int r = qcow2_bitmaps_read(file, &b, e);

        if (r == 0)
                r = edit(b, opaque, e);
        if (r == 0)
                r = qcow2_open(file, &options, &layer, e);
        if (r < 0) {
                file_close(file);
                return r;
        }
        r = layer->readonly ? error_set(e, -EROFS, "disk-write", NULL, "the image is opened for reading only")
                            : put(qcow2_of(layer), TAKE_PTR(b), e);
        layer_close(layer);
        return r;
}
