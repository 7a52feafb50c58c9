/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What rule sets and the fast paths of hops share: how a packet goes from one to the next. */
#ifndef MIDDLENET_STAGES_H
#define MIDDLENET_STAGES_H

#include "head.h"

#define NO_PORT 0xff

/* A packet between two programs. It is in one place for each processor, which has one packet at a time. */
struct fast_packet {
	struct steer_head head; /* ports of ICMP messages are their identifier */
	__u32 sockets;		/* the slot of its port's first queue */
	__u32 target;		/* where it goes next; see `way.h` */
	__u8 ingress;
	__u8 egress; /* that a function chose, or NO_PORT */
	__u8 reverse;
	__u8 enters;	   /* no fast path has seen it */
	__u8 next_egress;  /* `egress` and `reverse` of a packet that goes to its target */
	__u8 next_reverse;
	__u8 reserved[2];
	__u64 unmarked[4]; /* ports, by bit, whose drivers have no room for marks; stays from packet to packet */
};

/* `fast_entries`: where packets of a chain begin. */
#define ENTRY_HOP 0xffff /* and one */
#define ENTRY_REVERSE (1 << 16)

/* The fast paths by hop. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} stages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fast_packet);
} packets SEC(".maps");

/* Goes on to a fast path whose number the kernel knows when it verifies the program: it makes a jump of that, which costs some 25 ns less
 * than the other kind where there are mitigations for indirect jumps. The name keeps the compiler from making one of several. */
#define JUMP(ctx, stage, name)                                                                  \
	asm volatile("r1 = %[context]; r2 = %[map]; r3 = %[number]; call 12 /* " name " */"     \
		     :                                                                          \
		     : [context] "r"(ctx), [map] "r"(&stages), [number] "r"((__u64)(stage))     \
		     : "r0", "r1", "r2", "r3", "r4", "r5", "memory")

#endif
