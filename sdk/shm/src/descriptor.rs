use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Names one packet in a [`Buffers`](crate::Buffers) region: what travels through rings instead of the packet.
///
/// 16 bytes, little endian; the same layout is in `include/middlenet_descriptor.h` for C and BPF. Any 16 bytes are a
/// valid value, so a descriptor that a peer wrote is data to check, never a danger by itself.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Descriptor {
    /// Buffer index in the region.
    pub index: u32,
    /// First byte of the packet inside its buffer, in bytes.
    pub offset: u16,
    /// Length of the packet in bytes.
    pub length: u16,
    /// To a function: the destination hop. From a function: the drop reason or the output, as `verdict` says.
    pub argument: u16,
    /// Source hop.
    pub source: u16,
    /// Which handing-over of the buffer this is; see [`Ledger`](crate::Ledger).
    pub generation: u16,
    /// Verdict of the function; 0 on the way to it.
    pub verdict: u8,
    /// Port on which the packet entered the chain.
    pub port: u8,
}

#[cfg(not(target_endian = "little"))]
compile_error!("the shared layouts are little endian");

const _: () = assert!(size_of::<Descriptor>() == 16);
