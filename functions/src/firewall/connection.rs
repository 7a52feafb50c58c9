//! What is remembered of a connection, and how packets change it.

use super::config::Timeouts;
use middlenet_sdk::wire::{Tcp, TcpFlags, TcpOption};

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// TCP: a SYN.
    SynSent,
    /// TCP: SYN and its answer, or two SYNs.
    SynReceived,
    /// TCP: the handshake is done.
    Established,
    /// TCP: one side has closed.
    FinWait,
    /// TCP: both sides have closed.
    TimeWait,
    /// TCP: reset.
    Closed,
    /// UDP in one direction.
    UdpUnreplied,
    /// UDP in both directions.
    UdpReplied,
    /// ICMP query.
    Icmp,
    /// Another protocol.
    Other,
}

const STATES: usize = 10;

/// Lifetime in nanoseconds by state.
pub(super) type Lifetimes = [u64; STATES];

pub(super) fn lifetimes(timeouts: &Timeouts) -> Lifetimes {
    let t = timeouts;
    [
        t.tcp_syn_sent_s,
        t.tcp_syn_received_s,
        t.tcp_established_s,
        t.tcp_fin_wait_s,
        t.tcp_time_wait_s,
        t.tcp_closed_s,
        t.udp_unreplied_s,
        t.udp_replied_s,
        t.icmp_s,
        t.other_s,
    ]
    .map(|seconds| seconds.saturating_mul(1_000_000_000))
}

/// What one side of a TCP connection has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Highest sequence number plus length.
    end: u32,
    /// Highest acknowledgement: the next byte it expects of its peer.
    ack: u32,
    /// Window it last advertised, in bytes.
    window: u32,
    /// Its window scale (RFC 7323), and whether it has said any.
    scale: Option<u8>,
    /// It has closed.
    fin: bool,
    /// It has sent anything, so that the numbers count.
    seen: bool,
    /// It has sent an acknowledgement.
    acked: bool,
}

/// One connection. Index 0 is the side that sent the first packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    /// Whether the first packet's key was turned round to become the table's key.
    pub(super) turned: bool,
    /// Port by which packets of each side come in, once seen.
    pub(super) ingress: [Option<u8>; 2],
    sides: [Sent; 2],
}

/// What a packet means to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It belongs to it and keeps it alive.
    Valid,
    /// It belongs to it but proves nothing: it passes and the connection ages on.
    Ignored,
    /// It cannot be of it.
    Invalid,
    /// It begins a new connection in place of an ended one.
    Restart,
}

/// The numbers of a TCP segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    flags: TcpFlags,
    seq: u32,
    ack: u32,
    window: u16,
    /// Sequence numbers it takes.
    length: u32,
    /// Window scale option of a SYN.
    scale: Option<u8>,
}

impl Segment {
    #[inline]
    pub(super) fn of(tcp: &Tcp<'_>) -> Self {
        let flags = tcp.flags();
        let scale = if flags.syn() { window_scale(tcp) } else { None };
        Self { flags, seq: tcp.seq(), ack: tcp.ack(), window: tcp.window(), length: tcp.seq_len(), scale }
    }

    /// Whether its flags can occur at all, unlike those of scans: none, SYN with FIN or RST, FIN without ACK.
    #[inline]
    pub(super) fn is_sane(&self) -> bool {
        let f = self.flags;
        f.intersects(TcpFlags(0x17)) && !(f.syn() && (f.fin() || f.rst())) && !(f.fin() && (f.rst() || !f.ack()))
    }
}

fn window_scale(tcp: &Tcp<'_>) -> Option<u8> {
    tcp.options().find_map(|option| match option {
        TcpOption::WindowScale(shift) => Some(shift.min(14)),
        _ => None,
    })
}

/// How far `a` is after `b` in sequence space.
#[inline]
fn after(a: u32, b: u32) -> i32 {
    a.wrapping_sub(b) as i32
}

impl Connection {
    /// A connection of a protocol without handshake.
    pub(super) fn new(state: State, turned: bool, ingress: u8) -> Self {
        Self { state, turned, ingress: [Some(ingress), None], sides: [Sent::default(); 2] }
    }

    /// A TCP connection from its first segment: a SYN, or any other where connections may be taken up in their middle.
    pub(super) fn tcp(segment: &Segment, turned: bool, ingress: u8) -> Self {
        let state = if segment.flags.syn() { State::SynSent } else { State::Established };
        let mut connection = Self::new(state, turned, ingress);
        connection.sides[0].scale = segment.scale;
        connection.record(0, segment);
        connection
    }

    /// A packet of a protocol other than TCP from `side`.
    #[inline]
    pub(super) fn datagram(&mut self, side: usize) {
        if self.state == State::UdpUnreplied && side == 1 {
            self.state = State::UdpReplied;
        }
    }

