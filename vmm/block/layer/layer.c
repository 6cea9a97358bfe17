// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * layer: see layer.h
 *
 * Theory of operation of the epochs. A counter goes up by one at a time; whoever enters notes its parity and counts himself in his own
 * user's inside[parity]. The counter moves from f to f + 1 only when nobody of epoch f - 1 is left, so at any time only those of f and f - 1
 * can be inside, and two counts are enough. Space that was unmapped while the counter was s may be known to those who entered in s or
 * before; the move to s + 2 proves that the last of them has left.
 *
 * Ordering. layer_enter() counts himself first and looks at the counter again afterwards; when it has moved meanwhile, he takes himself back
 * and starts over. All of this is sequentially consistent, so either the one who moves the counter sees the count, or the one
 * who entered sees the new counter. A count of a loser is there for a moment: it can only delay a move, never permit one.
 *
 * Reading through the chain is a loop, not a recursion: each layer in turn is asked about what is left of the range; the first that
 * has an answer gives it, and the range becomes as short as the shortest answer on the way.
 */
#include "vmm/block/layer/layer.h"

#include <errno.h>
#include <string.h>

#include "base/iov.h"

void layer_init(struct layer *layer, const struct layer_ops *ops, struct file *file) {
        layer->ops = ops;
        layer->file = file;
        layer->readonly = file_is_readonly(file);
        layer->logical_block = 512;
        pthread_mutex_init(&layer->users_lock, NULL);
        layer->n_users = 0;
        atomic_init(&layer->epoch, 2); /* so that f - 1 is never negative */
}

void layer_destroy(struct layer *layer) {
        pthread_mutex_destroy(&layer->users_lock);
        file_close(layer->file);
        layer->file = NULL;
}

static int list_add(struct layer *layer, struct layer_user *user) {
        int r = -ENOSPC;

        pthread_mutex_lock(&layer->users_lock);
        if (layer->n_users < LAYER_USERS_MAX) {
                layer->users[layer->n_users++] = user;
                r = 0;
        }
        pthread_mutex_unlock(&layer->users_lock);
        return r;
}

static void list_remove(struct layer *layer, struct layer_user *user) {
        pthread_mutex_lock(&layer->users_lock);
        for (unsigned int i = 0; i < layer->n_users; i++)
                if (layer->users[i] == user) {
                        layer->n_users--;
                        memmove(&layer->users[i], &layer->users[i + 1], (layer->n_users - i) * sizeof(layer->users[0]));
                        break;
                }
        pthread_mutex_unlock(&layer->users_lock);
}

int layer_user_add(struct layer *layer, struct layer_user *user) {
        pthread_mutex_init(&user->lock, NULL);
        atomic_init(&user->inside[0], 0);
        atomic_init(&user->inside[1], 0);
        for (struct layer *l = layer; l; l = l->backing) {
                int r = list_add(l, user);

                if (r < 0) {
                        for (struct layer *undo = layer; undo != l; undo = undo->backing)
                                list_remove(undo, user);
                        pthread_mutex_destroy(&user->lock);
                        return r;
                }
        }
        return 0;
}

void layer_user_remove(struct layer *layer, struct layer_user *user) {
        for (; layer; layer = layer->backing)
                list_remove(layer, user);
        pthread_mutex_destroy(&user->lock);
}

void layer_lock_users(struct layer *layer) {
        pthread_mutex_lock(&layer->users_lock);
        for (unsigned int i = 0; i < layer->n_users; i++)
                pthread_mutex_lock(&layer->users[i]->lock);
}

void layer_unlock_users(struct layer *layer) {
        for (unsigned int i = layer->n_users; i > 0; i--)
                pthread_mutex_unlock(&layer->users[i - 1]->lock);
        pthread_mutex_unlock(&layer->users_lock);
}

unsigned int layer_enter(struct layer *layer, struct layer_user *user) {
        for (;;) {
                uint64_t epoch = atomic_load(&layer->epoch);
                unsigned int token = epoch & 1;

                atomic_fetch_add(&user->inside[token], 1);
                if (atomic_load(&layer->epoch) == epoch)
                        return token;
                atomic_fetch_sub(&user->inside[token], 1);
        }
}

