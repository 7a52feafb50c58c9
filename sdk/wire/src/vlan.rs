//! VLAN tags: 802.1Q and 802.1ad.

use crate::WireError;
use crate::ethernet::{HEADER_LEN, ethertype};

/// Length of one tag on the wire, in bytes.
pub const TAG_LEN: usize = 4;
/// How many stacked tags a frame may carry: one service and one customer tag.
pub const MAX_VLAN_TAGS: usize = 2;

/// One VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VlanTag {
    /// Tag protocol identifier: 0x8100 for a customer tag, 0x88a8 for a service tag.
    pub tpid: u16,
    /// Tag control information as on the wire: priority, drop eligible, identifier.
    pub tci: u16,
}

impl VlanTag {
    /// An 802.1Q tag with priority 0; only the low 12 bits of `vid` count.
    #[inline]
    pub const fn customer(vid: u16) -> Self {
        VlanTag { tpid: ethertype::VLAN, tci: vid & 0x0fff }
    }

    /// An 802.1ad service tag with priority 0; only the low 12 bits of `vid` count.
    #[inline]
    pub const fn service(vid: u16) -> Self {
        VlanTag { tpid: ethertype::QINQ, tci: vid & 0x0fff }
    }

    /// VLAN identifier, 0 to 4095; 0 means a priority tag without a VLAN.
    #[inline]
    pub const fn vid(self) -> u16 {
        self.tci & 0x0fff
    }

    /// Priority code point, 0 to 7.
    #[inline]
    pub const fn pcp(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// Drop eligible indicator.
    #[inline]
    pub const fn dei(self) -> bool {
        self.tci & 0x1000 != 0
    }

    /// The same tag with another priority; only the low 3 bits count.
    #[inline]
    pub const fn with_pcp(self, pcp: u8) -> Self {
        VlanTag { tpid: self.tpid, tci: (self.tci & 0x1fff) | ((pcp as u16 & 7) << 13) }
    }
}

/// Whether this ethertype announces a VLAN tag.
#[inline]
pub const fn is_tpid(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD)
}

/// The tags of a frame, outermost first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct VlanTags {
    tags: [VlanTag; MAX_VLAN_TAGS],
    len: u8,
}

impl VlanTags {
    /// No tags.
    pub const EMPTY: VlanTags = VlanTags { tags: [VlanTag { tpid: 0, tci: 0 }; MAX_VLAN_TAGS], len: 0 };

    /// How many tags there are.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the frame is untagged.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tags, outermost first.
    #[inline]
    pub fn as_slice(&self) -> &[VlanTag] {
        self.tags.get(..self.len()).unwrap_or(&[])
    }

    /// The outermost tag.
    #[inline]
    pub fn outer(&self) -> Option<VlanTag> {
        self.as_slice().first().copied()
    }

    /// The innermost tag.
    #[inline]
    pub fn inner(&self) -> Option<VlanTag> {
        self.as_slice().last().copied()
    }

    /// Appends a tag inside the others. Errors: [`WireError::TooManyTags`].
    #[inline]
    pub fn push(&mut self, tag: VlanTag) -> Result<(), WireError> {
        let slot = self.tags.get_mut(usize::from(self.len)).ok_or(WireError::TooManyTags)?;
        *slot = tag;
        self.len += 1;
        Ok(())
    }
}

/// What a walk over the tags of a frame found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tagged {
    /// The tags.
    pub tags: VlanTags,
    /// The ethertype after the last tag.
    pub ethertype: u16,
    /// Where L3 begins, in bytes from the start of the frame.
    pub l3_offset: usize,
}

/// Walks the tags of a frame.
///
/// Errors: [`WireError::Truncated`], [`WireError::TooManyTags`] for more than [`MAX_VLAN_TAGS`].
#[inline]
pub fn walk(frame: &[u8]) -> Result<Tagged, WireError> {
    let (head, rest) = frame.split_first_chunk::<HEADER_LEN>().ok_or(WireError::Truncated)?;
    let ethertype = u16::from_be_bytes([head[12], head[13]]);
    let untagged = Tagged { tags: VlanTags::EMPTY, ethertype, l3_offset: HEADER_LEN };
    if is_tpid(ethertype) { walk_tags(untagged, rest) } else { Ok(untagged) }
}

/// Apart from [`walk`], which is inlined where frames are as a rule untagged.
fn walk_tags(mut found: Tagged, mut rest: &[u8]) -> Result<Tagged, WireError> {
    while is_tpid(found.ethertype) {
        let ([a, b, c, d], after) = rest.split_first_chunk::<TAG_LEN>().ok_or(WireError::Truncated)?;
        found.tags.push(VlanTag { tpid: found.ethertype, tci: u16::from_be_bytes([*a, *b]) })?;
        found.ethertype = u16::from_be_bytes([*c, *d]);
        found.l3_offset += TAG_LEN;
        rest = after;
    }
    Ok(found)
}

/// Inserts a tag outside the others. `room_and_frame` begins with [`TAG_LEN`] free bytes, which become the start of the
/// frame.
///
/// Errors: [`WireError::NoSpace`] if `room_and_frame` cannot hold the room and an Ethernet header.
#[inline]
pub fn push(room_and_frame: &mut [u8], tag: VlanTag) -> Result<(), WireError> {
    let head = room_and_frame.first_chunk_mut::<{ HEADER_LEN + TAG_LEN }>().ok_or(WireError::NoSpace)?;
    head.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
    let [a, b] = tag.tpid.to_be_bytes();
    let [c, d] = tag.tci.to_be_bytes();
    head[ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN].copy_from_slice(&[a, b, c, d]);
    Ok(())
}

/// Removes the outermost tag and returns it; the frame then begins [`TAG_LEN`] bytes later. None, and no change, if the
/// frame is untagged.
#[inline]
pub fn pop(frame: &mut [u8]) -> Option<VlanTag> {
    let tag = outer(frame)?;
    let head = frame.first_chunk_mut::<{ HEADER_LEN + TAG_LEN }>()?;
    head.copy_within(..ADDRESSES_LEN, TAG_LEN);
    Some(tag)
}

/// The outermost tag; none if the frame is untagged or ends within it.
#[inline]
pub fn outer(frame: &[u8]) -> Option<VlanTag> {
    let head = frame.first_chunk::<{ HEADER_LEN + TAG_LEN }>()?;
    let tpid = u16::from_be_bytes([head[12], head[13]]);
    is_tpid(tpid).then(|| VlanTag { tpid, tci: u16::from_be_bytes([head[14], head[15]]) })
}

/// Sets the VLAN identifier of the outermost tag and keeps its priority; only the low 12 bits of `vid` count.
///
/// Errors: [`WireError::WrongProtocol`] if the frame is untagged or ends within the tag.
#[inline]
pub fn set_vid(frame: &mut [u8], vid: u16) -> Result<(), WireError> {
    let tag = outer(frame).ok_or(WireError::WrongProtocol)?;
    let head = frame.first_chunk_mut::<{ HEADER_LEN + TAG_LEN }>().ok_or(WireError::WrongProtocol)?;
    let tci = (tag.tci & 0xf000) | (vid & 0x0fff);
    head[14..16].copy_from_slice(&tci.to_be_bytes());
    Ok(())
}

/// Length of both MAC addresses, in bytes.
const ADDRESSES_LEN: usize = 12;
