/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The descriptor that MiddleNet passes through rings and sockets, for functions in C and for BPF programs. Little
 * endian. The Rust side is sdk/shm/src/descriptor.rs; a test compares the two.
 *
 * A BPF program that includes vmlinux.h defines MIDDLENET_HAVE_STDINT first and names the types below itself.
 */
#ifndef MIDDLENET_DESCRIPTOR_H
#define MIDDLENET_DESCRIPTOR_H

#ifndef MIDDLENET_HAVE_STDINT
#include <stdint.h>
#endif

struct middlenet_descriptor {
	uint32_t index;      /* buffer index in the packets region */
	uint16_t offset;     /* first byte of the packet inside its buffer */
	uint16_t length;     /* length of the packet in bytes */
	uint16_t argument;   /* to a function: destination hop; from it: drop reason or output */
	uint16_t source;     /* source hop */
	uint16_t generation; /* which handing-over of the buffer this is; return it unchanged */
	uint8_t verdict;     /* verdict of the function, 0 on the way to it */
	uint8_t port;        /* port on which the packet entered the chain */
} __attribute__((aligned(8)));

#ifndef __cplusplus
_Static_assert(sizeof(struct middlenet_descriptor) == 16, "descriptor is 16 bytes");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, index) == 0, "index");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, offset) == 4, "offset");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, length) == 6, "length");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, argument) == 8, "argument");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, source) == 10, "source");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, generation) == 12, "generation");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, verdict) == 14, "verdict");
_Static_assert(__builtin_offsetof(struct middlenet_descriptor, port) == 15, "port");
#endif

#endif
