// SPDX-License-Identifier: GPL-2.0-or-later
/* disk-errors: see disk-errors.h */
#include "vmm/device/disk-errors.h"

#include <errno.h>

bool disk_error_is_guests(const struct block_request *request, int error) {
        return request->refused || error == ECANCELED;
}

static enum disk_error_action read_action(enum disk_read_error policy) {
        switch (policy) {
        case DISK_READ_ERROR_PAUSE:
                return DISK_ERROR_PAUSE;
        case DISK_READ_ERROR_IGNORE:
                return DISK_ERROR_IGNORE;
        default:
                return DISK_ERROR_REPORT;
        }
}

static enum disk_error_action write_action(enum disk_write_error policy, int error) {
        switch (policy) {
        case DISK_WRITE_ERROR_ENOSPC:
                return error == ENOSPC || error == EDQUOT ? DISK_ERROR_PAUSE : DISK_ERROR_REPORT;
        case DISK_WRITE_ERROR_PAUSE:
                return DISK_ERROR_PAUSE;
        case DISK_WRITE_ERROR_IGNORE:
                return DISK_ERROR_IGNORE;
        default:
                return DISK_ERROR_REPORT;
        }
}

enum disk_error_action disk_error_action(const struct vmm_disk_config *config, const struct block_request *request,
                                         int error) {
        if (disk_error_is_guests(request, error) || request->op == BLOCK_FLUSH || request->syncing)
                return DISK_ERROR_REPORT;
        return request->op == BLOCK_READ ? read_action(config->read_error) : write_action(config->write_error, error);
}
