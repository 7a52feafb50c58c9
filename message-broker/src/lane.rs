//! How messages leave a worker for function processes, and how they come back.

use std::os::fd::{AsFd, OwnedFd};

use middlenet_sdk::middlebox::{GROUP_BYTES, GroupReader, Interests, MAX_GROUP, UNDELIVERED, write_group};
use middlenet_shm::Descriptor;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::SendFlags;

use crate::hop::{Instance, LAST_WORDS, Place};
use crate::socket::{self, Read};
use crate::worker::{Servers, Worker};

/// Cells that one read takes at most.
const CELLS: usize = 256;

/// A worker's end of SK_MSG.
#[derive(Debug)]
pub(crate) struct SkmsgLane {
    socket: OwnedFd,
    /// The other end, which keeps the connection alive.
    _peer: OwnedFd,
    reader: GroupReader,
    /// What is to be sent, by destination.
    groups: Vec<(u8, Vec<Descriptor>)>,
    /// Bytes were there at the last tick, and no event has told of them since.
    suspect: bool,
    /// Set once the kernel was found to lose wake-ups.
    retired: bool,
}

impl SkmsgLane {
    pub(crate) fn new(socket: OwnedFd, peer: OwnedFd) -> Self {
        let reader = GroupReader::new(CELLS);
        Self { socket, _peer: peer, reader, groups: Vec::new(), suspect: false, retired: false }
    }

    /// Reads what has come; whether there may be more.
    fn read(&mut self, descriptors: &mut Vec<Descriptor>) -> bool {
        let Read::Bytes(n, more) = socket::read(&self.socket, self.reader.room()) else { return false };
        // The filter lets only groups through that can be read.
        self.reader.take(n, descriptors);
        more
    }

    /// Whether groups wait for the end of the turn.
    pub(crate) fn has_groups(&self) -> bool {
        self.groups.iter().any(|(_, group)| !group.is_empty())
    }

    fn is_readable(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }
}

impl Worker {
    /// Puts a message into the group for a party; it is sent at the end of the turn.
    #[inline]
    pub(crate) fn queue_group(&mut self, to: u8, index: u32) {
        let generation = self.custody.get(index).map_or(0, |(_, generation)| generation);
        let descriptor = Descriptor { index, generation, argument: to.into(), ..Descriptor::default() };
        let Some(lane) = &mut self.lane else { return };
        match lane.groups.iter_mut().find(|(key, _)| *key == to) {
            Some((_, group)) => group.push(descriptor),
            None => lane.groups.push((to, vec![descriptor])),
        }
    }

    /// Puts a message into a function's ring.
    pub(crate) fn put_in_ring(&mut self, hop: usize, replica: usize, index: u32) {
        let Place::Process { instances, .. } = &mut self.hops[hop].place else { return };
        let Some(instance) = instances.get_mut(replica).and_then(Option::as_mut) else { return };
        self.custody.hand(index, instance.key);
        let generation = self.custody.get(index).map_or(0, |(_, generation)| generation);
        let descriptor = Descriptor { index, generation, ..Descriptor::default() };
        instance.to_ring = true;
        if instance.to.enqueue(&[descriptor]) == 0 {
            self.custody.seize(index, self.number);
            self.unsent.push((index, "ring-full"));
        }
        self.counters.descriptors_sent.inc();
    }

    /// Wakes functions on rings.
    fn ring_bells(&mut self) {
        for hop in &mut self.hops {
            for (_, instance) in hop.instances_mut() {
                if std::mem::take(&mut instance.to_ring) {
                    instance.bell.ring();
                    self.counters.groups_sent.inc();
                }
            }
        }
    }

    /// Sends the groups of this turn, and wakes functions on rings.
    pub(crate) fn flush_groups(&mut self) {
        self.ring_bells();
        if let Some(lane) = &mut self.lane {
            for (to, group) in &mut lane.groups {
                for part in group.chunks(MAX_GROUP) {
                    self.counters.groups_sent.inc();
                    self.counters.descriptors_sent.add(part.len() as u64);
                    if let Err(reason) = send_group(&lane.socket, *to, part) {
                        for descriptor in part {
                            // Whether the filter had moved it or not, it did not arrive.
                            self.custody.seize(descriptor.index, self.number);
                            self.unsent.push((descriptor.index, reason));
                        }
                    }
                }
                group.clear();
            }
        }
        if self.unsent.is_empty() {
            return;
        }
        for (index, reason) in std::mem::take(&mut self.unsent) {
            self.undelivered(index, reason);
        }
        self.ring_bells();
    }

