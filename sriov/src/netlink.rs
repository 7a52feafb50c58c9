//! Requests to rtnetlink, made and understood here; the socket is at the end.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkVfInfo, LinkXdp, VfInfo, VfInfoMac,
    VfInfoRate, VfInfoSpoofCheck, VfInfoTrust, VfInfoVlan,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::IpAddr;

use crate::{Link, Mac, VfSetting, VfSettings};

/// Asks for all links, their VFs included.
pub(crate) fn links_request() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

/// Asks a PF's driver to set one thing about a VF: `RTM_SETLINK` with one attribute in `IFLA_VFINFO_LIST`, so that a refusal speaks
/// of that one.
pub(crate) fn vf_request(pf_index: u32, vf: u16, setting: VfSetting) -> RouteNetlinkMessage {
    let vf = u32::from(vf);
    let info = match setting {
        VfSetting::Mac(mac) => VfInfo::Mac(VfInfoMac::new(vf, &mac.0)),
        VfSetting::Vlan(vlan, qos) => VfInfo::Vlan(VfInfoVlan::new(vf, vlan.into(), qos.into())),
        VfSetting::Trust(on) => VfInfo::Trust(VfInfoTrust::new(vf, on)),
        VfSetting::SpoofCheck(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, on)),
        VfSetting::Rate(least, most) => VfInfo::Rate(VfInfoRate::new(vf, least, most)),
    };
    let mut message = LinkMessage::default();
    message.header.index = pf_index;
    message.attributes.push(LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![info])]));
    RouteNetlinkMessage::SetLink(message)
}

/// Asks for an interface to be set up or down.
pub(crate) fn up_request(index: u32, up: bool) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Asks for an address to be added or taken away.
pub(crate) fn address_request(index: u32, address: IpAddr, prefix: u8, present: bool) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    match present {
        true => RouteNetlinkMessage::NewAddress(message),
        false => RouteNetlinkMessage::DelAddress(message),
    }
}

/// A link as the kernel tells of it.
pub(crate) fn read_link(message: &LinkMessage) -> Link {
    let mut link =
        Link { index: message.header.index, up: message.header.flags.contains(LinkFlags::Up), ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            LinkAttribute::Controller(index) => link.member_of = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(InfoKind::Other(kind)) => Some(kind.clone()),
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(xdp) => {
                link.xdp = xdp.iter().find_map(|x| match x {
                    LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
                        Some(*id)
                    }
                    _ => None,
                });
            }
            LinkAttribute::VfInfoList(vfs) => link.vfs = vfs.iter().map(read_vf).collect(),
            _ => {}
        }
    }
    link
}

fn read_vf(info: &LinkVfInfo) -> VfSettings {
    let mut vf = VfSettings::default();
    let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    for attribute in &info.0 {
        match attribute {
            VfInfo::Mac(mac) => {
                vf.vf = narrow(mac.vf_id);
                vf.mac = mac.mac.first_chunk().copied().map(Mac);
            }
            VfInfo::Vlan(vlan) => {
                vf.vlan = narrow(vlan.vlan_id);
                vf.qos = u8::try_from(vlan.qos).unwrap_or(0);
            }
            VfInfo::Trust(trust) => vf.trust = trust.enabled,
            VfInfo::SpoofCheck(check) => vf.spoof_check = check.enabled,
            VfInfo::Rate(rate) => (vf.min_rate_mbps, vf.max_rate_mbps) = (rate.min_tx_rate, rate.max_tx_rate),
            _ => {}
        }
    }
    vf
}

/// Puts addresses and default routes to the links they belong to.
pub(crate) fn read_about(message: &RouteNetlinkMessage, links: &mut [Link]) {
    match message {
        RouteNetlinkMessage::NewAddress(message) => {
            // With a peer, `Local` is one's own address; without, IPv6 has `Address` alone.
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            let link = links.iter_mut().find(|l| l.index == message.header.index);
            if let (Some(link), Some(address)) = (link, local.or(address)) {
                link.addresses.push((address, message.header.prefix_len));
            }
        }
        RouteNetlinkMessage::NewRoute(message)
            if message.header.destination_prefix_length == 0 && message.header.table == RouteHeader::RT_TABLE_MAIN =>
        {
            let out = |index: u32, links: &mut [Link]| {
                links.iter_mut().filter(|l| l.index == index).for_each(|l| l.default_route = true);
            };
            for attribute in &message.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => out(*index, links),
                    RouteAttribute::MultiPath(hops) => hops.iter().for_each(|hop| out(hop.interface_index, links)),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// All links with their addresses and routes.
pub(crate) fn links() -> io::Result<Vec<Link>> {
    let mut connection = Connection::open()?;
    let mut links = Vec::new();
    for message in connection.dump(links_request())? {
        if let RouteNetlinkMessage::NewLink(message) = message {
            links.push(read_link(&message));
        }
    }
    let routes = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    for request in [RouteNetlinkMessage::GetAddress(AddressMessage::default()), routes] {
        connection.dump(request)?.iter().for_each(|message| read_about(message, &mut links));
    }
    Ok(links)
}

/// Sends a change and waits for what the kernel says of it.
pub(crate) fn change(request: RouteNetlinkMessage) -> io::Result<()> {
    let create = matches!(request, RouteNetlinkMessage::NewAddress(_));
    let create = if create { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
    Connection::open()?.ask(request, NLM_F_ACK | create).map(drop)
}

struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.ask(request, NLM_F_DUMP)
    }

    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let bytes = encode(request, flags, self.sequence);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (packet, _) = self.socket.recv_from_full()?;
            if self.take(&packet, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Takes the messages of a packet; whether that was all.
    fn take(&self, mut packet: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
        while let Some(length) = packet.first_chunk().map(|b| u32::from_ne_bytes(*b)) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(one) = packet.get(..length).filter(|one| one.len() >= 16) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink message is cut short"));
            };
            // What this crate does not understand of one device must not hide the others.
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one)
                && message.header.sequence_number == self.sequence
            {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(true),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
            packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }
}

pub(crate) fn encode(request: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
