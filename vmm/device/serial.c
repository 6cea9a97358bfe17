// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * serial: COM1, a 16550A UART (National Semiconductor PC16550D data sheet) at 0x3f8, IRQ 4
 *
 *      +0  RBR/THR data, DLL with DLAB      +4  MCR  modem control, loopback
 *      +1  IER  interrupts, DLM with DLAB   +5  LSR  line status
 *      +2  IIR/FCR interrupt cause, FIFOs   +6  MSR  modem status
 *      +3  LCR  line control, DLAB          +7  SCR  scratch
 *
 * Theory of operation. A byte that the guest sends is taken at once (serial-line.c), so the transmitter is always empty but
 * for the time in which the host's buffer is full; then THRE is low and the guest waits as for a slow line. Sending while THRI
 * is enabled therefore raises the next THRE interrupt at once. What is received waits on the host's side until
 * the FIFO has room, and until somebody listens: RDA interrupts enabled, or LSR polled again and again with nothing sent in
 * between. So what is typed or piped in before the guest opens the port is not lost to the FIFO reset at its opening.
 *
 * The baud rate has no effect. Fewer bytes than the FIFO's trigger level raise the timeout interrupt at once instead of after
 * four character times. OUT2 does not gate the interrupt (hobby kernels forget it). DSR, CTS and DCD are always on.
 *
 * Each access is an exit, so the common ones (THR, LSR) come first and do as little as possible; the interrupt line is touched
 * only when its level changes.
 *
 * A kernel that prints on a console polls LSR before each byte. Once it is seen to do so, writes to THR are gathered in KVM's
 * ring instead of leaving guest mode: the look at LSR delivers them, which halves the cost of a line. Nothing can get stuck
 * there: a timer delivers what is left, and ends the gathering when a round of it found the port quiet. While the
 * transmitter's interrupt is enabled each write counts at once, so there is no gathering then.
 */
#include <errno.h>
#include <stdlib.h>

#include "schema/lodge-schema.h"
#include "vmm/device/device.h"
#include "vmm/device/serial-line.h"

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, REG_COUNT };

#define IER_RDI           0x01
#define IER_THRI          0x02
#define IER_RLSI          0x04
#define IER_MSI           0x08
#define IER_MASK          0x0f

#define IIR_NONE          0x01
#define IIR_MSI           0x00
#define IIR_THRI          0x02
#define IIR_RDI           0x04
#define IIR_RLSI          0x06
#define IIR_TIMEOUT       0x0c
#define IIR_FIFO          0xc0

#define FCR_ENABLE        0x01
#define FCR_CLEAR_RX      0x02
#define FCR_TRIGGER_SHIFT 6

#define LCR_DLAB          0x80

#define MCR_DTR           0x01
#define MCR_RTS           0x02
#define MCR_OUT1          0x04
#define MCR_OUT2          0x08
#define MCR_LOOP          0x10
#define MCR_MASK          0x1f

#define LSR_DR            0x01
#define LSR_OE            0x02
#define LSR_ERRORS        0x1e
#define LSR_EMPTY         0x60 /* THRE and TEMT */

#define MSR_DELTAS        0x0f
#define MSR_CTS           0x10
#define MSR_DSR           0x20
#define MSR_RI            0x40
#define MSR_DCD           0x80

#define FIFO_SIZE         16
#define GATHER_AFTER      16    /* bytes sent, each after a look at LSR, that make a polling guest */
#define GATHER_USEC       20000 /* the longest that a byte may wait */
#define POLLS_LISTEN      64    /* looks at LSR, with nothing sent between them, that make a listener */

struct serial {
        struct device device;
        struct machine *machine;
        struct bus_region *region;
        struct serial_line *line;
        uint8_t ier, fcr, lcr, mcr, lsr, msr, scr, dll, dlm; /* lsr: error bits only; msr: deltas and lines */
        bool thre_pending;                                   /* THRE went high and nobody has read that yet */
        bool level;                                          /* of the interrupt line */
        unsigned int polls;                                  /* of LSR since something else happened */
        uint8_t fifo[FIFO_SIZE];
        unsigned int head, count;