void layer_leave(struct layer_user *user, unsigned int token) {
        atomic_fetch_sub(&user->inside[token & 1], 1);
}

uint64_t layer_epoch(const struct layer *layer) {
        return atomic_load(&layer->epoch);
}

bool layer_passed(struct layer *layer, uint64_t stamp) {
        bool stuck = false;
        uint64_t epoch;

        if (atomic_load(&layer->epoch) >= stamp + 2)
                return true;
        pthread_mutex_lock(&layer->users_lock); /* one mover at a time */
        while (!stuck && (epoch = atomic_load(&layer->epoch)) < stamp + 2) {
                for (unsigned int i = 0; i < layer->n_users && !stuck; i++)
                        stuck = atomic_load(&layer->users[i]->inside[(epoch - 1) & 1]) != 0;
                if (!stuck)
                        atomic_store(&layer->epoch, epoch + 1);
        }
        pthread_mutex_unlock(&layer->users_lock);
        return !stuck;
}

/* Is [@offset, @offset + @length) inside @layer? */
static int check_range(const struct layer *layer, uint64_t offset, uint64_t length) {
        uint64_t size = atomic_load(&layer->size);

        return offset > size || length > size - offset ? -ERANGE : 0;
}

int layer_map(struct layer *layer, struct layer_user *user, uint64_t offset, uint64_t length, unsigned int flags,
              struct extent *ret_extent) {
        struct extent extent = { 0 };
        int r;

        if (length == 0 || check_range(layer, offset, length) < 0)
                return -ERANGE;
        if (flags & LAYER_WRITE) {
                if (layer->readonly)
                        return -EROFS;
                flags |= LAYER_NOWAIT;
        }
        r = layer->ops->map(layer, user, offset, length, flags, &extent);
        if (r < 0)
                return r;
        if (extent.length == 0 || extent.length > length)
                return -EIO; /* a format's mistake must not become an endless loop or an overrun */
        *ret_extent = extent;
        return 0;
}

/* The first layer above @base that has something at @offset; *@ret_layer NULL: none. The extent is as short as the shortest answer. */
int layer_find(struct layer *layer, struct layer_user *user, const struct layer *base, uint64_t offset, uint64_t length,
               unsigned int flags, struct extent *ret_extent, struct layer **ret_layer) {
        for (unsigned int depth = 0; layer && layer != base && depth < LAYER_CHAIN_MAX;
             layer = layer->backing, depth++) {
                uint64_t size = atomic_load(&layer->size);
                struct extent extent;
                int r;

                if (offset >= size) {
                        /* A shorter backing image: zeroes from here on, whatever lies below it. */
                        *ret_extent = (struct extent){ .kind = EXTENT_ZERO, .length = length };
                        *ret_layer = layer;
                        return 0;
                }
                length = MIN(length, size - offset);
                r = layer_map(layer, user, offset, length, flags, &extent);
                if (r < 0)
                        return r;
                length = extent.length;
                if (extent.kind != EXTENT_UNALLOCATED) {
                        *ret_extent = extent;
                        *ret_layer = layer;
                        return 0;
                }
        }
        *ret_extent = (struct extent){ .kind = EXTENT_UNALLOCATED, .length = length };
        *ret_layer = NULL;
        return 0;
}

static int read_compressed(struct layer *layer, const struct iovec *iov, unsigned int n_iov, uint64_t skip,
                           uint64_t offset, uint64_t length) {
        _cleanup_free_ void *buf = NULL;
        struct iovec one;
        unsigned int n;
        int r;

        if (!layer->ops->read_compressed)
                return -EIO;
        if (iov_slice(iov, n_iov, skip, length, &one, 1, &n) == length)
                return layer->ops->read_compressed(layer, offset, length, one.iov_base);
        buf = malloc(length);
        if (!buf)
                return -ENOMEM;
        r = layer->ops->read_compressed(layer, offset, length, buf);
        if (r == 0)
                iov_from_buf(iov, n_iov, skip, buf, length);
        return r;
}

