// SPDX-License-Identifier: GPL-2.0-or-later
/* virtio, virtio-pci, virtio-rng: the life of a device from reset to DRIVER_OK, over the registers that a guest uses */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "test/unit/virtio-rig.h"
#include "vmm/device/device.h"
#include "vmm/virtio/virtio-pci.h"
#include "vmm/virtio/virtio.h"

#define SLOT        4
#define BIT(n)      (1ull << (n))
#define VERSION1    BIT(VIRTIO_F_VERSION_1)
#define OWN         BIT(5) /* a feature of the device itself */

#define ACK         VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER      VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET

struct rig {
        struct virtio_rig v;
        struct virtio_device device;
        struct virtio_pci *proxy;
        struct driver driver[2];
        uint8_t config[12];
        unsigned int n_activate, n_reset, n_notify[2], n_config_write;
        bool running_in_reset;
};

static void on_activate(struct virtio_device *device) {
        CONTAINER_OF(device, struct rig, device)->n_activate++;
}

static void on_reset(struct virtio_device *device) {
        struct rig *rig = CONTAINER_OF(device, struct rig, device);

        rig->n_reset++;
        rig->running_in_reset = device->running;
}

static void on_notify(struct virtio_device *device, unsigned int index) {
        CONTAINER_OF(device, struct rig, device)->n_notify[index]++;
}

static void on_config_write(struct virtio_device *device, unsigned int offset, const void *buf, unsigned int size) {
        struct rig *rig = CONTAINER_OF(device, struct rig, device);

        assert_true(offset + size <= sizeof(rig->config));
        memcpy(rig->config + offset, buf, size);
        rig->n_config_write++;
}

static const struct virtio_device_ops ops = {
        .id = 42,
        .name = "virtio-test",
        .class_code = 0x020000,
        .queue_size = 64,
        .activate = on_activate,
        .reset = on_reset,
        .notify = on_notify,
        .config_write = on_config_write,
};

static int setup(void **state) {
        struct rig *rig = calloc(1, sizeof(*rig));

        *state = rig;
        if (!rig || virtio_rig_init(&rig->v, SLOT) < 0)
                return -1;
        for (uint8_t i = 0; i < sizeof(rig->config); i++)
                rig->config[i] = 0xc0 + i;
        for (unsigned int i = 0; i < 2; i++)
                rig->driver[i] = (struct driver){ .size = 16,
                                                  .desc = DRIVER_DESC + i * 0x1000,
                                                  .avail = DRIVER_AVAIL + i * 0x1000,
                                                  .used = DRIVER_USED + i * 0x1000 };
        if (virtio_device_init(&rig->device, &ops, rig->v.machine.memory, 2, OWN, rig->config, sizeof(rig->config)) <
                    0 ||
            virtio_pci_new(&rig->v.machine, &rig->device, SLOT, &rig->proxy, NULL) < 0)
                return -1;
        rig_map(&rig->v);
        return 0;
}

static int teardown(void **state) {
        struct rig *rig = *state;

        virtio_pci_free(rig->proxy);
        virtio_device_destroy(&rig->device);
        assert_int_equal(rig->v.kvm.n_doorbells, 0);
        assert_int_equal(rig->v.kvm.n_msis, 0);
        assert_int_equal(rig->v.kvm.n_errors, 0);
        virtio_rig_done(&rig->v);
        free(rig);
        return 0;
}

static void start(struct rig *rig, uint64_t features) {
        assert_true(rig_negotiate(&rig->v, VERSION1 | features) & FEATURES_OK);
        for (unsigned int i = 0; i < 2; i++)
                rig_enable_queue(&rig->v, i, &rig->driver[i]);
        rig_driver_ok(&rig->v);
        assert_int_equal(rig_status(&rig->v), ACK | DRIVER | FEATURES_OK | DRIVER_OK);
}