        struct loop_source *gather_timer;
        bool gathering, looked, sent; /* looked: at LSR since the last byte; sent: since the timer was armed */
        unsigned int polled_bytes;    /* in a row */
};

static uint8_t interrupt_cause(const struct serial *s) {
        static const uint8_t trigger[] = { 1, 4, 8, 14 };

        if ((s->ier & IER_RLSI) && (s->lsr & LSR_ERRORS))
                return IIR_RLSI;
        if ((s->ier & IER_RDI) && s->count > 0)
                return !(s->fcr & FCR_ENABLE) || s->count >= trigger[s->fcr >> FCR_TRIGGER_SHIFT] ? IIR_RDI
                                                                                                  : IIR_TIMEOUT;
        if ((s->ier & IER_THRI) && s->thre_pending)
                return IIR_THRI;
        if ((s->ier & IER_MSI) && (s->msr & MSR_DELTAS))
                return IIR_MSI;
        return IIR_NONE;
}

static void update_irq(struct serial *s) {
        bool level = s->ier && interrupt_cause(s) != IIR_NONE;

        if (level != s->level) {
                s->level = level;
                machine_set_irq(s->machine, LAYOUT_IRQ_SERIAL, level);
        }
}

static unsigned int fifo_room(const struct serial *s) {
        unsigned int size = s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;

        return s->count < size ? size - s->count : 0;
}

static void fifo_put(struct serial *s, uint8_t byte) {
        if (fifo_room(s) == 0) {
                s->lsr |= LSR_OE; /* only in loopback: input from the host is never more than fits */
                return;
        }
        s->fifo[(s->head + s->count++) % FIFO_SIZE] = byte;
}

static bool listening(const struct serial *s) {
        return (s->ier & IER_RDI) || s->polls >= POLLS_LISTEN;
}

/* The guest may have begun to listen, or made room. */
static void ask_for_input(struct serial *s) {
        if (listening(s) && !(s->mcr & MCR_LOOP))
                serial_line_want(s->line);
}

static size_t line_wanted(void *opaque) {
        struct serial *s = opaque;

        return listening(s) && !(s->mcr & MCR_LOOP) ? fifo_room(s) : 0;
}

static void line_input(void *opaque, const uint8_t *bytes, size_t n) {
        struct serial *s = opaque;

        for (size_t i = 0; i < n; i++)
                fifo_put(s, bytes[i]);
        update_irq(s);
}

static void line_room(void *opaque) {
        struct serial *s = opaque;

        s->thre_pending = true;
        update_irq(s);
}

static void gather_stop(struct serial *s) {
        s->polled_bytes = 0;
        if (!s->gathering)
                return;
        s->gathering = false;
        (void)machine_gather_port(s->machine, LAYOUT_PORT_SERIAL + REG_DATA, false);
        (void)loop_timer_set(s->gather_timer, UINT64_MAX);
}

static void gather_timeout(void *opaque) {
        struct serial *s = opaque;

        s->sent = false;
        machine_flush_coalesced(s->machine);
        if (s->sent)
                (void)loop_timer_set(s->gather_timer, GATHER_USEC);
        else
                gather_stop(s);
}

/* A byte is sent: does the guest poll, so that the next ones may be gathered? */
static void gather_consider(struct serial *s) {
        s->sent = true;
        s->polled_bytes = s->looked ? s->polled_bytes + 1 : 0;
        s->looked = false;
        if (s->gathering || s->polled_bytes < GATHER_AFTER || (s->ier & IER_THRI))
                return;
        s->polled_bytes = 0;
        if (machine_gather_port(s->machine, LAYOUT_PORT_SERIAL + REG_DATA, true) == 0) {
                s->gathering = true;
                (void)loop_timer_set(s->gather_timer, GATHER_USEC);
        }
}

