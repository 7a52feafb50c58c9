/* What the rings are measured against: a pipeline in plain C on DPDK's own rte_ring.
 *
 * One manager lcore (port 0 -> function 1 -> function 2 -> port 1, every hop through the manager) and one lcore that runs
 * two trivial functions: one rewrites TTL and destination, the other the link addresses. SP/SC rings of mbuf pointers,
 * bursts of 32, no isolation: both lcores are threads of one process and trust each other.
 *
 * The benchmark compiles it when it runs:
 *   cc -O3 -march=native ring_pipeline.c -o ring_pipeline $(pkg-config --cflags --libs libdpdk)
 *   SECONDS_RUN=5 ./ring_pipeline -l 0-1 --no-pci --in-memory --vdev=net_null0,size=60 --vdev=net_null1 */
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_ip.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BURST 32
static struct rte_ring *rx[2], *tx[2];
static volatile int stop;

static void drop(struct rte_mbuf **m, unsigned from, unsigned to) { if (from < to) rte_pktmbuf_free_bulk(m + from, to - from); }

static int functions(void *arg)
{
	struct rte_mbuf *m[BURST];
	(void)arg;
	while (!stop)
		for (int i = 0; i < 2; i++) {
			unsigned n = rte_ring_sc_dequeue_burst(rx[i], (void **)m, BURST, NULL);
			for (unsigned j = 0; j < n; j++) {
				struct rte_ether_hdr *eth = rte_pktmbuf_mtod(m[j], struct rte_ether_hdr *);
				struct rte_ipv4_hdr *ip = (void *)(eth + 1);
				if (i == 0) { ip->time_to_live--; ip->dst_addr ^= 1; }
				else { eth->dst_addr.addr_bytes[5] ^= 1; eth->src_addr.addr_bytes[5] ^= 1; }
			}
			if (n) drop(m, rte_ring_sp_enqueue_burst(tx[i], (void **)m, n, NULL), n);
		}
	return 0;
}

int main(int argc, char **argv)
{
	const char *s = getenv("SECONDS_RUN");
	double seconds = s ? atof(s) : 5;
	struct rte_eth_conf conf;
	struct rte_mbuf *m[BURST];
	uint64_t forwarded = 0;
	char name[8];

	if (rte_eal_init(argc, argv) < 0) return 1;
	struct rte_mempool *pool = rte_pktmbuf_pool_create("p", 16383, 256, 8, 2176, SOCKET_ID_ANY);
	memset(&conf, 0, sizeof conf);
	for (int p = 0; p < 2; p++) {
		rte_eth_dev_configure(p, 1, 1, &conf);
		rte_eth_rx_queue_setup(p, 0, 512, SOCKET_ID_ANY, NULL, pool);
		rte_eth_tx_queue_setup(p, 0, 512, SOCKET_ID_ANY, NULL);
		rte_eth_dev_start(p);
	}
	for (int i = 0; i < 2; i++) {
		snprintf(name, sizeof name, "r%d", i);
		rx[i] = rte_ring_create(name, 1024, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
		snprintf(name, sizeof name, "t%d", i);
		tx[i] = rte_ring_create(name, 1024, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
	}
	rte_eal_remote_launch(functions, NULL, rte_get_next_lcore(-1, 1, 0));
	uint64_t end = rte_rdtsc() + (uint64_t)(seconds * rte_get_tsc_hz());
	while (rte_rdtsc() < end)
		for (int k = 0; k < 256; k++) {
			unsigned n;
			if (rte_ring_free_count(rx[0]) >= BURST) {
				n = rte_eth_rx_burst(0, 0, m, BURST);
				drop(m, rte_ring_sp_enqueue_burst(rx[0], (void **)m, n, NULL), n);
			}
			if ((n = rte_ring_sc_dequeue_burst(tx[0], (void **)m, BURST, NULL)))
				drop(m, rte_ring_sp_enqueue_burst(rx[1], (void **)m, n, NULL), n);
			if ((n = rte_ring_sc_dequeue_burst(tx[1], (void **)m, BURST, NULL))) {
				unsigned sent = rte_eth_tx_burst(1, 0, m, n);
				forwarded += sent;
				drop(m, sent, n);
			}
		}
	stop = 1;
	rte_eal_mp_wait_lcore();
	printf("%.2f Mpps\n", forwarded / seconds / 1e6);
	return 0;
}
