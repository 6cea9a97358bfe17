// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * access: who asks, and what they may: the one place that decides
 *
 * Theory of operation. On the unix socket the kernel says who asks: the owner and root are admins, members of the group operators, and all of them work in all
 * projects. Over the network a certificate says it: a client that was let in has a role, for all projects or for one.
 *
 * Who is held to one project:
 *
 *      a request with a project in its query   that project only; where none is needed and none is named, it is that one
 *      an operation, by its id                 as if those of other projects did not exist (request_sees())
 *      events, usage, the daemon's counts      of that project; what concerns the host alone is not shown
 *      images, pools, networks                 may be looked at, since machines are made from them, and not be changed
 *      all else                                not: figures and the record of the whole daemon, tokens, clients, and whatever comes to be and is not listed in access.c
 *
 * A certificate that is not known may ask to be let in, and whether the daemon lives.
 */
#pragma once

#include <stdbool.h>

#include "daemon/tls/identity.h"
#include "schema/lodge-schema.h"

#define ACCESS_WHO_SIZE     96
#define ACCESS_PROJECT_SIZE 64

struct access {
        enum schema_role role;
        char who[ACCESS_WHO_SIZE];         /* "user 1000", "client laptop", "certificate 3f0c...", "nobody" */
        char project[ACCESS_PROJECT_SIZE]; /* "": all */
        bool network, certified;           /* it has shown a certificate */
        uint8_t fingerprint[FINGERPRINT_SIZE];
};

enum access_verdict {
        ACCESS_GRANTED,
        ACCESS_UNKNOWN, /* who is that? */
        ACCESS_ROLE,    /* the role does not reach */
        ACCESS_PROJECT, /* another project */
        ACCESS_HOST,    /* it is about more than the caller's project */
};

/**
 * access_judge() - may they ask that?
 * @project: of the query; NULL: the request has none, or names none
 */
enum access_verdict access_judge(const struct access *a, const struct schema_route *route, const char *project);

/** access_sees() - may they see what is in @project? NULL: what is in none. */
bool access_sees(const struct access *a, const char *project);

/**
 * access_of_client() - role and project of a client's row
 * @projects: JSON list, as the store keeps it; NULL: all
 * What can't be understood gives nobody anything: -EINVAL.
 */
int access_of_client(const char *name, const char *role, const char *projects, struct access *ret_access);
