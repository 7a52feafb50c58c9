//! Every reason to refuse, with groups as a hostile function would make them.

use std::env;
use std::io::{PipeWriter, pipe};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use libbpf_rs::query::MapInfoIter;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use middlenet_bpf::{KeySet, SkmsgCounters, entry};
use middlenet_tests::{Process, require_root};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::write;

use super::SOON;
use super::domain::{CELL, Domain, Party, Reader, STRUCK_OUT, group, group_that_says};

/// Set for the child of `a_process_is_who_its_socket_is`: the number of the only descriptor of a party that it has.
const SOCKET: &str = "MIDDLENET_TEST_PARTY";

fn counters(domain: &Domain, key: u8) -> SkmsgCounters {
    domain.skmsg.counters(key).expect("counters")
}

/// Sends what must be refused whole, for this reason and no other, and leaves the ledger and the sender as they were.
fn assert_refused(domain: &Domain, bytes: &[u8], reason: &str) {
    let before = counters(domain, 1);
    let words: Vec<u64> = (0..domain.skmsg.ledger().words().len() as u32).map(|b| domain.word(b)).collect();
    assert_eq!(domain.party(1).send(bytes), Err(Errno::EPIPE), "{reason}");
    let after = counters(domain, 1);
    assert_eq!((after.groups, after.descriptors), (before.groups, before.descriptors), "{reason}");
    for ((name, was), (_, is)) in before.refused_groups().zip(after.refused_groups()) {
        assert_eq!(is, was + u64::from(name == reason), "{name}, when {reason} was expected");
    }
    for (buffer, word) in words.into_iter().enumerate() {
        assert_eq!(domain.word(buffer as u32), word, "{reason}: the ledger has changed");
    }
    // The sender is not silenced.
    domain.give(0, 1, 5);
    domain.party(1).send(&group(2, &[(0, 5)])).expect("an honest group passes");
    assert_eq!(domain.party(2).receive(1 << 16).expect("it arrives"), group(2, &[(0, 5)]), "{reason}");
    domain.give(0, 1, 5);
    assert!(domain.party(3).receive_now().is_empty(), "{reason}");
}

#[test]
fn a_group_that_is_malformed_is_refused() {
    require_root!();
    let domain = Domain::new(128);
    let one = [(0, 5)];
    assert_refused(&domain, &[0; 1], "too-short");
    assert_refused(&domain, &group_that_says(0, 2, &[]), "too-short");
    assert_refused(&domain, &group_that_says(1, 2, &one)[..31], "too-short");
    assert_refused(&domain, &group_that_says(0, 2, &one), "bad-count");
    assert_refused(&domain, &group_that_says(65, 2, &one), "bad-count");
    assert_refused(&domain, &group_that_says(u32::MAX, 2, &one), "bad-count");
    assert_refused(&domain, &group_that_says(0x1000_0001, 2, &one), "bad-count");
    assert_refused(&domain, &group_that_says(2, 2, &one), "size-mismatch");
    assert_refused(&domain, &group_that_says(64, 2, &one), "size-mismatch");
    assert_refused(&domain, &group_that_says(1, 2, &[(0, 5), (1, 5)]), "size-mismatch");
    assert_refused(&domain, &[group(2, &one), vec![0]].concat(), "size-mismatch");
    // Two groups with one call: the second would go unchecked.
    assert_refused(&domain, &[group(2, &one), group(2, &[(1, 5)])].concat(), "size-mismatch");
    let many: Vec<_> = (0..65).map(|buffer| (buffer, 5)).collect();
    assert_refused(&domain, &group(2, &many), "size-mismatch");
    assert_refused(&domain, &vec![1; 1 << 14], "size-mismatch");
}

#[test]
fn a_group_to_where_it_may_not_go_is_refused() {
    require_root!();
    let domain = Domain::new(8);
    let one = [(0, 5)];
    assert_refused(&domain, &group(1, &one), "edge-not-allowed");
    assert_refused(&domain, &group(0, &one), "edge-not-allowed");
    assert_refused(&domain, &group(255, &one), "edge-not-allowed");
    assert_refused(&domain, &group(256, &one), "destination-range");
    assert_refused(&domain, &group(256 + 2, &one), "destination-range");
    assert_refused(&domain, &group(u32::MAX, &one), "destination-range");

    domain.skmsg.set_edges(1, &KeySet::from_iter([2, 3, 200])).expect("edges");
    assert_refused(&domain, &group(200, &one), "no-socket");
    domain.skmsg.remove(3).expect("key 3 goes");
    assert!(!domain.skmsg.has_socket(3));
    assert_refused(&domain, &group(3, &one), "no-socket");
}