    /// Takes what functions sent by SK_MSG.
    pub(crate) fn take_groups(&mut self) {
        let mut descriptors = std::mem::take(&mut self.received);
        let Some(lane) = &mut self.lane else { return };
        lane.suspect = false;
        while lane.read(&mut descriptors) {}
        if !descriptors.is_empty() {
            self.counters.hop_wakeups.inc();
            self.counters.descriptors_received.add(descriptors.len() as u64);
        }
        for descriptor in descriptors.drain(..) {
            // The filter has seen to it that the sender held it; that it is one of ours is checked here.
            let held = self.custody.get(descriptor.index) == Some((self.number.into(), descriptor.generation));
            if held && self.pool.away(descriptor.index).is_some() {
                self.returned(descriptor.index);
            }
        }
        self.received = descriptors;
    }

    /// Announces that the worker is about to sleep; whether something has come meanwhile. Functions on SK_MSG have rings too, by
    /// which they return what they could not deliver: requests wait for that.
    pub(crate) fn announce(&mut self) {
        self.rings_waiting = false;
        for hop in &mut self.hops {
            for (_, instance) in hop.instances_mut() {
                instance.own_bell.announce();
                self.rings_waiting |= !instance.from.is_empty();
            }
        }
    }

    pub(crate) fn retract(&mut self) {
        for hop in &mut self.hops {
            for (_, instance) in hop.instances_mut() {
                instance.own_bell.retract();
            }
        }
    }

    /// Takes what functions put into their rings.
    pub(crate) fn serve_rings(&mut self) {
        let mut descriptors = [Descriptor::default(); MAX_GROUP];
        for hop in 0..self.hops.len() {
            let replicas = match &self.hops[hop].place {
                Place::Process { instances, .. } => instances.len(),
                Place::Inline(_) => 0,
            };
            for replica in 0..replicas {
                let Place::Process { instances, .. } = &mut self.hops[hop].place else { continue };
                let Some(instance) = instances[replica].as_mut() else { continue };
                let key = instance.key;
                let n = instance.from.dequeue(&mut descriptors);
                self.take_from_ring(hop, key, &descriptors[..n]);
            }
        }
    }

    fn take_from_ring(&mut self, hop: usize, key: u8, descriptors: &[Descriptor]) {
        if descriptors.is_empty() {
            return;
        }
        self.counters.hop_wakeups.inc();
        self.counters.descriptors_received.add(descriptors.len() as u64);
        for descriptor in descriptors {
            let index = descriptor.index;
            let Some((holder, generation)) = self.custody.get(index) else {
                self.counters.hops[hop].refused.inc("index");
                continue;
            };
            if generation != descriptor.generation || self.pool.away(index).is_none() {
                self.counters.hops[hop].refused.inc("generation");
                continue;
            }
            if descriptor.verdict == UNDELIVERED {
                // By the time it comes back, the filter may have named the next stop its holder, this worker if that is it, or
                // none have moved. In any case it was on a way that goes by this function.
                if holder != u16::from(key) && !self.was_sent_to(index, hop) {
                    self.counters.hops[hop].refused.inc("holder");
                    continue;
                }
                self.custody.seize(index, self.number);
                self.undelivered(index, errno_name(descriptor.argument));
            } else if self.custody.take_back(index, key, generation, self.number) {
                self.returned(index);
            } else {
                self.counters.hops[hop].refused.inc("holder");
            }
        }
    }

    /// A process is ready for messages.
    pub(crate) fn attach(
        &mut self,
        at: usize,
        replica: usize,
        instance: Instance,
        interests: Interests,
        upstreams: Servers,
    ) {
        self.detach(at, replica, true);
        let Some(hop) = self.hops.get_mut(at) else { return };
        hop.interests = interests;
        hop.upstreams = upstreams.ids;
        hop.alike = upstreams.alike;
        let (chain, list) = (usize::from(hop.chain), hop.upstreams.clone());
        if let Place::Process { instances, declared } = &mut hop.place {
            *declared = true;
            if let Some(place) = instances.get_mut(replica) {
                *place = Some(instance);
            }
        }
        self.read_upstreams(at, &list);
        self.arrange(chain);
        for upstream in list {
            self.publish(upstream);
        }
        self.listen_if_ready();
        self.resume_hop(at);
    }

    /// Notes whose upstreams those are.
    pub(crate) fn read_upstreams(&mut self, hop: usize, list: &[usize]) {
        self.readers.iter_mut().for_each(|readers| readers.retain(|&(h, _)| h != hop));
        for (number, &upstream) in list.iter().enumerate() {
            if let Some(readers) = self.readers.get_mut(upstream) {
                readers.push((hop, number));
            }
        }
    }

