//! Routes and packets for the router: always the same, so that figures compare.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Routes beside the default one.
pub const ROUTES: usize = 10_000;
/// Packets, each with a destination of its own.
pub const PACKETS: usize = 4096;
/// Bytes of a frame check sequence: sizes are given with it, as RFC 2544 does, buffers hold none.
pub const FCS_BYTES: usize = 4;
/// Shortest frame that holds Ethernet, IPv4 and UDP headers.
const LEAST_FRAME_BYTES: usize = 42;

/// SplitMix64: small, even, the same everywhere.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// What this seed leads to.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn bits32(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
}

/// Whether packets may be sent there: neither 0/8 nor 127/8, below multicast.
fn is_routable(address: u32) -> bool {
    let first = address >> 24;
    (1..224).contains(&first) && first != 127
}

/// [`ROUTES`] prefixes in ascending order, then the default route. Half of them are /24, the rest /16, /20, /22 and /28: the
/// mix that a DIR-24-8 table finds hardest is the one with both short and long prefixes.
pub fn routes() -> Vec<String> {
    let lengths = [16, 20, 22, 24, 24, 24, 24, 28];
    let mut random = Random(1);
    let mut prefixes = BTreeSet::new();
    while prefixes.len() < ROUTES {
        let length: u32 = lengths[(random.next() >> 61) as usize];
        let network = random.bits32() & (u32::MAX << (32 - length));
        if is_routable(network) {
            prefixes.insert((network, length));
        }
    }
    let line = |(network, length): (u32, u32)| format!("{}/{length}", Ipv4Addr::from(network));
    prefixes.into_iter().map(line).chain(["0.0.0.0/0".into()]).collect()
}

/// [`PACKETS`] UDP frames of `size` bytes including the FCS that they do not carry.
pub fn packets(size: usize) -> Vec<Vec<u8>> {
    let mut random = Random(2);
    let mut destination = || loop {
        let address = random.bits32();
        if is_routable(address) {
            return address;
        }
    };
    (0..PACKETS as u32).map(|number| packet(number, destination(), size.saturating_sub(FCS_BYTES))).collect()
}

fn packet(number: u32, destination: u32, frame_bytes: usize) -> Vec<u8> {
    let frame_bytes = frame_bytes.clamp(LEAST_FRAME_BYTES, 1514);
    let mut frame = vec![0; frame_bytes];
    let ip_bytes = (frame_bytes - 14) as u16;
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let ip = &mut frame[14..34];
    (ip[0], ip[8], ip[9]) = (0x45, 64, 17);
    ip[2..4].copy_from_slice(&ip_bytes.to_be_bytes());
    ip[4..6].copy_from_slice(&(number as u16).to_be_bytes());
    ip[12..16].copy_from_slice(&(0x0a00_0001 + number).to_be_bytes());
    ip[16..20].copy_from_slice(&destination.to_be_bytes());
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = &mut frame[34..42];
    udp[..2].copy_from_slice(&(1024 + (number % 1000) as u16).to_be_bytes());
    udp[2..4].copy_from_slice(&53u16.to_be_bytes());
    udp[4..6].copy_from_slice(&(ip_bytes - 20).to_be_bytes());
    frame
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// A capture file of Ethernet frames with all times 0.
pub fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::with_capacity(24 + frames.iter().map(|f| 16 + f.len()).sum::<usize>());
    file.extend(0xa1b2_c3d4u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65535u32.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for frame in frames {
        let bytes = (frame.len() as u32).to_le_bytes();
        file.extend([0; 8]);
        file.extend(bytes);
        file.extend(bytes);
        file.extend_from_slice(frame);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_distinct_masked_and_always_the_same() {
        let routes = routes();
        assert_eq!(routes.len(), ROUTES + 1);
        assert_eq!(routes.iter().collect::<BTreeSet<_>>().len(), ROUTES + 1);
        assert_eq!(routes.last().map(String::as_str), Some("0.0.0.0/0"));
        for route in &routes {
            let (network, length) = route.split_once('/').unwrap();
            let (network, length): (Ipv4Addr, u32) = (network.parse().unwrap(), length.parse().unwrap());
            assert_eq!(u64::from(network.to_bits()) << length & 0xffff_ffff, 0, "{route}");
        }
        assert_eq!(routes, super::routes());
    }

    #[test]
    fn packets_are_valid_and_of_the_size_asked_for() {
        for size in [64, 128, 1518] {
            let packets = packets(size);
            assert_eq!(packets.len(), PACKETS);
            for packet in &packets {
                assert_eq!(packet.len(), size - FCS_BYTES);
                assert_eq!(checksum(&packet[14..34]), 0, "the header's sum is right");
                assert_eq!(usize::from(u16::from_be_bytes([packet[16], packet[17]])), size - FCS_BYTES - 14);
                assert_eq!(usize::from(u16::from_be_bytes([packet[38], packet[39]])), size - FCS_BYTES - 34);
                assert!(is_routable(u32::from_be_bytes([packet[30], packet[31], packet[32], packet[33]])));
            }
        }
        let destinations: BTreeSet<_> = packets(64).iter().map(|p| p[30..34].to_vec()).collect();
        assert!(destinations.len() > PACKETS - 10, "random destinations hardly repeat");
    }

    #[test]
    fn a_capture_has_a_header_and_each_frame_behind_its_length() {
        let file = capture(&[vec![1, 2, 3], vec![4]]);
        assert_eq!(file.len(), 24 + 16 + 3 + 16 + 1);
        assert_eq!(file[..4], 0xa1b2_c3d4u32.to_le_bytes());
        assert_eq!(file[20..24], [1, 0, 0, 0]);
        assert_eq!((file[32], file[36]), (3, 3));
        assert_eq!(file[40..43], [1, 2, 3]);
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
