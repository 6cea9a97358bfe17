// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parts: all that a machine is made of, open and checked before any process is started
 *
 * Theory of operation. A mistake in the request is found here, where it can be named: a missing kernel, a disk that
 * another machine uses, an unknown interface, more memory than the host has. What is open here goes to the VMM by
 * descriptor; it opens nothing by itself.
 *
 * Locks. A disk is locked by open-file-description locks on the same bytes, with the same meaning, as QEMU uses (byte
 * 100+n: "I use permission n", 200+n: "nobody else may use permission n"; n=1 is writing), so that machines of ours and
 * a QEMU that somebody started by hand keep off each other's disks. Readers share. The lock belongs to the open file,
 * not to a process: it is passed on with the descriptor and gone when its last holder ends, even by SIGKILL; there is
 * nothing to clean up and no stale owner.
 *
 * What only QEMU has (firmware and its variables, a TPM, CD drives) is in parts-firmware.h.
 *
 * User networking is passt, started here with one end of a socket pair; it ends when the VMM's end closes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/spawn.h"
#include "schema/lodge-schema.h"
#include "vmm/machine/layout.h"

#define PART_BACKING_MAX 8  /* images below a disk */
#define PARTS_CDROMS_MAX 5  /* the schema's, and the drivers' */
#define PART_SOCKET_MAX  80 /* bytes: with /proc/self/fd/N/ in front, the name fits into an address */

struct part_backing {
        int fd;
        enum machine_disk_format format;
};

struct part_disk {
        const struct machine_disk_config *config; /* borrowed */
        int fd;                                   /* with a socket: lodge-vmm's end of what parts-backend.h describes */
        char *socket;                             /* name of a vhost-user-blk back end's socket; NULL: a file */
        int dir_fd;                               /* the directory that it is in (O_PATH) */
        int parent_fd;
        struct part_backing backing[PART_BACKING_MAX]; /* the nearest first */
        size_t n_backing;
};

struct part_net {
        enum machine_net_type type;
        int fd; /* tap: its descriptor; user: socket to passt */
        char mac[18];
        uint32_t mtu;
        pid_t pid; /* passt, or 0 */
        int pidfd;
        int log_fd; /* what passt says */
};

struct part_tpm {
        int fd; /* swtpm's control socket */
        pid_t pid;
        int pidfd, log_fd;
};

struct parts {
        const struct machine_config *config; /* borrowed */
        char name[64];
        char uuid[37];
        char *append;
        int kernel_fd, initrd_fd; /* initrd: -EBADF for none; with firmware, both */
        int code_fd, vars_fd;     /* UEFI's code and variables; -EBADF: none */
        int cdrom_fds[PARTS_CDROMS_MAX];
        size_t n_cdroms;
        struct part_tpm tpm;
        struct part_disk disks[LAYOUT_DISKS_MAX];
        size_t n_disks;
        struct part_net nets[LAYOUT_NETS_MAX];
        size_t n_nets;
};

/* What a daemon knows better than the person who runs a machine in the foreground. All zero: no limits. */
struct parts_options {
        const char *const *roots; /* every file must lie below one of these real names; none: anywhere */
        size_t n_roots;
        const struct spawn_jail *helper_jail; /* for passt, which changes its user by itself; NULL: none */
        const struct spawn_jail *own_jail;    /* for swtpm, which is the machine's user; NULL: none */
        bool look;                            /* claim no disk, and unpack nothing: see parts_look() */
        const char *devices_dir;              /* where devices keep what outlives the machine; NULL: nothing is kept */
};

/**
 * parts_open() - open everything
 * @config:    checked by the schema; borrowed by the parts
 * @options:   NULL: all zero. Needed only here
 * @ret_parts: parts_free() it
 *
 * Return: 0, or -errno with @e: "kernel-open", "kernel-format", "initrd-open", "disk-open", "disk-type", "disk-size", "disk-backend",
 * "disk-busy", "disk-format", "net-unknown", "net-tap", "net-passt", "memory-host", "cpus-host", "path-outside", "cdrom-open", and those of parts-firmware.h.
 */
int parts_open(const struct machine_config *config, const struct parts_options *options, struct parts **ret_parts,
               struct error *e);

/**
 * parts_look() - would parts_open() find the host's memory, the kernel, the disks and the CDs as they must be? Nothing is claimed, made or started, so firmware, TPM
 *                and interfaces are left out
 * Return: 0, or -errno with @e, as parts_open().
 */
int parts_look(const struct machine_config *config, const struct parts_options *options, struct error *e);

/** parts_close_files() - close what the VMM has by now; passt's process and log stay. */
void parts_close_files(struct parts *parts);

/** parts_free() - close all; helper processes are waited for, briefly, and ended. NULL is fine. */
void parts_free(struct parts *parts);
DEFINE_CLEANUP(parts, parts_free);

/** parts_fds() - the descriptors that the VMM needs, into @fds (room for PARTS_FDS_MAX); returns how many. */
#define PARTS_FDS_MAX (5 + PARTS_CDROMS_MAX + LAYOUT_DISKS_MAX * (1 + PART_BACKING_MAX) + LAYOUT_NETS_MAX)
size_t parts_fds(const struct parts *parts, int *fds);

/** What a disk's cache mode means: past the host's page cache? May a write end before it is durable? */
static inline bool disk_is_direct(const struct machine_disk_config *c) {
        return c->cache == DISK_CACHE_NONE || c->cache == DISK_CACHE_DIRECTSYNC;
}

static inline bool disk_has_write_cache(const struct machine_disk_config *c) {
        return c->cache == DISK_CACHE_WRITEBACK || c->cache == DISK_CACHE_NONE;
}

/* ---- pieces, for tests ------------------------------------------------------------------------------------------- */

/** parts_mac() - a stable, locally administered unicast address for interface @index of machine @name. */
void parts_mac(const char *name, unsigned int index, char ret_mac[static 18]);

/**
 * disk_lock() - claim an open disk
 * Return: 0, or -EBUSY with @e ("disk-busy", naming machine and process where they can be seen), or -errno.
 */
int disk_lock(int fd, bool readonly, const char *path, struct error *e);

/** disk_lock_look() - would disk_lock() find it free now? Claims nothing. */
int disk_lock_look(int fd, bool readonly, const char *path, struct error *e);

/** kernel_identify() - "bzImage", "ELF", "multiboot", or NULL when @fd holds none of these. */
const char *kernel_identify(int fd);
