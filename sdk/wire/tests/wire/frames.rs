//! Frames that the Linux stack sent over a veth pair between 10.1.0.1, fd00::1 and 10.1.0.2, fd00::2, checksum offload off.

use proptest::prelude::*;

/// The bytes of a hexadecimal text.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

pub(crate) const ARP_REQUEST: &str =
    "ffffffffffff02000000000a0806 000108000604000102000000000a0a0100010000000000000a010002";
pub(crate) const ARP_REPLY: &str =
    "02000000000a02000000000b0806 000108000604000202000000000b0a01000202000000000a0a010001";
pub(crate) const UDP4: &str = "02000000000b02000000000a0800 4500002174e140004011b1e60a0100010a010002
    c4450009000de3ae68656c6c6f";
/// Port unreachable, about `UDP4`.
pub(crate) const UNREACHABLE4: &str = "02000000000a02000000000b0800 45c0003d51220000400114da0a0100020a010001
    03031120000000004500002174e140004011b1e60a0100010a010002c4450009000de3ae68656c6c6f";
pub(crate) const UDP6: &str = "02000000000b02000000000a86dd 6009db85000d1140
    fd000000000000000000000000000001fd000000000000000000000000000002 b4e50009000d0d0f68656c6c6f";
/// Port unreachable, about `UDP6`.
pub(crate) const UNREACHABLE6: &str = "02000000000a02000000000b86dd 600dfdc3003d3a40
    fd000000000000000000000000000002fd000000000000000000000000000001 0104b7c100000000
    6009db85000d1140fd000000000000000000000000000001fd000000000000000000000000000002b4e50009000d0d0f68656c6c6f";
pub(crate) const SYN4: &str = "02000000000b02000000000a0800 4500003c3cf440004006e9c30a0100010a010002
    938a0050c88ea94700000000a002faf0253f0000020405b40402080acff63e21000000000103030a";
pub(crate) const RST4: &str = "02000000000a02000000000b0800 4500002800004000400626cc0a0100020a010001
    0050938a00000000c88ea94850140000961a0000";
pub(crate) const SYN6: &str = "02000000000b02000000000a86dd 60042e0000280640
    fd000000000000000000000000000001fd000000000000000000000000000002
    a830005029071d5200000000a002fd2077490000020405a00402080aa7b64312000000000103030a";
pub(crate) const ECHO4: &str = "02000000000b02000000000a0800 45000020c06e40004001666a0a0100010a010002
    080006fa1234000170696e67";
pub(crate) const ECHO_REPLY4: &str = "02000000000a02000000000b0800 4500002051370000400115a20a0100020a010001
    00000efa1234000170696e67";
pub(crate) const ECHO6: &str = "02000000000b02000000000a86dd 600eaa8d000c3a40
    fd000000000000000000000000000001fd000000000000000000000000000002 800094ae1234000170696e67";
pub(crate) const ECHO_REPLY6: &str = "02000000000a02000000000b86dd 6005ad3b000c3a40
    fd000000000000000000000000000002fd000000000000000000000000000001 810093ae1234000170696e67";
/// The head of the first fragment of 2000 bytes in UDP; its total length is 1500.
pub(crate) const FRAGMENT4_FIRST_HEAD: &str =
    "02000000000b02000000000a0800 450005dc750e20004011cbfe0a0100010a010002 9620000907d8af79";
/// The head of the second fragment; its total length is 548.
pub(crate) const FRAGMENT4_LAST_HEAD: &str = "02000000000b02000000000a0800 45000224750e00b94011eefd0a0100010a010002";
/// The head of the first fragment over IPv6; its payload length is 1456.
pub(crate) const FRAGMENT6_FIRST_HEAD: &str = "02000000000b02000000000a86dd 600ceb8d05b02c40
    fd000000000000000000000000000001fd000000000000000000000000000002 11000001d97ebb56 c866000907d89733";
/// The head of the second fragment over IPv6; its payload length is 568.
pub(crate) const FRAGMENT6_LAST_HEAD: &str = "02000000000b02000000000a86dd 600ceb8d02382c40
    fd000000000000000000000000000001fd000000000000000000000000000002 110005a8d97ebb56";
pub(crate) const NEIGHBOR_SOLICIT: &str = "3333ff00000202000000000a86dd 6000000000203aff
    fd000000000000000000000000000001ff0200000000000000000001ff000002
    87007d8e00000000fd000000000000000000000000000002010102000000000a";
pub(crate) const NEIGHBOR_ADVERT: &str = "02000000000a02000000000b86dd 6000000000203aff
    fd000000000000000000000000000002fd000000000000000000000000000001
    88001c9160000000fd000000000000000000000000000002020102000000000b";
/// For duplicate address detection, with a nonce option (RFC 7527).
pub(crate) const NEIGHBOR_SOLICIT_DAD: &str = "3333ff00000a02000000000a86dd 6000000000203aff
    00000000000000000000000000000000ff0200000000000000000001ff00000a
    87001de400000000fe80000000000000000000fffe00000a0e0165e21dcdcd76";
pub(crate) const ROUTER_SOLICIT: &str = "33330000000202000000000a86dd 6000000000103aff
    fe80000000000000000000fffe00000aff020000000000000000000000000002 85007b1a00000000010102000000000a";
/// A multicast listener report: hop-by-hop options before ICMPv6.
pub(crate) const LISTENER_REPORT: &str = "33330000001602000000000a86dd 6000000000380001
    fe80000000000000000000fffe00000aff020000000000000000000000000016 3a00050200000100
    8f006fda0000000204000000ff0200000000000000000001ff00000a04000000ff0200000000000000000001ff000001";

/// `head` filled up with `x` to `len` bytes, as the payload was.
pub(crate) fn filled(head: &str, len: usize) -> Vec<u8> {
    let mut frame = hex(head);
    frame.resize(len, b'x');
    frame
}

/// All whole frames.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = [
        ARP_REQUEST,
        ARP_REPLY,
        UDP4,
        UNREACHABLE4,
        UDP6,
        UNREACHABLE6,
        SYN4,
        RST4,
        SYN6,
        ECHO4,
        ECHO_REPLY4,
        ECHO6,
        ECHO_REPLY6,
        NEIGHBOR_SOLICIT,
        NEIGHBOR_ADVERT,
        NEIGHBOR_SOLICIT_DAD,
        ROUTER_SOLICIT,
        LISTENER_REPORT,
    ]
    .iter()
    .map(|text| hex(text))
    .collect();
    frames.push(filled(FRAGMENT4_FIRST_HEAD, 1514));
    frames.push(filled(FRAGMENT4_LAST_HEAD, 562));
    frames.push(filled(FRAGMENT6_FIRST_HEAD, 1510));
    frames.push(filled(FRAGMENT6_LAST_HEAD, 622));
    frames
}

/// One of the frames with some of its bytes changed: hostile, yet close enough to a packet to get past the first check.
pub(crate) fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (prop::sample::select(all()), prop::collection::vec(change, 0..6), any::<prop::sample::Index>()).prop_map(
        |(mut frame, changes, cut)| {
            for (at, byte) in changes {
                // Headers are in the first 120 bytes; changes of payload find nothing.
                let at = at.index(frame.len().min(120));
                frame[at] = byte;
            }
            let len = frame.len();
            if cut.index(4) == 0 {
                frame.truncate(cut.index(len));
            }
            frame
        },
    )
}