#[test]
fn a_group_of_which_nothing_is_the_senders_is_refused() {
    require_root!();
    let domain = Domain::new(8);
    domain.give(1, 2, 5);
    domain.give(2, 0x101, 5);
    assert_refused(&domain, &group(2, &[(8, 5)]), "nothing-left");
    assert_refused(&domain, &group(2, &[(STRUCK_OUT, 5), (u32::MAX - 1, 5)]), "nothing-left");
    assert_eq!(counters(&domain, 1).refused("index-range"), 3);
    assert_refused(&domain, &group(2, &[(1, 5)]), "nothing-left");
    assert_refused(&domain, &group(2, &[(2, 5)]), "nothing-left");
    assert_eq!(counters(&domain, 1).refused("not-the-holder"), 2);
    assert_refused(&domain, &group(2, &[(0, 4), (3, 6)]), "nothing-left");
    assert_eq!(counters(&domain, 1).refused("stale-generation"), 2);
}

#[test]
fn descriptors_that_are_not_the_senders_are_struck_out_and_the_rest_goes_on() {
    require_root!();
    let domain = Domain::new(64);
    domain.give(1, 2, 5);
    // Good, of somebody else, of an older hand-over, out of range, good, and the first one once more.
    domain.party(1).send(&group(3, &[(0, 5), (1, 5), (2, 4), (64, 5), (63, 5), (0, 5)])).expect("two are good");
    let mut reader = Reader::default();
    reader.push(&domain.party(3).receive(1 << 16).expect("it arrives"));
    let out = STRUCK_OUT;
    assert_eq!(reader.next(), Some((3, vec![(0, 5), (out, 5), (out, 4), (out, 5), (63, 5), (out, 5)])));
    assert!(reader.is_empty());

    let after = counters(&domain, 1);
    assert_eq!((after.groups, after.descriptors), (1, 2));
    assert_eq!(after.refused_groups().map(|(_, count)| count).sum::<u64>(), 0);
    assert_eq!(after.refused("not-the-holder"), 2);
    assert_eq!(after.refused("stale-generation"), 1);
    assert_eq!(after.refused("index-range"), 1);
    for (buffer, holder) in [(0, 3), (1, 2), (2, 1), (63, 3)] {
        assert_eq!(domain.word(buffer), entry(holder, 5), "buffer {buffer}");
    }
    // What was passed cannot be passed again by who had it, and can by who has it.
    assert_refused(&domain, &group(2, &[(63, 5)]), "nothing-left");
    domain.party(3).send(&group(2, &[(63, 5)])).expect("key 3 holds it");
    assert_eq!(domain.word(63), entry(2, 5));
}

#[test]
fn a_word_of_the_ledger_must_match_to_the_last_bit() {
    require_root!();
    let domain = Domain::new(2);
    for bits in [1 << 32, 1 << 63] {
        let word = entry(1, 5) | bits;
        domain.skmsg.ledger().words()[0].store(word, std::sync::atomic::Ordering::Release);
        assert_eq!(domain.party(1).send(&group(2, &[(0, 5)])), Err(Errno::EPIPE));
        assert_eq!(domain.word(0), word);
    }
}

#[test]
fn a_socket_without_a_key_is_refused() {
    require_root!();
    let domain = Domain::new(8);
    // No call of the crate makes such a socket: its storage is taken away behind the crate's back.
    let senders = MapInfoIter::default()
        .filter(|map| map.name.as_bytes() == b"senders")
        .filter_map(|map| MapHandle::from_map_id(map.id).ok());
    let socket = domain.party(1).socket.as_raw_fd().to_ne_bytes();
    // Other domains of the host have a map of that name too, and none of them knows the socket.
    let taken = senders.filter(|map| map.lookup(&socket, MapFlags::ANY).is_ok_and(|key| key.is_some()));
    assert_eq!(taken.map(|map| map.delete(&socket).expect("its storage goes")).count(), 1);

    assert_eq!(domain.party(1).send(&group(2, &[(0, 5)])), Err(Errno::EPIPE));
    assert_eq!(domain.word(0), entry(1, 5));
    assert_eq!(domain.skmsg.counters_of_unknown().expect("counters").refused("unknown-sender"), 1);
    assert_eq!(counters(&domain, 1), SkmsgCounters::default());
}

