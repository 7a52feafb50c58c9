//! TCP (RFC 9293).

use std::fmt;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::WireError;
use crate::checksum::{Delta, Sum};
use crate::tcp_options::TcpOptions;

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: TcpFlags = TcpFlags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: TcpFlags = TcpFlags(0x02);
    /// Reset the connection.
    pub const RST: TcpFlags = TcpFlags(0x04);
    /// Push.
    pub const PSH: TcpFlags = TcpFlags(0x08);
    /// The acknowledgement number counts.
    pub const ACK: TcpFlags = TcpFlags(0x10);
    /// The urgent pointer counts.
    pub const URG: TcpFlags = TcpFlags(0x20);
    /// ECN echo.
    pub const ECE: TcpFlags = TcpFlags(0x40);
    /// Congestion window reduced.
    pub const CWR: TcpFlags = TcpFlags(0x80);

    /// Whether all of `other` are set.
    #[inline]
    pub const fn contains(self, other: TcpFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    #[inline]
    pub const fn intersects(self, other: TcpFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[inline]
    pub const fn union(self, other: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 | other.0)
    }

    /// FIN.
    #[inline]
    pub const fn fin(self) -> bool {
        self.contains(Self::FIN)
    }

    /// SYN.
    #[inline]
    pub const fn syn(self) -> bool {
        self.contains(Self::SYN)
    }

    /// RST.
    #[inline]
    pub const fn rst(self) -> bool {
        self.contains(Self::RST)
    }

    /// ACK.
    #[inline]
    pub const fn ack(self) -> bool {
        self.contains(Self::ACK)
    }

    /// Whether this opens a connection: SYN and neither ACK nor RST nor FIN.
    #[inline]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = TcpFlags;
    fn bitor(self, other: TcpFlags) -> TcpFlags {
        self.union(other)
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut first = true;
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{}{name}", if first { "" } else { "|" })?;
                first = false;
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) src_port: U16,
    pub(crate) dst_port: U16,
    pub(crate) seq: U32,
    pub(crate) ack: U32,
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: U16,
    pub(crate) checksum: U16,
    pub(crate) urgent: U16,
}

impl Header {
    #[inline]
    fn options_len(&self) -> Result<usize, WireError> {
        (usize::from(self.data_offset >> 4) * 4).checked_sub(HEADER_LEN).ok_or(WireError::BadLength)
    }
}

/// A view of a TCP segment.
#[derive(Clone, Copy)]
pub struct Tcp<'a> {
    head: &'a Header,
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Checks the data offset against `bytes`, the IP payload.
    ///
    /// Errors: [`WireError::Truncated`]; [`WireError::BadLength`] if the data offset is below 20 bytes.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let (options, payload) = rest.split_at_checked(head.options_len()?).ok_or(WireError::Truncated)?;
        Ok(Tcp { head, options, payload })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        self.head.src_port.get()
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        self.head.dst_port.get()
    }

    /// Sequence number of the first payload byte, or of SYN.
    #[inline]
    pub fn seq(&self) -> u32 {
        self.head.seq.get()
    }

    /// Acknowledgement number; counts if [`TcpFlags::ACK`] is set.
    #[inline]
    pub fn ack(&self) -> u32 {
        self.head.ack.get()
    }

    /// Header length with options, in bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Control bits.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.head.flags)
    }

    /// Receive window as on the wire, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        self.head.window.get()
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.head.checksum.get()
    }

    /// Urgent pointer; counts if [`TcpFlags::URG`] is set.
    #[inline]
    pub fn urgent(&self) -> u16 {
        self.head.urgent.get()
    }

    /// The options, one by one.
    #[inline]
    pub fn options(&self) -> TcpOptions<'a> {
        TcpOptions::new(self.options)
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// How many sequence numbers the segment takes: payload, SYN and FIN.
    #[inline]
    pub fn seq_len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.flags().syn()) + u32::from(self.flags().fin())
    }

    /// Checks the checksum; `pseudo` must count header, options and payload. Errors: [`WireError::BadChecksum`].
    #[inline]
    pub fn verify_checksum(&self, pseudo: Sum) -> Result<(), WireError> {
        let sum = pseudo.bytes(self.head.as_bytes()).bytes(self.options).bytes(self.payload);
        if sum.is_valid() { Ok(()) } else { Err(WireError::BadChecksum) }
    }
}