static void send_byte(struct serial *s, uint8_t byte) {
        s->polls = 0;
        if (s->mcr & MCR_LOOP) {
                fifo_put(s, byte);
                s->thre_pending = true;
                update_irq(s);
                return;
        }
        serial_line_put(s->line, byte);
        gather_consider(s);
        s->thre_pending = !serial_line_full(s->line);
        if (s->ier & IER_THRI)
                update_irq(s);
}

static uint8_t receive_byte(struct serial *s) {
        uint8_t byte = 0;

        if (s->count > 0) {
                byte = s->fifo[s->head];
                s->head = (s->head + 1) % FIFO_SIZE;
                s->count--;
        }
        if (s->count == 0)
                ask_for_input(s);
        update_irq(s);
        return byte;
}

static uint8_t line_status(struct serial *s) {
        uint8_t lsr;

        s->looked = true;
        lsr = s->lsr | (s->count > 0 ? LSR_DR : 0) | (serial_line_full(s->line) ? 0 : LSR_EMPTY);

        if (s->lsr) {
                s->lsr = 0;
                update_irq(s);
        }
        if (!(s->ier & IER_RDI) && s->polls < POLLS_LISTEN && ++s->polls == POLLS_LISTEN)
                ask_for_input(s);
        return lsr;
}

