//! Two af_packet ports on the ends of a veth, in a network namespace of the test's own. Needs root, else says so and passes.

mod host;

use std::process::Command;
use std::time::{Duration, Instant};

use middlenet_dpdk::{MAX_BURST, Port, PortConfig};
use middlenet_shm::Descriptor;

#[test]
fn packets_cross_a_veth() {
    // SAFETY: moves this thread, and those it starts, into a new namespace, which ends with them.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("skipped: no network namespace: {}", std::io::Error::last_os_error());
        return;
    }
    for arguments in
        ["link add v0 type veth peer name v1", "link set v0 up addrgenmode none", "link set v1 up addrgenmode none"]
    {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip of iproute2");
        assert!(status.success(), "ip {arguments}");
    }

    let eal = host::eal();
    let pool = host::pool(&eal, 2048);
    let open = |device: &str, number| {
        Port::open(&eal, device, &pool, &PortConfig { number, ..PortConfig::default() }).expect(device)
    };
    // The device's frames of 2048 bytes would not fit behind the headroom of a 2 KiB buffer. It takes frames to be
    // contiguous, so their size has to divide that of a block, and the kernel wants blocks of whole pages.
    let mut a = open("net_af_packet0,iface=v0,framesz=1664,blocksz=53248", 0);
    let mut b = open("net_af_packet1,iface=v1,framesz=1664,blocksz=53248", 1);
    let (mut a_queues, mut b_queues) = (a.start().expect("start"), b.start().expect("start"));
    assert!(b.link().expect("link").up);
    let worker = eal.main_worker();

    let mut indices = [0; 16];
    assert_eq!(pool.allocate(&worker, &mut indices), 16);
    let mut out = [Descriptor::default(); 16];
    for (descriptor, index) in out.iter_mut().zip(indices) {
        let length = 60 + (index % 1455) as u16;
        *descriptor = Descriptor { index, offset: 128, length, ..Descriptor::default() };
        let packet = pool.buffers().bytes_mut(descriptor);
        packet.fill(index as u8);
        packet[..6].copy_from_slice(&[0xff; 6]);
        packet[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]); // an experimental EtherType
    }
    let expected: Vec<Vec<u8>> = out.iter().map(|descriptor| pool.buffers().bytes(descriptor).to_vec()).collect();
    assert_eq!(a_queues.tx[0].send(&worker, &out), 16);

    let mut received = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    while received.len() < expected.len() && Instant::now() < deadline {
        let mut burst = [Descriptor::default(); MAX_BURST];
        let got = b_queues.rx[0].receive(&worker, &mut burst);
        received.extend(burst[..got].iter().map(|descriptor| {
            assert_eq!(descriptor.port, 1);
            pool.buffers().bytes(descriptor).to_vec()
        }));
        pool.free_descriptors(&worker, &burst[..got]);
    }
    assert!(received == expected, "{} of {} packets, or other bytes", received.len(), expected.len());
    drop((a_queues, b_queues, a, b));
    assert_eq!((pool.in_use(), pool.refused()), (0, 0));
}
