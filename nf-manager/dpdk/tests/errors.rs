//! What goes wrong is said in a sentence, and nothing leaks on the way.

mod host;

use middlenet_dpdk::{DpdkError, Lcore, Pool, PoolConfig, Port, PortConfig};
use middlenet_shm::{Buffers, Pages, Region};

#[test]
fn errors_say_what_is_wrong() {
    let eal = host::eal();
    let pool = host::pool(&eal, 256);
    let config = PortConfig::default();

    for device in ["net_nonesuch0", "net_pcap0,rx_pcap=/nonexistent.pcap", "net_null0,nonesuch=1", "", "0000:ff:1f.7"] {
        let error = Port::open(&eal, device, &pool, &config).expect_err(device);
        assert!(matches!(error, DpdkError::Device { .. }), "{device}: {error}");
        assert!(error.to_string().contains(&format!("`{device}`")), "{error}");
    }
    assert!(matches!(Port::open(&eal, "net_\0", &pool, &config), Err(DpdkError::Nul(_))));

    let error = Port::open(&eal, "net_null0", &pool, &PortConfig { rx_queues: 2000, ..config.clone() });
    assert!(matches!(error, Err(DpdkError::Queues { direction: "receive", asked: 2000, .. })), "{error:?}");
    let error = Port::open(&eal, "net_null0", &pool, &PortConfig { tx_queues: 0, ..config.clone() });
    assert!(matches!(error, Err(DpdkError::Queues { direction: "transmit", asked: 0, .. })), "{error:?}");
    // Each failure closed and removed the device.
    drop(Port::open(&eal, "net_null0", &pool, &config).expect("net_null0"));

    let region = std::sync::Arc::new(Region::create("again", 1 << 20, Pages::Small).expect("region"));
    let buffers = Buffers::new(region, 2048).expect("buffers");
    let taken = Pool::create(&eal, buffers.clone(), &PoolConfig::default());
    assert!(matches!(taken, Err(DpdkError::Call { call: "rte_mempool_create_empty", .. })), "{taken:?}");
    let other = PoolConfig { name: "other".into(), ..PoolConfig::default() };
    // The failure before unregistered the region.
    let other_pool = Pool::create(&eal, buffers.clone(), &other).expect("pool");
    let third = PoolConfig { name: "third".into(), ..PoolConfig::default() };
    let twice = Pool::create(&eal, buffers.clone(), &third);
    assert!(matches!(twice, Err(DpdkError::Call { call: "rte_extmem_register", .. })), "{twice:?}");
    drop(other_pool);
    Pool::create(&eal, buffers, &other).expect("the name and the region are free again");

    let nobody = Lcore { id: 9, cpu: 0 };
    assert!(matches!(eal.launch(nobody, |_| ()), Err(DpdkError::NoSuchLcore(9))));
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let lcore = eal.workers()[0];
    let running = eal.launch(lcore, move |worker| (wait.recv().is_ok(), worker.lcore())).expect("launch");
    assert!(matches!(eal.launch(lcore, |_| ()), Err(DpdkError::LcoreBusy(1))));
    go.send(()).expect("running");
    assert_eq!(running.join().expect("worker"), (true, 1));

    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let panicked = eal.launch(lcore, |_| panic!("on purpose")).expect("launch").join();
    std::panic::set_hook(hook);
    assert_eq!(panicked.expect_err("panicked").downcast_ref::<&str>(), Some(&"on purpose"));
    eal.launch(lcore, |_| ()).expect("the lcore is free again").join().expect("worker");
}