static uint8_t read_iir(struct serial *s) {
        uint8_t cause = interrupt_cause(s);

        if (cause == IIR_THRI) {
                s->thre_pending = false; /* reading says it: data sheet, table IV */
                update_irq(s);
        }
        return cause | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

/* The modem lines as MCR makes them in loopback, else a modem that is always ready. */
static void update_msr(struct serial *s) {
        uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD, changed;

        if (s->mcr & MCR_LOOP)
                lines = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
                        (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
        changed = (s->msr ^ lines) & 0xf0;
        if (lines & MSR_RI)
                changed &= (uint8_t)~MSR_RI; /* TERI is the trailing edge of RI only */
        s->msr = lines | (s->msr & MSR_DELTAS) | changed >> 4;
}

static uint8_t read_msr(struct serial *s) {
        uint8_t msr = s->msr;

        s->msr &= (uint8_t)~MSR_DELTAS;
        update_irq(s);
        return msr;
}

static uint8_t serial_read_reg(struct serial *s, unsigned int reg) {
        switch (reg) {
        case REG_LSR:
                return line_status(s);
        case REG_DATA:
                return s->lcr & LCR_DLAB ? s->dll : receive_byte(s);
        case REG_IIR:
                return read_iir(s);
        case REG_IER:
                return s->lcr & LCR_DLAB ? s->dlm : s->ier;
        case REG_LCR:
                return s->lcr;
        case REG_MCR:
                return s->mcr;
        case REG_MSR:
                return read_msr(s);
        default:
                return s->scr;
        }
}

static void write_ier(struct serial *s, uint8_t value) {
        uint8_t old = s->ier;

        s->ier = value & IER_MASK;
        if (s->ier & IER_THRI)
                gather_stop(s);
        if (!(old & IER_THRI) && (s->ier & IER_THRI))
                s->thre_pending = !serial_line_full(s->line); /* enabling tells of an empty transmitter */
        if ((old ^ s->ier) & IER_RDI) {
                s->polls = 0;
                ask_for_input(s);
        }
        update_irq(s);
}

static void write_fcr(struct serial *s, uint8_t value) {
        if ((value & FCR_CLEAR_RX) || ((value ^ s->fcr) & FCR_ENABLE)) {
                s->head = s->count = 0;
                s->polls = 0;
        }
        /* What was sent has left: there is no transmit FIFO to clear. The other bits count only with the FIFOs on. */
        s->fcr = value & FCR_ENABLE ? value & (FCR_ENABLE | 3 << FCR_TRIGGER_SHIFT) : 0;
        ask_for_input(s);
        update_irq(s);
}

static void serial_write_reg(struct serial *s, unsigned int reg, uint8_t value) {
        switch (reg) {
        case REG_DATA:
                if (s->lcr & LCR_DLAB)
                        s->dll = value;
                else
                        send_byte(s, value);
                break;
        case REG_IER:
                if (s->lcr & LCR_DLAB)
                        s->dlm = value;
                else
                        write_ier(s, value);
                break;
        case REG_IIR:
                write_fcr(s, value);
                break;
        case REG_LCR:
                s->lcr = value;
                if (value & LCR_DLAB)
                        gather_stop(s);
                break;
        case REG_MCR:
                gather_stop(s);
                s->mcr = value & MCR_MASK;
                update_msr(s);
                ask_for_input(s);
                update_irq(s);
                break;
        case REG_SCR:
                s->scr = value;
                break;
        default: /* LSR and MSR: writes are for the factory's tests */
                break;
        }
}

/* A wider access is so many bytes at successive ports, as on ISA. */
static uint64_t serial_read(void *opaque, uint64_t offset, unsigned int size) {
        struct serial *s = opaque;
        uint64_t value = serial_read_reg(s, (unsigned int)offset);

        for (unsigned int i = 1; i < size; i++)
                value |= (uint64_t)serial_read_reg(s, (unsigned int)offset + i) << i * 8;
        return value;
}

static void serial_write(void *opaque, uint64_t offset, unsigned int size, uint64_t value) {
        struct serial *s = opaque;

        for (unsigned int i = 0; i < size; i++)
                serial_write_reg(s, (unsigned int)offset + i, (uint8_t)(value >> i * 8));
}

static void serial_reset(struct device *device) {
        struct serial *s = CONTAINER_OF(device, struct serial, device);

        s->ier = s->fcr = s->lcr = s->mcr = s->lsr = s->scr = 0;
        s->dll = 12; /* 9600 baud */
        s->dlm = 0;
        s->msr = MSR_CTS | MSR_DSR | MSR_DCD;
        s->thre_pending = false;
        s->polls = s->head = s->count = 0;
        gather_stop(s);
        update_irq(s);
}

static void serial_destroy(struct device *device) {
        struct serial *s = CONTAINER_OF(device, struct serial, device);

        gather_stop(s);
        loop_source_free(s->gather_timer);
        bus_remove(s->machine->ports, s->region);
        serial_line_free(s->line);
        free(s);
}

static const struct bus_ops serial_bus_ops = { serial_read, serial_write };
static const struct serial_line_ops line_ops = { .room = line_room, .wanted = line_wanted, .input = line_input };

static int serial_create(struct machine *machine, unsigned int index, struct device **ret_device, struct error *e) {
        struct serial *s;
        int r;

        if (index > 0)
                return -ENOENT;
        s = calloc(1, sizeof(*s));
        if (!s)
                return error_set(e, -ENOMEM, "memory", NULL, "no memory for the serial port");
        s->machine = machine;
        s->device.class = &serial_class;
        serial_reset(&s->device);
        r = serial_line_new(machine->loop, machine->config->serial.in_fd, machine->config->serial.out_fd, &line_ops, s,
                            &s->line, e);
        if (r >= 0)
                r = loop_add_timer(machine->loop, gather_timeout, s, &s->gather_timer);
        if (r >= 0) {
                r = bus_add(machine->ports, LAYOUT_PORT_SERIAL, REG_COUNT, &serial_bus_ops, s, "serial", &s->region);
                if (r < 0)
                        error_set(e, r, "device-create", NULL, "cannot make the serial port");
        }
        if (r < 0) {
                serial_destroy(&s->device);
                return r;
        }
        *ret_device = &s->device;
        return 0;
}

const struct device_class serial_class = {
        .name = "serial",
        .create = serial_create,
        .reset = serial_reset,
        .destroy = serial_destroy,
};
