// SPDX-License-Identifier: GPL-2.0-or-later
/* op-machine: machines that run, by their UUIDs */
#include "daemon/broker/broker.h"

const struct broker_op broker_machine_ops[] = {
        { 0 },
};
