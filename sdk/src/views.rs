//! Header views of a packet, for functions that look at one header and leave the rest alone.

use crate::Packet;
use middlenet_wire::{Ethernet, EthernetMut, FlowKey, Ipv4, Ipv4Mut, Ipv6, Ipv6Mut, Layers, WireError, ethertype};

impl Packet<'_> {
    /// Offsets and protocols of all layers, from one pass over the headers.
    ///
    /// # Errors
    /// Why the headers are not well-formed; a reason to drop in most functions.
    #[inline]
    pub fn layers(&self) -> Result<Layers, WireError> {
        Layers::parse(self.data())
    }

    /// The flow key, if the packet is IP and well-formed.
    #[inline]
    pub fn flow_key(&self) -> Option<FlowKey> {
        FlowKey::parse(self.data())
    }

    /// The Ethernet header; `None` when the packet is shorter.
    #[inline]
    pub fn ethernet(&self) -> Option<Ethernet<'_>> {
        Ethernet::parse(self.data()).ok()
    }

    /// The Ethernet header, to be edited.
    #[inline]
    pub fn ethernet_mut(&mut self) -> Option<EthernetMut<'_>> {
        EthernetMut::parse(self.data_mut()).ok()
    }

    /// The IPv4 packet inside, behind any VLAN tags; `None` when there is none or it is malformed.
    #[inline]
    pub fn ipv4(&self) -> Option<Ipv4<'_>> {
        let offset = self.l3_offset(ethertype::IPV4)?;
        Ipv4::parse(self.data().get(offset..)?).ok()
    }

    /// The IPv4 packet inside, to be edited.
    #[inline]
    pub fn ipv4_mut(&mut self) -> Option<Ipv4Mut<'_>> {
        let offset = self.l3_offset(ethertype::IPV4)?;
        Ipv4Mut::parse(self.data_mut().get_mut(offset..)?).ok()
    }

    /// The IPv6 packet inside, behind any VLAN tags; `None` when there is none or it is malformed.
    #[inline]
    pub fn ipv6(&self) -> Option<Ipv6<'_>> {
        let offset = self.l3_offset(ethertype::IPV6)?;
        Ipv6::parse(self.data().get(offset..)?).ok()
    }

    /// The IPv6 packet inside, to be edited.
    #[inline]
    pub fn ipv6_mut(&mut self) -> Option<Ipv6Mut<'_>> {
        let offset = self.l3_offset(ethertype::IPV6)?;
        Ipv6Mut::parse(self.data_mut().get_mut(offset..)?).ok()
    }

    #[inline]
    fn l3_offset(&self, wanted: u16) -> Option<usize> {
        let tagged = middlenet_wire::vlan::walk(self.data()).ok()?;
        (tagged.ethertype == wanted).then_some(tagged.l3_offset)
    }
}
