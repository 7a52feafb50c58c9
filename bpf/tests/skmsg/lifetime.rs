//! What goes when: sockets, programs, the process that loaded them.

use std::env;
use std::fs;
use std::mem;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use libbpf_rs::query::ProgInfoIter;
use middlenet_bpf::{Error, Filter, KeySet, Skmsg, entry, socket_pair};
use middlenet_tests::{Process, require_root, wait_until};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use super::SOON;
use super::domain::{Domain, Party, group};

/// Set for the child of `a_killed_loader_leaves_nothing`: the numbers of four descriptors.
const SOCKETS: &str = "MIDDLENET_TEST_PARTIES";

fn is_loaded(id: u32) -> bool {
    ProgInfoIter::default().any(|program| program.id == id)
}

#[test]
fn dropping_it_removes_the_parties_and_the_program() {
    require_root!();
    let Domain { skmsg, parties } = Domain::new(8);
    let id = skmsg.program_id();
    assert_ne!(id, 0);
    assert!(is_loaded(id));
    let ledger = skmsg.ledger().clone();
    drop(skmsg);
    wait_until("the end of the program", SOON, || !is_loaded(id)).expect("the kernel frees it");
    // Ordinary sockets again.
    parties[0].send(b"to the peer").expect("an open connection");
    let peer = Party {
        key: 0,
        socket: parties[0].peer.try_clone().expect("a copy"),
        peer: parties[0].peer.try_clone().expect("a copy"),
    };
    assert_eq!(peer.receive(100).expect("it arrives"), b"to the peer");
    assert_eq!(ledger.words().len(), 8);
    assert_eq!(
        ledger.words()[0].load(std::sync::atomic::Ordering::Acquire),
        entry(1, 5),
        "its memory outlives the program"
    );
}

#[test]
fn a_key_is_free_when_its_socket_is_closed_or_removed() {
    require_root!();
    let mut domain = Domain::new(8);
    assert!(domain.skmsg.has_socket(3) && !domain.skmsg.has_socket(4));
    drop(domain.parties.pop());
    assert!(!domain.skmsg.has_socket(3), "the kernel forgets what is closed");
    domain.skmsg.remove(3).expect("gone already is no error");
    domain.skmsg.remove(200).expect("never there is no error");

    // A new socket takes the place of the one there.
    let again = Party::enter(&domain.skmsg, 2, &[1]);
    domain.party(1).send(&group(2, &[(0, 5)])).expect("key 2 is there");
    assert_eq!(again.receive(100).expect("it arrives"), group(2, &[(0, 5)]));
    again.send(&group(1, &[(0, 5)])).expect("the new one is key 2");
    assert_eq!(domain.party(1).receive(100).expect("it arrives"), group(1, &[(0, 5)]));
}

#[test]
fn a_party_hears_when_the_broker_closes() {
    require_root!();
    let Domain { skmsg, mut parties } = Domain::new(8);
    let mut party = parties.remove(1);
    parties[0].send(&group(2, &[(0, 5)])).expect("it passes");
    let copy = party.socket.try_clone().expect("a copy");
    drop(mem::replace(&mut party.peer, copy));
    assert_eq!(party.receive(1 << 12), Ok(group(2, &[(0, 5)])), "what was passed is read first");
    assert_eq!(party.receive(1 << 12), Ok(Vec::new()), "then comes the end");
    assert!(skmsg.has_socket(2), "until it closes its own end");
}

#[test]
fn what_is_no_established_connection_is_refused() {
    require_root!();
    let skmsg = Skmsg::load(8, Filter::Checked).expect("the program loads");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let (unix, _peer) = UnixStream::pair().expect("a pair");
    let (closing, peer) = socket_pair().expect("a connection");
    drop(peer);
    for socket in [listener.as_fd(), udp.as_fd(), reader.as_fd(), unix.as_fd(), closing.as_fd()] {
        let refused = skmsg.enter(1, socket).err();
        assert!(matches!(refused, Some(Error::Sockmap { key: 1, .. })), "{refused:?}");
    }
    assert!(!skmsg.has_socket(1));
}