static int read_chain(struct layer *layer, struct layer_user *user, const struct iovec *iov, unsigned int n_iov,
                      uint64_t offset, uint64_t length) {
        uint64_t done = 0;

        while (done < length) {
                struct layer *owner;
                struct extent extent;
                int r = layer_find(layer, user, NULL, offset + done, length - done, 0, &extent, &owner);

                if (r < 0)
                        return r;
                if (extent.kind == EXTENT_DATA) {
                        r = file_read_part(owner->file, iov, n_iov, done, extent.length, extent.host);
                } else if (extent.kind == EXTENT_COMPRESSED) {
                        /* within one cluster */
                        uint64_t cluster = owner->cluster;

                        extent.length = MIN(extent.length, cluster - (offset + done) % cluster);
                        r = read_compressed(owner, iov, n_iov, done, offset + done, extent.length);
                } else {
                        iov_zero(iov, n_iov, done, extent.length);
                }
                if (r < 0)
                        return r;
                done += extent.length;
        }
        return 0;
}

int layer_readv(struct layer *layer, struct layer_user *user, const struct iovec *iov, unsigned int n_iov,
                uint64_t offset, uint64_t length) {
        unsigned int token = 0;
        int r;

        if (check_range(layer, offset, length) < 0)
                return -ERANGE;
        if (iov_length(iov, n_iov) < length)
                return -EINVAL;
        if (user)
                token = layer_enter(layer, user);
        r = read_chain(layer, user, iov, n_iov, offset, length);
        if (user)
                layer_leave(user, token);
        return r;
}

int layer_read(struct layer *layer, struct layer_user *user, void *buf, uint64_t offset, uint64_t length) {
        struct iovec v = { .iov_base = buf, .iov_len = length };

        return layer_readv(layer, user, &v, 1, offset, length);
}

static int check_change(const struct layer *layer, uint64_t offset, uint64_t length) {
        return layer->readonly ? -EROFS : check_range(layer, offset, length);
}

int layer_writev(struct layer *layer, const struct iovec *iov, unsigned int n_iov, uint64_t offset, uint64_t length) {
        int r = check_change(layer, offset, length);

        if (r < 0 || length == 0)
                return r;
        if (iov_length(iov, n_iov) < length)
                return -EINVAL;
        return layer->ops->write(layer, iov, n_iov, offset, length);
}

int layer_write(struct layer *layer, const void *buf, uint64_t offset, uint64_t length) {
        struct iovec v = { .iov_base = (void *)buf, .iov_len = length };

        return layer_writev(layer, &v, 1, offset, length);
}

int layer_zero(struct layer *layer, uint64_t offset, uint64_t length, bool unmap) {
        int r = check_change(layer, offset, length);

        return r < 0 || length == 0 ? r : layer->ops->zero(layer, offset, length, unmap);
}

int layer_discard(struct layer *layer, uint64_t offset, uint64_t length) {
        int r = check_change(layer, offset, length);

        return r < 0 || length == 0 ? r : layer->ops->discard(layer, offset, length);
}

int layer_flush(struct layer *layer) {
        return layer->readonly ? 0 : layer->ops->flush(layer);
}

int layer_finish(struct layer *layer, struct error *e) {
        return layer->readonly ? 0 : layer->ops->finish(layer, e);
}

int layer_status(struct layer *layer, struct layer_user *user, struct layer *base, uint64_t offset, uint64_t length,
                 struct extent *ret_extent, struct layer **ret_layer) {
        if (length == 0 || check_range(layer, offset, length) < 0)
                return -ERANGE;
        return layer_find(layer, user, base, offset, length, LAYER_HOLES, ret_extent, ret_layer);
}

void layer_close(struct layer *layer) {
        while (layer) {
                struct layer *below = layer->backing;

                layer->ops->close(layer);
                layer = below;
        }
}