    /// A process gets no more messages. One that drains returns what it has in its own time; what a dead one held is lost.
    pub(crate) fn detach(&mut self, at: usize, replica: usize, drain: bool) {
        let Some(hop) = self.hops.get_mut(at) else { return };
        let Place::Process { instances, .. } = &mut hop.place else { return };
        let instance = instances.get_mut(replica).and_then(Option::take);
        if let Some(instance) = instance {
            if drain {
                self.leaving.push((at, instance, self.now_ms));
            } else {
                // Whoever sent to it was told that it is gone, and has returned what was for it.
                self.serve_rings();
                self.bury(at, instance);
            }
        }
    }

    /// Takes back what a dead process held.
    fn bury(&mut self, hop: usize, mut instance: Instance) {
        let mut descriptors = [Descriptor::default(); MAX_GROUP];
        // What it left fits its ring; more than that is somebody who goes on writing.
        let mut left = instance.from.capacity();
        while left > 0 {
            let n = instance.from.dequeue(&mut descriptors);
            if n == 0 {
                break;
            }
            left = left.saturating_sub(n);
            self.take_from_ring(hop, instance.key, &descriptors[..n]);
        }
        let key = u16::from(instance.key);
        let held = |index: u32| self.custody.get(index).is_some_and(|(holder, _)| holder == key);
        let lost: Vec<u32> = self.pool.indexes().filter(|&index| held(index)).collect();
        for index in lost {
            self.custody.seize(index, self.number);
            self.lost(index, hop, "died");
        }
    }

    /// Instances that were replaced are forgotten when they have returned everything, or had their time.
    pub(crate) fn look_at_leaving(&mut self) {
        for (hop, mut instance, since) in std::mem::take(&mut self.leaving) {
            let mut descriptors = [Descriptor::default(); MAX_GROUP];
            let n = instance.from.dequeue(&mut descriptors);
            self.take_from_ring(hop, instance.key, &descriptors[..n]);
            let key = u16::from(instance.key);
            let holds = self.pool.all_away().any(|(i, _)| self.custody.get(i).is_some_and(|(h, _)| h == key));
            let chain = usize::from(self.hops[hop].chain);
            let patience = self.chains[chain].plan.timeouts.function_ms.max(1000);
            if !holds && n == 0 && self.now_ms.saturating_sub(since) > LAST_WORDS.as_millis() as u64 {
                continue;
            }
            if instance.is_gone() || self.now_ms.saturating_sub(since) > patience {
                self.bury(hop, instance);
            } else {
                self.leaving.push((hop, instance, since));
            }
        }
    }

    /// Rings from now on.
    pub(crate) fn use_rings(&mut self) {
        for hop in &mut self.hops {
            hop.instances_mut().for_each(|(_, instance)| instance.skmsg = false);
        }
        self.leaving.iter_mut().for_each(|(_, instance, _)| instance.skmsg = false);
        if let Some(lane) = &mut self.lane
            && !lane.retired
        {
            lane.retired = true;
            self.counters.transport_changes.inc();
            // What has come by the old way is taken; what was to go by it goes by the new one.
            for descriptor in lane.groups.iter_mut().flat_map(|(_, group)| group.drain(..)) {
                self.unsent.push((descriptor.index, "transport-changed"));
            }
        }
        self.take_groups();
    }

    /// Bytes that nobody told of for a whole tick: the kernel lost a wake-up.
    pub(crate) fn look_for_lost_wakeups(&mut self) {
        let Some(lane) = &mut self.lane else { return };
        let readable = lane.is_readable();
        let lost = readable && lane.suspect;
        lane.suspect = readable;
        if lost {
            self.counters.lost_wakeups.inc();
            self.take_groups();
        }
    }

    /// At the very end: messages that functions still return make the account even.
    pub(crate) fn wait_for_last_words(&mut self) {
        let until = std::time::Instant::now() + LAST_WORDS;
        while self.pool.away_count() > 0 && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(1));
            self.take_groups();
            self.serve_rings();
            self.flush_groups();
        }
    }
}

fn send_group(socket: &OwnedFd, to: u8, descriptors: &[Descriptor]) -> Result<(), &'static str> {
    let mut bytes = [0u8; GROUP_BYTES];
    let length = write_group(&mut bytes, to, descriptors);
    loop {
        return match rustix::net::send(socket, &bytes[..length], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) if sent == length => Ok(()),
            Ok(_) => Err("cut"),
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => Err(errno_name(e.raw_os_error() as u16)),
        };
    }
}

/// The errors that a send on SK_MSG gives, by the names that counters have.
fn errno_name(errno: u16) -> &'static str {
    match Errno::from_raw(errno.into()) {
        Errno::ENOMEM => "ENOMEM",
        Errno::EPIPE => "EPIPE",
        Errno::EACCES => "EACCES",
        Errno::EAGAIN => "EAGAIN",
        Errno::ECONNRESET => "ECONNRESET",
        Errno::ENOTCONN => "ENOTCONN",
        _ => "other",
    }
}