/* A driver finds everything by identity and capabilities; were one wrong, no stock driver would bind. */
static void test_discovery(void **state) {
        struct rig *rig = *state;
        unsigned int seen = 0;

        assert_int_equal(rig_config(&rig->v, 0, 4), (0x1040 + 42) << 16 | 0x1af4);
        assert_int_equal(rig_config(&rig->v, PCI_CLASS_REVISION, 4), 0x02000001);
        for (unsigned int at = (unsigned int)rig_config(&rig->v, PCI_CAPABILITY_LIST, 1); at;
             at = (unsigned int)rig_config(&rig->v, at + 1, 1)) {
                uint64_t offset = rig_config(&rig->v, at + 8, 4), length = rig_config(&rig->v, at + 12, 4);

                if (rig_config(&rig->v, at, 1) != PCI_CAP_ID_VNDR)
                        continue;
                assert_int_equal(rig_config(&rig->v, at + 4, 1), 0); /* BAR 0 */
                seen |= 1u << rig_config(&rig->v, at + 3, 1);
                switch (rig_config(&rig->v, at + 3, 1)) {
                case VIRTIO_PCI_CAP_COMMON_CFG:
                        assert_int_equal(offset, 0);
                        assert_true(length >= sizeof(struct virtio_pci_common_cfg));
                        break;
                case VIRTIO_PCI_CAP_NOTIFY_CFG:
                        assert_int_equal(offset, RIG_DOORBELL);
                        assert_int_equal(length, 2 * 4);
                        assert_int_equal(rig_config(&rig->v, at + 2, 1), 20);
                        assert_int_equal(rig_config(&rig->v, at + 16, 4), 4); /* multiplier */
                        break;
                case VIRTIO_PCI_CAP_ISR_CFG:
                        assert_int_equal(offset, RIG_ISR);
                        break;
                case VIRTIO_PCI_CAP_DEVICE_CFG:
                        assert_int_equal(offset, RIG_DEVICE);
                        assert_int_equal(length, sizeof(rig->config));
                        break;
                }
        }
        assert_int_equal(seen, 0x3e);
        assert_int_equal(rig_features(&rig->v),
                         VERSION1 | OWN | BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_RING_F_EVENT_IDX));
        rig_set(&rig->v, VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_DF, 4), 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_NUMQ, 2), 2);
}

/* FEATURES_OK sticks only for features that we can keep (§3.1.1 step 6, §6). */
static void test_features(void **state) {
        struct rig *rig = *state;

        assert_int_equal(rig_negotiate(&rig->v, 0), ACK | DRIVER);                  /* no VERSION_1 */
        assert_int_equal(rig_negotiate(&rig->v, OWN), ACK | DRIVER);                /* legacy driver */
        assert_int_equal(rig_negotiate(&rig->v, VERSION1 | BIT(6)), ACK | DRIVER);  /* not offered */
        assert_int_equal(rig_negotiate(&rig->v, VERSION1 | BIT(63)), ACK | DRIVER); /* not offered */
        assert_int_equal(rig_negotiate(&rig->v, VERSION1 | OWN), ACK | DRIVER | FEATURES_OK);
        assert_true(virtio_device_has(&rig->device, 5));
        /* frozen now */
        rig_set(&rig->v, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_GF, 4, 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_GF, 4), OWN);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_GFSELECT, 4, 7); /* no such word */
        rig_set(&rig->v, VIRTIO_PCI_COMMON_GF, 4, UINT32_MAX);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_GF, 4), 0);
        assert_int_equal(rig->device.driver_features, VERSION1 | OWN);
        /* FEATURES_OK before DRIVER is out of order */
        rig_set_status(&rig->v, 0);
        assert_int_equal(rig->device.driver_features, 0);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_GF, 4, 1);
        rig_set_status(&rig->v, ACK | FEATURES_OK);
        assert_int_equal(rig_status(&rig->v), ACK);
}

