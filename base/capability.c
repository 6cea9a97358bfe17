// SPDX-License-Identifier: GPL-2.0-or-later
/* capability: see capability.h */
#include "base/capability.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

void capability_bound(void) {
        for (int cap = 0; cap <= 63; cap++)
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        break;
        (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

int capability_keep(uint32_t keep) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { 0 };

        if (keep && syscall(SYS_capget, &header, caps) < 0)
                return -errno;
        caps[0].effective = caps[0].permitted &= keep;
        caps[1].effective = caps[1].permitted = 0;
        caps[0].inheritable = caps[1].inheritable = 0;
        return syscall(SYS_capset, &header, caps) < 0 ? -errno : 0;
}

int capability_renounce(void) {
        int r;

        capability_bound();
        r = capability_keep(0);
        if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                r = -errno;
        if (r == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
                r = -errno;
        return r;
}