/// A view of a TCP segment that may change it. Setters keep the checksum right incrementally.
pub struct TcpMut<'a> {
    head: &'a mut Header,
    options: &'a mut [u8],
    payload: &'a mut [u8],
}

impl<'a> TcpMut<'a> {
    /// Checks as [`Tcp::parse`] does.
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let (options, payload) = rest.split_at_mut_checked(head.options_len()?).ok_or(WireError::Truncated)?;
        Ok(TcpMut { head, options, payload })
    }

    /// The same segment, to read.
    #[inline]
    pub fn view(&self) -> Tcp<'_> {
        Tcp { head: self.head, options: self.options, payload: self.payload }
    }

    /// Sets the source port.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        let delta = Delta::new().u16(self.head.src_port.get(), port);
        self.head.src_port.set(port);
        self.apply(delta);
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        let delta = Delta::new().u16(self.head.dst_port.get(), port);
        self.head.dst_port.set(port);
        self.apply(delta);
    }

    /// Sets the sequence number.
    #[inline]
    pub fn set_seq(&mut self, seq: u32) {
        let delta = Delta::new().u32(self.head.seq.get(), seq);
        self.head.seq.set(seq);
        self.apply(delta);
    }

    /// Sets the acknowledgement number.
    #[inline]
    pub fn set_ack(&mut self, ack: u32) {
        let delta = Delta::new().u32(self.head.ack.get(), ack);
        self.head.ack.set(ack);
        self.apply(delta);
    }

    /// Sets the window.
    #[inline]
    pub fn set_window(&mut self, window: u16) {
        let delta = Delta::new().u16(self.head.window.get(), window);
        self.head.window.set(window);
        self.apply(delta);
    }

    /// Sets the control bits.
    #[inline]
    pub fn set_flags(&mut self, flags: TcpFlags) {
        let high = u16::from(self.head.data_offset) << 8;
        let delta = Delta::new().u16(high | u16::from(self.head.flags), high | u16::from(flags.0));
        self.head.flags = flags.0;
        self.apply(delta);
    }

    /// Lowers the maximum segment size option to `mss_bytes` if it is present and larger; returns the old value then.
    ///
    /// The option may stand at an odd offset, which the checksum update accounts for.
    #[inline]
    pub fn clamp_mss(&mut self, mss_bytes: u16) -> Option<u16> {
        let at = TcpOptions::new(self.options).mss_position()?;
        let old = self.options.get(at..)?.first_chunk::<2>().map(|b| u16::from_be_bytes(*b))?;
        if old <= mss_bytes {
            return None;
        }
        self.options.get_mut(at..)?.first_chunk_mut::<2>()?.copy_from_slice(&mss_bytes.to_be_bytes());
        // At an odd offset each byte adds to the other half of a word, so the words change byte-swapped.
        let delta = if at % 2 == 0 {
            Delta::new().u16(old, mss_bytes)
        } else {
            Delta::new().u16(old.swap_bytes(), mss_bytes.swap_bytes())
        };
        self.apply(delta);
        Some(old)
    }

    /// Updates the checksum for a change elsewhere that it covers, such as an address.
    #[inline]
    pub fn apply(&mut self, delta: Delta) {
        self.head.checksum.set(delta.apply(self.head.checksum.get()));
    }

    /// Computes the checksum anew; `pseudo` must count header, options and payload.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo: Sum) {
        self.head.checksum.set(0);
        let sum = pseudo.bytes(self.head.as_bytes()).bytes(self.options).bytes(self.payload);
        self.head.checksum.set(sum.checksum());
    }

    /// What follows the header. After a change, call [`fill_checksum`](TcpMut::fill_checksum).
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }
}