    /// A segment from `side` that only carries data or acknowledges, on a connection that is established; whether it was one.
    #[inline]
    pub(super) fn plain_segment(&mut self, side: usize, segment: &Segment) -> bool {
        let is_plain = segment.flags.0 & 0x17 == TcpFlags::ACK.0 && self.state == State::Established;
        if is_plain {
            self.record(side, segment);
        }
        is_plain
    }

    /// A TCP segment from `side` (RFC 9293 section 3.5 and 3.6; resets after RFC 5961 section 3).
    pub(super) fn segment(&mut self, side: usize, segment: &Segment) -> Step {
        if self.plain_segment(side, segment) {
            return Step::Valid;
        }
        let flags = segment.flags;
        if flags.rst() {
            return self.reset(side, segment);
        }
        if flags.syn() && !flags.ack() {
            return self.syn(side, segment);
        }
        if flags.syn() {
            return self.syn_ack(side, segment);
        }
        match self.state {
            // A host that still knows an older connection answers a SYN with a bare ACK (RFC 9293 section 3.5.2).
            State::SynSent if side == 1 => return Step::Ignored,
            State::SynSent => return Step::Invalid,
            State::SynReceived => {
                let peer = &self.sides[side ^ 1];
                if flags.ack() && peer.seen && segment.ack == peer.end {
                    self.state = State::Established;
                } else if flags.ack() && peer.seen && after(segment.ack, peer.end) > 0 {
                    return Step::Invalid;
                }
            }
            State::Closed => return Step::Ignored,
            _ => {}
        }
        self.record(side, segment);
        if flags.fin() {
            self.sides[side].fin = true;
        }
        match (self.sides[0].fin, self.sides[1].fin) {
            (true, true) => self.state = State::TimeWait,
            (true, false) | (false, true) => self.state = State::FinWait,
            _ => {}
        }
        Step::Valid
    }

    fn syn(&mut self, side: usize, segment: &Segment) -> Step {
        match (self.state, side) {
            (State::SynSent, 0) => {
                self.sides[0].scale = segment.scale;
                self.sides[0].seen = false;
                self.record(0, segment);
                // The first SYN starts the clock: repeating it does not hold the slot.
                Step::Ignored
            }
            (State::SynSent, _) => {
                self.state = State::SynReceived;
                self.sides[1].scale = segment.scale;
                self.record(1, segment);
                Step::Valid
            }
            (State::TimeWait | State::Closed, _) => Step::Restart,
            // The receiver answers with a challenge ACK (RFC 5961 section 4).
            _ => Step::Ignored,
        }
    }

    fn syn_ack(&mut self, side: usize, segment: &Segment) -> Step {
        match (self.state, side) {
            (State::SynSent, 1) if segment.ack == self.sides[0].end => {
                self.state = State::SynReceived;
                self.sides[1].scale = segment.scale;
                self.record(1, segment);
                Step::Valid
            }
            (State::SynSent, _) => Step::Invalid,
            (State::SynReceived, _) => {
                self.sides[side].scale = segment.scale;
                self.record(side, segment);
                Step::Valid
            }
            _ => Step::Ignored,
        }
    }

    fn reset(&mut self, side: usize, segment: &Segment) -> Step {
        let (me, peer) = (self.sides[side], self.sides[side ^ 1]);
        if self.state == State::SynSent && side == 1 {
            // RFC 9293 section 3.5.2: a reset in SYN-SENT is acceptable if it acknowledges the SYN.
            if !segment.flags.ack() || segment.ack != peer.end {
                return Step::Invalid;
            }
            self.state = State::Closed;
            return Step::Valid;
        }
        let exact = (peer.acked && segment.seq == peer.ack) || (me.seen && segment.seq == me.end);
        // Nothing is known about what the peer would accept: after a bare SYN, or on a connection taken up in its middle.
        let unknown = !peer.acked;
        let window = peer.window.max(1).min(i32::MAX as u32) as i32;
        let in_window = peer.acked && (0..window).contains(&after(segment.seq, peer.ack));
        if exact {
            self.state = State::Closed;
            Step::Valid
        } else if in_window || unknown {
            // The receiver challenges it (RFC 5961 section 3.2); if it was right after all, an exact one follows.
            Step::Ignored
        } else {
            Step::Invalid
        }
    }

    #[inline]
    fn record(&mut self, side: usize, segment: &Segment) {
        let both_scale = self.sides[0].scale.is_some() && self.sides[1].scale.is_some();
        let me = &mut self.sides[side & 1];
        let end = segment.seq.wrapping_add(segment.length);
        if !me.seen || after(end, me.end) > 0 {
            me.end = end;
        }
        me.seen = true;
        if segment.flags.ack() {
            if !me.acked || after(segment.ack, me.ack) > 0 {
                me.ack = segment.ack;
            }
            me.acked = true;
        }
        // The window in a SYN is never scaled (RFC 7323 section 2.2).
        let shift = if both_scale && !segment.flags.syn() { me.scale.unwrap_or(0) } else { 0 };
        me.window = u32::from(segment.window) << shift;
    }
}
