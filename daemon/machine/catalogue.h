// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * catalogue: servers of images, as the store keeps them, and what their indexes name
 *
 * A source is an object of kind "image-source", an image_source_config in JSON. Its index is read anew whenever somebody asks (by lodge-fetch, for the broker); only
 * the names in it are kept, as an object of kind "image-names", so that a launch that knows no image of a name can say where there is one.
 */
#pragma once

#include "daemon/image/fetch.h"
#include "daemon/machine/machine.h"

/** machine_source_add() - -EEXIST "source-exists", -E2BIG. */
int machine_source_add(struct machines *ms, const struct image_source_config *source, struct error *e);

/** machine_source_delete() - -ENOENT "source-not-found". */
int machine_source_delete(struct machines *ms, const char *name, struct error *e);

/** machine_source_load() - by its name; -ENOENT "source-not-found". */
int machine_source_load(struct machines *ms, const char *name, struct image_source_config **ret, struct error *e);

/** machine_source_each() - all of them, by name; until @fn returns something else than 0, which is returned then. */
int machine_source_each(struct machines *ms, int (*fn)(void *opaque, const struct image_source_config *source),
                        void *opaque, struct error *e);

/** machine_source_trust() - what its images' checksums rest on. */
enum image_trust machine_source_trust(const struct image_source_config *source);

/* @result: NULL with @e; borrowed */
typedef void (*machine_index_fn)(void *opaque, const struct error *e, const struct fetch_result *result);

/**
 * machine_index() - read a source's index; @fn is called once, later, unless this fails
 * @ret_call: to cancel it; may be NULL
 */
int machine_index(struct machines *ms, const struct image_source_config *source, machine_index_fn fn, void *opaque,
                  uint64_t *ret_call, struct error *e);

/** machine_index_find() - by name, else by alias; NULL if there is none. */
const struct fetch_item *machine_index_find(const struct fetch_result *result, const char *name);

/** machine_image_hint() - an image is not here: if a source had one of that name, say in @e how to get it. */
void machine_image_hint(struct machines *ms, const char *image, struct error *e);

/** machine_image_pull() - an operation: take an image from a server. */
int machine_image_pull(struct machines *ms, const struct image_pull_request *how, const struct machine_caller *caller,
                       char **ret_id, struct error *e);
