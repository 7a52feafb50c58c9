/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Prints offset and size of every field of the descriptor, as C sees it, and one descriptor's bytes.
 */
#include <stddef.h>
#include <stdio.h>

#include "middlenet_descriptor.h"

#define FIELD(name) \
	printf(#name " %zu %zu\n", offsetof(struct middlenet_descriptor, name), \
	       sizeof(((struct middlenet_descriptor *)0)->name))

int main(void)
{
	FIELD(index);
	FIELD(offset);
	FIELD(length);
	FIELD(argument);
	FIELD(source);
	FIELD(generation);
	FIELD(verdict);
	FIELD(port);
	printf("all %zu %zu\n", sizeof(struct middlenet_descriptor), _Alignof(struct middlenet_descriptor));
	return 0;
}