#[test]
fn a_killed_loader_leaves_nothing() {
    require_root!();
    let (pairs, numbers): (Vec<_>, Vec<_>) = [1, 2]
        .map(|_| {
            let (socket, peer) = socket_pair().expect("a connection");
            for end in [&socket, &peer] {
                fcntl(end, FcntlArg::F_SETFD(FdFlag::empty())).expect("the child inherits it");
            }
            let numbers = format!("{},{}", socket.as_raw_fd(), peer.as_raw_fd());
            ((socket, peer), numbers)
        })
        .into_iter()
        .unzip();
    let mut child = Command::new(env::current_exe().expect("the test's own file"));
    child.args(["--exact", "lifetime::load_until_killed", "--nocapture"]).env(SOCKETS, numbers.join(","));
    let mut child = Process::spawn(&mut child).expect("the child starts");
    // The peers are the child's alone, as a broker's are.
    let [a, b] = pairs.try_into().map(|pairs: [_; 2]| pairs.map(|(socket, _)| socket)).expect("two pairs");
    let party = |key, socket: OwnedFd| {
        let peer = socket.try_clone().expect("a copy");
        Party { key, socket, peer }
    };
    let (a, b) = (party(1, a), party(2, b));
    child.wait_for_output("loaded as ", SOON).expect("the child loads");
    let id = child.stdout().lines().find_map(|line| line.split("loaded as ").nth(1)?.parse().ok()).expect("an id");
    a.send(&group(2, &[(0, 0)])).expect("it passes");
    assert_eq!(b.receive(100).expect("it arrives"), group(2, &[(0, 0)]));

    child.signal(Signal::SIGKILL);
    wait_until("the end of the child", SOON, || !child.is_running()).expect("SIGKILL ends it");
    // The parties are told, and what they send is still checked as long as they keep their sockets.
    assert_eq!(a.receive(100), Ok(Vec::new()));
    assert_eq!(b.receive(100), Ok(Vec::new()));
    assert!(is_loaded(id));
    a.send(&group(2, &[(1, 0)])).expect("key 1 holds it");
    assert_eq!(a.send(&group(2, &[(1, 0)])), Err(Errno::EACCES));
    drop((a, b));
    wait_until("the end of the program", SOON, || !is_loaded(id)).expect("the kernel frees it");
}

/// The child of the test above; on its own it has nothing to do.
#[test]
fn load_until_killed() {
    let Ok(numbers) = env::var(SOCKETS) else { return };
    let sockets: Vec<OwnedFd> = numbers
        .split(',')
        .map(|number| {
            let number = number.parse().expect("the number of a descriptor");
            // SAFETY: the parent has put the numbers of descriptors there that this process inherited and nothing else uses.
            unsafe { OwnedFd::from_raw_fd(number) }
        })
        .collect();
    let skmsg = Skmsg::load(8, Filter::Checked).expect("the program loads");
    skmsg.enter(1, sockets[0].as_fd()).expect("an established connection");
    skmsg.enter(2, sockets[2].as_fd()).expect("an established connection");
    skmsg.set_edges(1, &KeySet::from_iter([2])).expect("edges");
    skmsg.ledger().words().iter().for_each(|word| word.store(entry(1, 0), std::sync::atomic::Ordering::Release));
    println!("loaded as {}", skmsg.program_id());
    thread::sleep(Duration::from_secs(60));
}

/// Set for the child of `who_may_not_load_is_told_so`: what it should hear.
const EXPECTED: &str = "MIDDLENET_TEST_EXPECTED";

#[test]
fn who_may_not_load_is_told_so() {
    require_root!();
    for (capabilities, expected) in
        [("", "not permitted"), ("+bpf,+net_admin", "prohibited for !root"), ("+bpf,+net_admin,+perfmon", "loaded")]
    {
        let mut child = Command::new("setpriv");
        child.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        if !capabilities.is_empty() {
            child.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]);
        }
        // The test's own file may lie where that user does not see it.
        let exe = fs::File::open("/proc/self/exe").expect("the test's own file");
        fcntl(&exe, FcntlArg::F_SETFD(FdFlag::empty())).expect("the child inherits it");
        child.arg(format!("/proc/self/fd/{}", exe.as_raw_fd()));
        child.args(["--exact", "lifetime::try_to_load", "--nocapture"]).env(EXPECTED, expected);
        let output = Process::spawn(&mut child).expect("the child starts").wait(SOON).expect("the child ends");
        assert!(output.status.success(), "{capabilities}: {}{}", output.stdout, output.stderr);
        assert!(output.stdout.contains("as expected"), "{capabilities}: {}", output.stdout);
    }
}

/// The child of the test above; on its own it has nothing to do.
#[test]
fn try_to_load() {
    let Ok(expected) = env::var(EXPECTED) else { return };
    let outcome = Skmsg::load(8, Filter::Checked).map_or_else(|error| error.to_string(), |_| "loaded".to_owned());
    assert!(outcome.contains(&expected), "{expected} was expected: {outcome}");
    println!("as expected");
}
