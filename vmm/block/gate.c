// SPDX-License-Identifier: GPL-2.0-or-later
/* gate: see gate.h */
#include "vmm/block/gate.h"

#include "base/clock.h"

static struct gate_line *line_of(struct gate *gate, const struct block_request *request) {
        return &gate->lines[request->op != BLOCK_READ];
}

static uint64_t bytes_of(const struct block_request *request) {
        bool moves = request->op == BLOCK_READ || request->op == BLOCK_WRITE ||
                     (request->op == BLOCK_WRITE_ZEROES && !(request->flags & BLOCK_UNMAP));

        return moves ? request->length : 0;
}

static struct block_request *line_pop(struct gate_line *line) {
        struct block_request *request = line->head;

        line->head = request->next;
        if (!line->head)
                line->tail = NULL;
        return request;
}

/* Lets go who may; returns when to look again, UINT64_MAX for not by time. */
static uint64_t line_advance(struct gate_line *line, bool *went) {
        while (line->head) {
                uint64_t now = clock_ns(), at = throttle_ask(&line->waiter, bytes_of(line->head), now);

                if (at > 0)
                        return (at - now) / 1000 + 1;
                *went = true;
                line->gate->go(line_pop(line));
        }
        return UINT64_MAX;
}

static void gate_advance(struct gate *gate) {
        bool went = false;
        uint64_t read, write;

        atomic_store(&gate->woken, false);
        read = line_advance(&gate->lines[0], &went);
        write = line_advance(&gate->lines[1], &went);
        loop_timer_set(gate->timer, MIN(read, write));
        if (atomic_load(&gate->woken)) /* the wake-up may have set the timer before we did */
                loop_timer_set(gate->timer, 0);
        if (went)
                gate->round(gate->opaque);
}

static void gate_time(void *opaque) {
        gate_advance(opaque);
}

static void gate_wake(struct throttle_waiter *waiter) {
        struct gate *gate = CONTAINER_OF(waiter, struct gate_line, waiter)->gate;

        atomic_store(&gate->woken, true);
        loop_timer_set(gate->timer, 0);
}

bool gate_enter(struct gate *gate, struct block_request *request) {
        struct gate_line *line = line_of(gate, request);

        if (!line->head) {
                if (!throttle_disk_limited(line->waiter.disk) ||
                    throttle_ask(&line->waiter, bytes_of(request), clock_ns()) == 0)
                        return true;
        }
        request->next = NULL;
        if (line->head)
                line->tail->next = request;
        else
                line->head = request;
        line->tail = request;
        if (line->head == request)
                gate_advance(gate); /* sets the timer */
        return false;
}

struct block_request *gate_take(struct gate *gate) {
        for (unsigned int i = 0; i < 2; i++) {
                struct gate_line *line = &gate->lines[i];

                if (line->head) {
                        throttle_forget(&line->waiter);
                        return line_pop(line);
                }
        }
        return NULL;
}

int gate_init(struct gate *gate, struct throttle_disk *disk, struct loop *loop,
              void (*go)(struct block_request *request), void (*round)(void *opaque), void *opaque) {
        int r;

        *gate = (struct gate){ .go = go, .round = round, .opaque = opaque };
        r = loop_add_timer(loop, gate_time, gate, &gate->timer);
        if (r < 0)
                return r;
        for (unsigned int i = 0; i < 2; i++) {
                gate->lines[i].gate = gate;
                throttle_waiter_init(&gate->lines[i].waiter, disk, i == 1, gate_wake);
        }
        return 0;
}

void gate_destroy(struct gate *gate) {
        for (unsigned int i = 0; i < 2; i++)
                throttle_waiter_destroy(&gate->lines[i].waiter);
        loop_source_free(gate->timer);
        gate->timer = NULL;
}
