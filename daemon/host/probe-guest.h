// SPDX-License-Identifier: GPL-2.0-or-later
/* probe-guest: the probe's tiny guest, run on an open /dev/kvm; see probe.h */
#pragma once

#include "daemon/host/probe.h"

/** probe_guest_run() - run the steps from PROBE_STEP_CREATE on and record how far they got; needs a free SIGALRM. */
void probe_guest_run(int kvm_fd, struct probe_facts *facts);