/* Bits only ever come; DRIVER_OK without FEATURES_OK is a broken rule; unknown bits and NEEDS_RESET are not the driver's. */
static void test_status(void **state) {
        struct rig *rig = *state;

        start(rig, 0);
        assert_int_equal(rig->n_activate, 1);
        assert_true(rig->device.running);
        rig_set_status(&rig->v, ACK);
        assert_int_equal(rig_status(&rig->v), ACK | DRIVER | FEATURES_OK | DRIVER_OK);
        rig_set_status(&rig->v, ACK | DRIVER | FEATURES_OK | DRIVER_OK); /* again: nothing new */
        rig_set_status(&rig->v, 0xff & ~VIRTIO_CONFIG_S_FAILED);
        assert_int_equal(rig_status(&rig->v), ACK | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_int_equal(rig->n_activate, 1);
        rig_set_status(&rig->v, VIRTIO_CONFIG_S_FAILED);
        assert_false(rig->device.running);
        rig_set_status(&rig->v, 0);
        assert_int_equal(rig_status(&rig->v), 0);
        assert_false(rig->running_in_reset);
        rig_set_status(&rig->v, ACK | DRIVER | DRIVER_OK);
        assert_int_equal(rig_status(&rig->v), ACK | DRIVER | NEEDS_RESET);
        assert_int_equal(rig->device.n_needs_reset, 1);
        assert_int_equal(rig->n_activate, 1);
        assert_int_equal(rig_get(&rig->v, RIG_ISR, 1), 0); /* not told before DRIVER_OK (§2.1.2) */
        start(rig, 0);                                     /* a reset mends it */
        assert_int_equal(rig->n_activate, 2);
}

/* Queues are enabled once, after FEATURES_OK, with areas in RAM; what is enabled can't be changed. */
static void test_queue_setup(void **state) {
        struct rig *rig = *state;
        static const unsigned int fields[] = { VIRTIO_PCI_COMMON_Q_SIZE, VIRTIO_PCI_COMMON_Q_DESCLO,
                                               VIRTIO_PCI_COMMON_Q_AVAILLO, VIRTIO_PCI_COMMON_Q_USEDLO };

        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_NOFF, 2), 1);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 2); /* there is none */
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
        assert_int_equal(rig_status(&rig->v), 0);
        start(rig, 0);
        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                uint64_t before = rig_get(&rig->v, fields[i], 2);

                rig_set(&rig->v, fields[i], 2, 0x10);
                assert_int_equal(rig_get(&rig->v, fields[i], 2), before);
        }
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0); /* §4.1.4.3.2: not by the driver */
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
        rig_set_status(&rig->v, 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_SELECT, 2), 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
        /* before FEATURES_OK nobody knows the kind of ring */
        rig_enable_queue(&rig->v, 0, &rig->driver[0]);
        assert_true(rig_status(&rig->v) & NEEDS_RESET);
        /* areas outside RAM */
        rig_negotiate(&rig->v, VERSION1);
        rig->driver[0].desc = 1ull << 40;
        rig_enable_queue(&rig->v, 0, &rig->driver[0]);
        assert_true(rig_status(&rig->v) & NEEDS_RESET);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
        rig->driver[0].desc = DRIVER_DESC;
        /* larger than offered, and no power of two */
        for (unsigned int i = 0; i < 2; i++) {
                rig_negotiate(&rig->v, VERSION1);
                rig->driver[0].size = i ? 128 : 12;
                rig_enable_queue(&rig->v, 0, &rig->driver[0]);
                assert_true(rig_status(&rig->v) & NEEDS_RESET);
        }
}

/* Every access width of the common configuration means the bytes that it covers. */
static void test_access_widths(void **state) {
        struct rig *rig = *state;

        rig_negotiate(&rig->v, VERSION1);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x1122334455667788);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_DESCLO + 1, 1, 0xaa);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_DESCHI, 4, 0xbbbbcccc);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_DESCLO + 2, 2, 0xdddd);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0xbbbbccccddddaa88);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_DESCLO + 3, 2), 0xccdd);
        /* status, generation and selector in one dword */
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_STATUS, 4), ACK | DRIVER | FEATURES_OK);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_STATUS, 4, 0x0001ff00 | ACK | DRIVER | FEATURES_OK);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_SELECT, 2), 1);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_CFGGENERATION, 1), 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0); /* queue 1 now */
        /* outside the structures */
        rig_set(&rig->v, 0x3c, 8, UINT64_MAX);
        assert_int_equal(rig_get(&rig->v, 0x3c, 8), 0);
        assert_int_equal(rig_get(&rig->v, 0x800, 4), 0);
        rig_set(&rig->v, 0x7ff8, 8, UINT64_MAX);
        assert_int_equal(rig_get(&rig->v, 0x7ff8, 8), 0);
        assert_int_equal(rig_status(&rig->v), ACK | DRIVER | FEATURES_OK);
}

