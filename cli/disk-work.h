// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk-work: what the commands on disk image files share
 *
 * A command fills its options, opens what it needs, and reports with an id and a fix. Long ones (struct disk_work) show on a terminal how far
 * they are, and stop at disk_stop_signals() with an error, at a place where they leave everything in order.
 */
#pragma once

#include <jansson.h>
#include <signal.h>

#include "cli/cli.h"
#include "vmm/block/chain/chain.h"
#include "vmm/block/qcow2/qcow2.h"

#define DISK_WORK_BUFFER (4u << 20) /* bytes; a multiple of every cluster size */

/** disk_command() - parse a command's words, run it (-errno, or an exit status), say what went wrong; returns the exit status. */
int disk_command(const struct schema_command *command, int argc, char **argv,
                 int (*run)(const struct disk_file_options *o, bool json, struct error *e));

/** disk_json_print() - to stdout; takes @o over. */
void disk_json_print(json_t *o);
/**
 * disk_json_begin(), disk_json_item(), disk_json_end() - an object to stdout whose last member is a list, however long, without keeping it
 * @head:  the members before it, at least one; taken over
 * @first: of the list; @item is taken over
 * @any:   was there an item?
 */
void disk_json_begin(json_t *head, const char *list);
void disk_json_item(json_t *item, bool first);
void disk_json_end(bool any);
/** disk_json_name() - a path in JSON; null for bytes that are no UTF-8, which can't be shown there. */
json_t *disk_json_name(const char *name);
/** disk_print_text() - with all replaced that a terminal doesn't just show (text_char()): names come out of images, and from strangers. */
void disk_print_text(const char *text);
/** disk_print_done() - a line with a name in it */
void disk_print_done(const char *before, const char *name, const char *after);

/** disk_claim() - disk_lock(), with advice for who examines or changes a file */
int disk_claim(int fd, bool readonly, const char *path, struct error *e);

/** disk_stop_signals() - those that ask a long command to stop; what the caller ignores (nohup) is not among them. */
void disk_stop_signals(sigset_t *ret_set);

/** disk_open_file() - one file, locked as a machine would lock it. Fails with "disk-open", and as disk_lock() and file_open() do. */
int disk_open_file(const char *path, bool readonly, int *ret_fd, struct file **ret_file, struct error *e);

/** disk_open_chain() - chain_open() with the locks that machines use, and advice on formats. */
int disk_open_chain(const char *path, enum machine_disk_format format, const struct chain_options *options,
                    struct chain **ret_chain, struct error *e);

/** disk_creation() - the options of a new qcow2 file */
struct qcow2_create disk_creation(const struct disk_file_options *o, uint64_t size);

/** disk_recorded_format() - "raw", "qcow2"; NULL with "backing-format" when none is given, or one without an image */
const char *disk_recorded_format(const struct disk_file_options *o, struct error *e);

struct disk_work {
        uint8_t *buf, *other; /* of DISK_WORK_BUFFER bytes */
        uint64_t done, all;   /* bytes */
        sigset_t signals, old_mask;
        int shown; /* percent; -1: nothing */
        bool terminal;
};

/** disk_work_begin() - -ENOMEM. disk_work_end() it, also on failure. */
int disk_work_begin(struct disk_work *w, uint64_t all, struct error *e);
void disk_work_end(struct disk_work *w);

/** disk_work_step() - so far; -EINTR ("interrupted") when somebody asks us to stop. */
int disk_work_step(struct disk_work *w, uint64_t done, struct error *e);

/** disk_read(), disk_read_failed(), disk_write_failed() - with the error set; behind the layer's end there are zeroes; NULL: all zeroes. */
int disk_read(struct layer *layer, void *buf, uint64_t offset, uint64_t length, struct error *e);
int disk_read_failed(int r, uint64_t offset, struct error *e);
int disk_write_failed(int r, struct error *e);

/** disk_is_zero() - are these bytes zeroes? @n is at least 1. */
bool disk_is_zero(const void *buf, size_t n);
