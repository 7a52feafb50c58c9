//! One flow, for rules that are made while packets pass.

use crate::Head;
use std::net::IpAddr;

/// Packets of one direction of one conversation: what the flow key of `middlenet-wire` says of a well-formed packet that is
/// whole. A fragment is of no flow: later ones do not show their ports, and all fragments of a packet are to go the same way. Ports
/// are those of TCP, UDP and SCTP, as in rules, and what is behind an authentication header (RFC 4302) is not looked at: that is
/// the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// VLAN identifier of the outermost tag; 0 if untagged.
    pub vlan: u16,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same version.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: u8,
    /// Source port, or the identifier of ICMP echo and timestamp messages; 0 for others.
    pub src_port: u16,
    /// Destination port, or the same identifier; 0 likewise.
    pub dst_port: u16,
}

impl Flow {
    /// The flow of a packet with this head.
    pub fn of(head: &Head) -> Option<Self> {
        (!head.fragment).then_some(())?;
        let identifier = head.icmp_id.unwrap_or(0);
        Some(Self {
            vlan: head.vlan,
            src: head.src?,
            dst: head.dst?,
            protocol: head.protocol?,
            src_port: head.src_port.unwrap_or(identifier),
            dst_port: head.dst_port.unwrap_or(identifier),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Draw;
    use middlenet_wire::{FlowKey, PacketBuilder, TcpFlags, VlanTag};

    fn of(frame: &[u8]) -> Option<Flow> {
        Flow::of(&Head::parse(frame)?)
    }

    /// Functions name flows by the key of `middlenet-wire`.
    fn key(frame: &[u8]) -> Option<Flow> {
        let key = FlowKey::parse(frame)?;
        Some(Flow {
            vlan: key.vid,
            src: key.src_ip(),
            dst: key.dst_ip(),
            protocol: key.protocol,
            src_port: key.src_port,
            dst_port: key.dst_port,
        })
    }

    #[test]
    fn whole_packets_are_of_the_flow_that_functions_know() {
        let v4 = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let v6 = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        for frame in [
            PacketBuilder::new().ipv4(v4.0, v4.1).udp(5, 6).build(),
            PacketBuilder::new().vlan(VlanTag::customer(100)).ipv4(v4.0, v4.1).tcp(5, 6, TcpFlags::SYN).build(),
            PacketBuilder::new().ipv6(v6.0, v6.1).udp(5, 6).build(),
            PacketBuilder::new().ipv4(v4.0, v4.1).echo_request(77, 1).build(),
            PacketBuilder::new().ipv6(v6.0, v6.1).echo_request(78, 1).build(),
        ] {
            assert!(of(&frame).is_some() && of(&frame) == key(&frame), "{:?}", of(&frame));
        }
    }

    #[test]
    fn fragments_are_of_no_flow() {
        let addresses = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut frame = PacketBuilder::new().ipv4(addresses.0, addresses.1).udp(5, 6).build();
        for (high, low) in [(0x20, 0), (0x20, 4), (0, 4)] {
            (frame[20], frame[21]) = (high, low);
            assert!(of(&frame).is_none() && Head::parse(&frame).unwrap().src.is_some());
        }
    }

    /// Whatever the packet: where both tell a flow, they tell the same, but of what is not looked at here.
    #[test]
    fn drawn_packets_agree() {
        let mut draw = Draw::from_seed(5);
        let frames: Vec<Vec<u8>> = (0..20_000).map(|_| draw.frame()).collect();
        let both = frames.iter().filter_map(|frame| Some((of(frame)?, key(frame)?)));
        let both: Vec<_> = both.filter(|(ours, _)| ![33, 51, 136].contains(&ours.protocol)).collect();
        assert!(both.len() > 500, "{}", both.len());
        both.iter().for_each(|(ours, theirs)| assert_eq!(ours, theirs));
    }
}