/* Device configuration: clipped reads, no writes across its end, a new generation when it changes. */
static void test_device_config(void **state) {
        struct rig *rig = *state;

        assert_int_equal(rig_get(&rig->v, RIG_DEVICE + 1, 1), 0xc1);
        assert_int_equal(rig_get(&rig->v, RIG_DEVICE + 8, 8), 0xcbcac9c8);
        assert_int_equal(rig_get(&rig->v, RIG_DEVICE + 12, 4), 0);
        rig_set(&rig->v, RIG_DEVICE + 8, 4, 0x01020304);
        assert_int_equal(rig_get(&rig->v, RIG_DEVICE + 8, 4), 0x01020304);
        rig_set(&rig->v, RIG_DEVICE + 8, 8, 0);
        rig_set(&rig->v, RIG_DEVICE + 0xff8, 8, 0);
        assert_int_equal(rig->n_config_write, 1);
        virtio_device_config_changed(&rig->device);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_CFGGENERATION, 1), 1);
        assert_int_equal(rig_get(&rig->v, RIG_ISR, 1), 0); /* nobody listens yet */
        start(rig, 0);
        virtio_device_config_changed(&rig->device);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_CFGGENERATION, 1), 2);
        assert_int_equal(rig_get(&rig->v, RIG_ISR, 1), 2);
        assert_int_equal(rig_get(&rig->v, RIG_ISR, 1), 0); /* reading clears */
}

