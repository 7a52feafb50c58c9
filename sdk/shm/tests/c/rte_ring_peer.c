/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * DPDK's own rte_ring on the other side of our rings. The shared memory is standard input.
 *
 *   layout SLOTS NAME       writes to standard output the header that rte_ring_init makes
 *   echo LENGTH IN OUT N    moves N descriptors from the ring at offset IN to the ring at OUT, adding one to each port
 *   speed                   prints cycles per descriptor through rte_ring, one thread and two
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_pause.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>

#include "middlenet_descriptor.h"

#define BURST 32
#define DESCRIPTOR sizeof(struct middlenet_descriptor)

static int layout(unsigned slots, const char *name)
{
	struct rte_ring *ring = aligned_alloc(64, sizeof(*ring) + slots * DESCRIPTOR);

	if (!ring || rte_ring_init(ring, name, slots, RING_F_SP_ENQ | RING_F_SC_DEQ))
		return 1;
	return fwrite(ring, sizeof(*ring), 1, stdout) != 1;
}

static int echo(size_t length, size_t in_at, size_t out_at, uint64_t count)
{
	char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, 0, 0);
	struct middlenet_descriptor burst[BURST];
	uint64_t moved = 0;

	if (memory == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	struct rte_ring *in = (void *)(memory + in_at), *out = (void *)(memory + out_at);

	while (moved < count) {
		unsigned n = rte_ring_sc_dequeue_burst_elem(in, burst, DESCRIPTOR, BURST, NULL);

		for (unsigned i = 0; i < n; i++)
			burst[i].port++;
		for (unsigned sent = 0; sent < n;) {
			unsigned now = rte_ring_sp_enqueue_burst_elem(out, burst + sent, DESCRIPTOR, n - sent, NULL);

			sent += now;
			if (!now)
				sched_yield();
		}
		moved += n;
		if (!n)
			sched_yield();
	}
	return 0;
}

#define WINDOW (2000 * BURST)
#define WINDOWS 1000

static struct rte_ring *speed_ring;

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void *produce(void *unused)
{
	struct middlenet_descriptor burst[BURST] = {0};

	(void)unused;
	pin(1);
	for (uint64_t sent = 0; sent < (uint64_t)WINDOW * WINDOWS;) {
		uint64_t left = (uint64_t)WINDOW * WINDOWS - sent;
		unsigned n = rte_ring_sp_enqueue_burst_elem(speed_ring, burst, DESCRIPTOR, left < BURST ? left : BURST,
							    NULL);

		if (!n)
			rte_pause();
		sent += n;
	}
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int speed(void)
{
	const unsigned slots = 1024;
	struct middlenet_descriptor burst[BURST] = {0};
	pthread_t producer;
	double best = 1e9;

	pin(0);
	speed_ring = aligned_alloc(64, sizeof(*speed_ring) + slots * DESCRIPTOR);
	if (!speed_ring || rte_ring_init(speed_ring, "speed", slots, RING_F_SP_ENQ | RING_F_SC_DEQ))
		return 1;
	for (int round = 0; round < 50; round++) {
		uint64_t start = rte_rdtsc();

		for (int i = 0; i < 20000; i++) {
			rte_ring_sp_enqueue_burst_elem(speed_ring, burst, DESCRIPTOR, BURST, NULL);
			rte_ring_sc_dequeue_burst_elem(speed_ring, burst, DESCRIPTOR, BURST, NULL);
			__asm__ volatile("" : : "r"(burst) : "memory");
		}
		double cycles = (double)(rte_rdtsc() - start) / (20000.0 * BURST);

		if (cycles < best)
			best = cycles;
	}
	printf("one thread, enqueue and dequeue: %.2f cycles per descriptor\n", best);

	if (pthread_create(&producer, NULL, produce, NULL))
		return 1;
	static double windows[WINDOWS];
	struct timespec from, to;
	uint64_t first = rte_rdtsc();

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < WINDOWS; i++) {
		uint64_t start = rte_rdtsc();

		for (unsigned got = 0; got < WINDOW;) {
			unsigned want = WINDOW - got < BURST ? WINDOW - got : BURST;
			unsigned n = rte_ring_sc_dequeue_burst_elem(speed_ring, burst, DESCRIPTOR, want, NULL);

			__asm__ volatile("" : : "r"(burst) : "memory");
			if (!n)
				rte_pause();
			got += n;
		}
		windows[i] = (double)(rte_rdtsc() - start) / WINDOW;
	}
	clock_gettime(CLOCK_MONOTONIC, &to);
	double seconds = (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) * 1e-9;
	double per_second = (rte_rdtsc() - first) / seconds;

	pthread_join(producer, NULL);
	qsort(windows, WINDOWS, sizeof(double), by_value);
	printf("two cores, best: %.2f cycles per descriptor, %.0f M/s\n", windows[0], per_second / windows[0] / 1e6);
	printf("two cores, median: %.2f cycles per descriptor, %.0f M/s\n", windows[WINDOWS / 2],
	       per_second / windows[WINDOWS / 2] / 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "layout"))
		return layout(atoi(argv[2]), argv[3]);
	if (argc == 6 && !strcmp(argv[1], "echo"))
		return echo(strtoull(argv[2], 0, 0), strtoull(argv[3], 0, 0), strtoull(argv[4], 0, 0),
			    strtoull(argv[5], 0, 0));
	if (argc == 2 && !strcmp(argv[1], "speed"))
		return speed();
	return 2;
}