#[test]
fn other_ways_to_send_get_the_same_answers() {
    require_root!();
    let domain = Domain::new(8);
    let sender = domain.party(1).socket.as_raw_fd();
    for (buffer, flags) in (0..).zip([libc::MSG_OOB, libc::MSG_MORE, libc::MSG_ZEROCOPY, libc::MSG_EOR]) {
        let flags = MsgFlags::from_bits_retain(flags) | MsgFlags::MSG_NOSIGNAL;
        assert_eq!(send(sender, &group(1, &[(buffer, 5)]), flags), Err(Errno::EPIPE), "{flags:?}");
        assert_eq!(send(sender, &group(2, &[(buffer, 5)]), flags), Ok(2 * CELL), "{flags:?}");
        assert_eq!(domain.party(2).receive(1 << 16).expect("it arrives"), group(2, &[(buffer, 5)]), "{flags:?}");
        assert_eq!(domain.word(buffer), entry(2, 5), "{flags:?}");
    }
    // Nothing ever reaches the peer of the connection, where no filter would be.
    for party in &domain.parties {
        let peer = Party {
            key: 0,
            socket: party.peer.try_clone().expect("a copy"),
            peer: party.peer.try_clone().expect("a copy"),
        };
        assert!(peer.receive_now().is_empty());
    }
}

#[test]
fn spliced_bytes_are_checked_as_well() {
    require_root!();
    let domain = Domain::new(8);
    let (reader, writer): (_, PipeWriter) = pipe().expect("a pipe");
    let pass = |bytes: &[u8]| {
        write(&writer, bytes).expect("room in the pipe");
        splice(&reader, None, &domain.party(1).socket, None, bytes.len(), SpliceFFlags::empty())
    };
    assert_eq!(pass(&group(2, &[(0, 5), (1, 4)])), Ok(3 * CELL));
    let mut received = Reader::default();
    received.push(&domain.party(2).receive(1 << 16).expect("it arrives"));
    assert_eq!(received.next(), Some((2, vec![(0, 5), (STRUCK_OUT, 4)])));
    assert_eq!((domain.word(0), domain.word(1)), (entry(2, 5), entry(1, 5)));
    assert_eq!(pass(&group(1, &[(2, 5)])), Err(Errno::EPIPE));
    assert_eq!(domain.word(2), entry(1, 5));
}

#[test]
fn a_process_is_who_its_socket_is() {
    require_root!();
    let domain = Domain::new(8);
    domain.give(1, 2, 5);
    let socket = domain.party(3).socket.try_clone().expect("a copy for the child");
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).expect("the child inherits it");
    let mut child = Command::new(env::current_exe().expect("the test's own file"));
    child.args(["--exact", "refusals::forge_from_a_child", "--nocapture"]);
    child.env(SOCKET, socket.as_raw_fd().to_string());
    let child = Process::spawn(&mut child).expect("the child starts");
    let output = child.wait(SOON).expect("the child ends");
    assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("forged"), "{}", output.stdout);

    // Everything the child did is key 3's, whatever it wrote into its groups.
    let of_child = counters(&domain, 3);
    assert_eq!(of_child.refused("not-the-holder"), 2);
    assert_eq!(of_child.refused("nothing-left"), 2);
    assert_eq!(of_child.groups, 0);
    for key in [1, 2] {
        assert_eq!(counters(&domain, key), SkmsgCounters::default(), "key {key}");
    }
    assert_eq!((domain.word(0), domain.word(1)), (entry(1, 5), entry(2, 5)));
}

/// The child of the test above; on its own it has nothing to do.
#[test]
fn forge_from_a_child() {
    let Ok(number) = env::var(SOCKET) else { return };
    let number = number.parse().expect("the number of a descriptor");
    // SAFETY: the parent has put the number of a descriptor there that this process inherited and nothing else uses.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // Buffers of keys 1 and 2, in the name of each of them: in the source of the descriptor, in the reserved words.
    for (destination, buffer, owner) in [(2, 0, 1_u8), (1, 1, 2_u8)] {
        let mut bytes = group(destination, &[(buffer, 5)]);
        bytes[8] = owner;
        bytes[12] = owner;
        bytes[CELL + 10] = owner;
        assert_eq!(send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL), Err(Errno::EPIPE));
    }
    println!("forged");
}