/* Doorbells: by the kernel where it can, by the access where it can't; only for enabled queues of a running device. */
static void test_doorbells(void **state) {
        struct rig *rig = *state;
        uint64_t one = 1, high = 0x4000000000ull;
        int late = -1;

        assert_int_equal(rig->v.kvm.n_doorbells, 0);
        start(rig, 0);
        assert_int_equal(rig->v.kvm.n_doorbells, 2);
        rig_kick(&rig->v, 1);
        assert_int_equal(rig->n_notify[0], 0);
        assert_int_equal(rig->n_notify[1], 1);
        /* the BAR moves: so do they */
        rig_set_config(&rig->v, PCI_BASE_ADDRESS_1, 4, high >> 32);
        rig_set_config(&rig->v, PCI_BASE_ADDRESS_0, 4, high & UINT32_MAX);
        rig->v.bar = high;
        assert_int_equal(rig->v.kvm.n_doorbells, 2);
        assert_true(fake_kvm_ring(&rig->v.kvm, high + RIG_DOORBELL));
        rig_kick(&rig->v, 0);
        assert_int_equal(rig->n_notify[0], 1); /* both rings in one */
        rig_set_config(&rig->v, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
        assert_int_equal(rig->v.kvm.n_doorbells, 0);
        rig_set_config(&rig->v, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        assert_int_equal(rig->v.kvm.n_doorbells, 2);
        /* by access, any width, and never for a queue that is not there */
        rig_set(&rig->v, RIG_DOORBELL, 4, 0);
        rig_set(&rig->v, RIG_DOORBELL + 8, 4, 0);
        rig_set(&rig->v, RIG_DOORBELL + 2, 2, 0);
        rig_set(&rig->v, RIG_DOORBELL + 0x3ffc, 4, 0);
        while (loop_run_once(rig->v.machine.loop, 0) > 0)
                ;
        assert_int_equal(rig->n_notify[0], 2);
        /* a ring that is still in the eventfd when the device is reset must find nothing */
        for (unsigned int i = 0; i < FAKE_KVM_DOORBELLS; i++)
                if (rig->v.kvm.doorbells[i].used && rig->v.kvm.doorbells[i].address == high + RIG_DOORBELL)
                        late = rig->v.kvm.doorbells[i].event_fd;
        rig_set(&rig->v, RIG_DOORBELL, 4, 0);
        rig_set_status(&rig->v, 0);
        assert_int_equal(write(late, &one, sizeof(one)), sizeof(one));
        while (loop_run_once(rig->v.machine.loop, 0) > 0)
                ;
        assert_int_equal(rig->n_notify[0], 2);
        assert_int_equal(rig->v.kvm.n_doorbells, 0);
        /* no room in the kernel */
        rig->v.kvm.fail_doorbell = true;
        start(rig, 0);
        assert_int_equal(rig->v.kvm.n_doorbells, 0);
        rig_kick(&rig->v, 0);
        assert_int_equal(rig->n_notify[0], 3);
}

static void msix_on(struct rig *rig, unsigned int vector) {
        uint64_t table = rig_config(&rig->v, PCI_BASE_ADDRESS_2, 4) & ~0xfull;

        for (unsigned int at = (unsigned int)rig_config(&rig->v, PCI_CAPABILITY_LIST, 1); at;
             at = (unsigned int)rig_config(&rig->v, at + 1, 1))
                if (rig_config(&rig->v, at, 1) == PCI_CAP_ID_MSIX)
                        rig_set_config(&rig->v, at + 2, 2, PCI_MSIX_FLAGS_ENABLE);
        bus_write(rig->v.machine.mmio, table + 16 * vector, 8, 0xfee00000);
        bus_write(rig->v.machine.mmio, table + 16 * vector + 8, 8, 0x40 + vector);
}

static unsigned int interrupts(struct rig *rig, unsigned int vector) {
        uint64_t n;

        for (unsigned int i = 0; i < FAKE_KVM_MSIS; i++)
                if (rig->v.kvm.msis[i].used && rig->v.kvm.msis[i].data == 0x40 + vector &&
                    read(rig->v.kvm.msis[i].event_fd, &n, sizeof(n)) == sizeof(n))
                        return (unsigned int)n;
        return 0;
}

static void use(struct rig *rig, unsigned int queue) {
        virtq_push(&rig->device.queues[queue], 0, 0);
        virtio_device_notify_queue(&rig->device, queue);
}

/* Vectors: none at first, none for a number that we don't have, one for each use; without MSI-X the ISR byte says it. */
static void test_interrupts(void **state) {
        struct rig *rig = *state;

        start(rig, 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
        use(rig, 0);
        assert_int_equal(rig_get(&rig->v, RIG_ISR, 1), 1);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_MSIX, 2, 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_MSIX, 2), 0);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_MSIX, 2, 3); /* three vectors: 0, 1, 2 */
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_MSIX, 2, 0);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
        rig_set(&rig->v, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_Q_MSIX, 2), 2);
        use(rig, 1);
        assert_int_equal(rig_get(&rig->v, RIG_ISR, 1), 1); /* MSI-X is still off */
        msix_on(rig, 0);
        msix_on(rig, 2);
        use(rig, 1);
        assert_int_equal(interrupts(rig, 2), 1);
        assert_int_equal(rig_get(&rig->v, RIG_ISR, 1), 0);
        driver_avail(&rig->driver[1])->flags = VRING_AVAIL_F_NO_INTERRUPT;
        use(rig, 1);
        assert_int_equal(interrupts(rig, 2), 0);
        virtio_device_needs_reset(&rig->device);
        virtio_device_needs_reset(&rig->device);
        assert_int_equal(rig->device.n_needs_reset, 1);
        assert_int_equal(interrupts(rig, 0), 1);
        assert_true(rig_status(&rig->v) & NEEDS_RESET);
        use(rig, 1); /* a completion that comes late */
        assert_int_equal(driver_used(&rig->driver[1])->idx, 3);
        rig_kick(&rig->v, 1);
        assert_int_equal(rig->n_notify[1], 0);
        rig_set_status(&rig->v, 0);
        assert_int_equal(rig_get(&rig->v, VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
}

static unsigned int window(struct rig *rig) {
        for (unsigned int at = (unsigned int)rig_config(&rig->v, PCI_CAPABILITY_LIST, 1); at;
             at = (unsigned int)rig_config(&rig->v, at + 1, 1))
                if (rig_config(&rig->v, at, 1) == PCI_CAP_ID_VNDR &&
                    rig_config(&rig->v, at + 3, 1) == VIRTIO_PCI_CAP_PCI_CFG)
                        return at;
        return 0;
}

static void aim(struct rig *rig, unsigned int bar, uint32_t offset, uint32_t length) {
        unsigned int at = window(rig);

        rig_set_config(&rig->v, at + 4, 1, bar);
        rig_set_config(&rig->v, at + 8, 4, offset);
        rig_set_config(&rig->v, at + 12, 4, length);
}

/* The window reaches the registers while the BAR is not mapped; aimed elsewhere, it does nothing. */
static void test_window(void **state) {
        struct rig *rig = *state;
        unsigned int data = window(rig) + 16;

        start(rig, 0);
        rig_set_config(&rig->v, PCI_COMMAND, 2, 0);
        aim(rig, 0, VIRTIO_PCI_COMMON_NUMQ, 2);
        assert_int_equal(rig_config(&rig->v, data, 2), 2);
        aim(rig, 0, RIG_DOORBELL + 4, 2);
        rig_set_config(&rig->v, data, 2, 1);
        while (loop_run_once(rig->v.machine.loop, 0) > 0)
                ;
        assert_int_equal(rig->n_notify[1], 1);
        aim(rig, 0, RIG_DEVICE, 4);
        assert_int_equal(rig_config(&rig->v, data, 4), 0xc3c2c1c0);
        static const struct {
                unsigned int bar;
                uint32_t offset, length;
        } bad[] = {
                { 2, VIRTIO_PCI_COMMON_DF, 4 },
                { 1, VIRTIO_PCI_COMMON_DF, 4 },
                { 0, 0, 0 },
                { 0, VIRTIO_PCI_COMMON_DF, 3 },
                { 0, VIRTIO_PCI_COMMON_NUMQ - 2, 8 },
                { 0, 2, 4 },
                { 0, 0x8000, 4 },
                { 0, UINT32_MAX - 3, 4 },
                { 0, UINT32_MAX, 1 },
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                aim(rig, bad[i].bar, bad[i].offset, bad[i].length);
                rig_set_config(&rig->v, data, 4, 0x5a5a0000 + i);
                assert_int_equal(rig_config(&rig->v, data, 4), 0x5a5a0000 + i); /* just bytes */
        }
        aim(rig, 0, VIRTIO_PCI_COMMON_STATUS, 1);
        rig_set_config(&rig->v, data, 1, 0);
        assert_int_equal(rig_config(&rig->v, data, 1), 0);
        assert_int_equal(rig->device.status, 0);
}

/* A kick of the fast kind reaches the device in the same way; machine reset takes everything back. */
static void test_machine_reset(void **state) {
        struct rig *rig = *state;

        start(rig, OWN);
        virtio_device_set_status(&rig->device, 0); /* what device_class->reset does */
        pci_bus_reset(rig->v.machine.pci);
        assert_int_equal(rig->v.kvm.n_doorbells, 0);
        assert_int_equal(rig->device.driver_features, 0);
        assert_int_equal(rig_get(&rig->v, 0, 4), UINT32_MAX); /* decoding is off */
        rig_map(&rig->v);
        start(rig, 0);
        rig_kick(&rig->v, 0);
        assert_int_equal(rig->n_notify[0], 1);
}

/* --- virtio-rng, through all of it --- */

struct rng_rig {
        struct virtio_rig v;
        struct device *device;
        struct driver driver;
};

static int rng_setup(void **state) {
        struct rng_rig *rig = calloc(1, sizeof(*rig));

        *state = rig;
        if (!rig || virtio_rig_init(&rig->v, LAYOUT_SLOT_RNG) < 0 ||
            virtio_rng_class.create(&rig->v.machine, 0, &rig->device, NULL) < 0)
                return -1;
        rig->driver = (struct driver){ .size = 64, .desc = DRIVER_DESC, .avail = DRIVER_AVAIL, .used = DRIVER_USED };
        rig_map(&rig->v);
        rig_negotiate(&rig->v, VERSION1 | BIT(VIRTIO_RING_F_EVENT_IDX));
        rig_enable_queue(&rig->v, 0, &rig->driver);
        rig_driver_ok(&rig->v);
        return 0;
}

static int rng_teardown(void **state) {
        struct rng_rig *rig = *state;

        virtio_rng_class.destroy(rig->device);
        assert_int_equal(rig->v.kvm.n_doorbells, 0);
        virtio_rig_done(&rig->v);
        free(rig);
        return 0;
}

/* Every buffer comes back with random bytes, 40 at once too; and the loop is never held for more than a round. */
static void test_rng_fills(void **state) {
        struct rng_rig *rig = *state;
        struct device *second;
        uint8_t zero[64] = { 0 };

        assert_int_equal(virtio_rng_class.create(&rig->v.machine, 1, &second, NULL), -ENOENT);
        for (unsigned int i = 0; i < 40; i++) {
                driver_set(&rig->driver, i, DRIVER_DATA + i * 64, 64, VRING_DESC_F_WRITE, 0);
                driver_offer(&rig->driver, (uint16_t)i);
        }
        assert_true(fake_kvm_ring(&rig->v.kvm, rig->v.bar + RIG_DOORBELL));
        assert_int_equal(loop_run_once(rig->v.machine.loop, 0), 1);
        assert_int_equal(driver_used(&rig->driver)->idx, 16); /* one round */
        while (loop_run_once(rig->v.machine.loop, 10) > 0)
                ;
        assert_int_equal(driver_used(&rig->driver)->idx, 40);
        for (unsigned int i = 0; i < 40; i++) {
                assert_int_equal(driver_used(&rig->driver)->ring[i].len, 64);
                assert_memory_not_equal(driver_at(&rig->driver, DRIVER_DATA + i * 64), zero, 64);
        }
        /* huge buffers: its share, not all of it, and one in a round */
        driver_set(&rig->driver, 0, DRIVER_DATA, 0xc0000, VRING_DESC_F_WRITE, 0);
        driver_offer(&rig->driver, 0);
        driver_offer(&rig->driver, 0);
        assert_true(fake_kvm_ring(&rig->v.kvm, rig->v.bar + RIG_DOORBELL));
        assert_int_equal(loop_run_once(rig->v.machine.loop, 0), 1);
        assert_int_equal(driver_used(&rig->driver)->idx, 41);
        assert_int_equal(driver_used(&rig->driver)->ring[40].len, 65536);
        assert_int_equal(loop_run_once(rig->v.machine.loop, 100), 1);
        assert_int_equal(driver_used(&rig->driver)->idx, 42);
}

/* Buffers that it can't write to break a rule (§5.4.6.1); the device lives on after a reset. */
static void test_rng_refuses(void **state) {
        struct rng_rig *rig = *state;

        for (unsigned int i = 0; i < 2; i++) { /* readable only; readable in front of writable */
                driver_set(&rig->driver, 0, DRIVER_DATA, 64, i ? VRING_DESC_F_NEXT : 0, 1);
                driver_set(&rig->driver, 1, DRIVER_DATA, 64, VRING_DESC_F_WRITE, 0);
                driver_offer(&rig->driver, 0);
                rig_kick(&rig->v, 0);
                assert_true(rig_status(&rig->v) & NEEDS_RESET);
                rig_negotiate(&rig->v, VERSION1);
                memset(driver_at(&rig->driver, 0), 0, DRIVER_RAM);
                rig_enable_queue(&rig->v, 0, &rig->driver);
                rig_driver_ok(&rig->v);
        }
        driver_set(&rig->driver, 0, DRIVER_DATA, 1, VRING_DESC_F_WRITE, 0);
        driver_offer(&rig->driver, 0);
        rig_kick(&rig->v, 0);
        assert_int_equal(driver_used(&rig->driver)->idx, 1);
        virtio_rng_class.reset(rig->device);
        rig_kick(&rig->v, 0);
        assert_int_equal(rig_status(&rig->v), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                T(test_discovery),
                T(test_features),
                T(test_status),
                T(test_queue_setup),
                T(test_access_widths),
                T(test_device_config),
                T(test_doorbells),
                T(test_interrupts),
                T(test_window),
                T(test_machine_reset),
                cmocka_unit_test_setup_teardown(test_rng_fills, rng_setup, rng_teardown),
                cmocka_unit_test_setup_teardown(test_rng_refuses, rng_setup, rng_teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
