//! Regions: their pages, their seals, their buffers, and handing them over.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use middlenet_shm::{
    Buffers, Descriptor, HUGE_PAGE_BYTES, MAX_FDS, Pages, Region, ShmError, receive, send, socket_pair,
};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

fn huge_pages(what: &str) -> usize {
    std::fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{what}"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn available_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Everything that must hold of a region, whatever its pages.
fn check(region: &Region) {
    assert_eq!(ftruncate(region.fd(), 0), Err(Errno::EPERM));
    assert_eq!(ftruncate(region.fd(), region.length() as i64 * 2), Err(Errno::EPERM));
    let grow = fallocate(region.fd(), FallocateFlags::empty(), region.length() as i64, region.page_bytes() as i64);
    assert_eq!(grow, Err(Errno::EPERM));
    assert_eq!(fcntl(region.fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));

    let peer = Region::open(region.fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!((peer.length(), peer.page_bytes()), (region.length(), region.page_bytes()));
    assert_ne!(peer.as_ptr(), region.as_ptr());
    for at in [0, region.length() / 2, region.length() - 1] {
        // SAFETY: in both mappings, and no other thread knows of them.
        unsafe {
            assert_eq!(region.as_ptr().add(at).read(), 0, "zeroed");
            region.as_ptr().add(at).write(at as u8 | 1);
            assert_eq!(peer.as_ptr().add(at).read(), at as u8 | 1);
        }
    }
}

#[test]
fn a_region_of_small_pages_is_shared_and_sealed() {
    let region = Region::create("small", 10_000, Pages::Small).unwrap();
    assert_eq!((region.length(), region.page_bytes()), (12_288, 4096));
    check(&region);
}

#[test]
fn a_region_of_huge_pages_is_shared_and_sealed() {
    match Region::create("huge", HUGE_PAGE_BYTES + 1, Pages::Huge) {
        Ok(region) => {
            assert_eq!((region.length(), region.page_bytes()), (2 * HUGE_PAGE_BYTES, HUGE_PAGE_BYTES));
            check(&region);
        }
        Err(error) => {
            assert!(huge_pages("free_hugepages") < 2, "{error}");
            eprintln!("SKIPPED: this host has no two free huge pages");
        }
    }
}

#[test]
fn auto_takes_huge_pages_only_when_it_can_fill_them() {
    assert_eq!(Region::create("little", 100_000, Pages::Auto).unwrap().page_bytes(), 4096);
    let large = Region::create("large", 2 * HUGE_PAGE_BYTES, Pages::Auto).unwrap();
    check(&large);
    if large.page_bytes() != HUGE_PAGE_BYTES {
        assert!(huge_pages("free_hugepages") < 2);
    }
}

#[test]
fn more_huge_pages_than_the_host_has_is_an_error_and_auto_does_without() {
    // Of all pages and not of the free ones: others may free some meanwhile.
    let bytes = (huge_pages("nr_hugepages") + huge_pages("nr_overcommit_hugepages") + 1) * HUGE_PAGE_BYTES;
    assert!(matches!(Region::create("huge", bytes, Pages::Huge), Err(ShmError::HugePages { .. })));
    if bytes < available_bytes() / 4 {
        assert_eq!(Region::create("auto", bytes, Pages::Auto).unwrap().page_bytes(), 4096);
    } else {
        eprintln!("SKIPPED: too little memory to do without {bytes} bytes of huge pages");
    }
}

#[test]
fn what_is_not_a_sealed_memfd_is_refused() {
    let unsealed = memfd_create(c"unsealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&unsealed, 4096).unwrap();
    assert!(matches!(Region::open(unsealed), Err(ShmError::NotSealed(0))));

    let may_shrink = memfd_create(c"may-shrink", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&may_shrink, 4096).unwrap();
    fcntl(&may_shrink, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL)).unwrap();
    assert!(matches!(Region::open(may_shrink), Err(ShmError::NotSealed(_))));

    let empty = memfd_create(c"empty", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let all = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&empty, FcntlArg::F_ADD_SEALS(all)).unwrap();
    assert!(matches!(Region::open(empty), Err(ShmError::Empty)));

    let file: OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
    assert!(matches!(Region::open(file), Err(ShmError::NotMemory(_))));
    assert!(matches!(Region::create("none", 0, Pages::Auto), Err(ShmError::Empty)));
}

#[test]
fn buffers_give_the_packet_and_nothing_beyond_its_buffer() {
    let region = Arc::new(Region::create("packets", 5 * 4096, Pages::Small).unwrap());
    assert!(matches!(Buffers::new(region.clone(), 1024), Err(ShmError::BufferBytes(1024))));
    let buffers = Buffers::new(region, 2048).unwrap();
    assert_eq!((buffers.count(), buffers.buffer_bytes()), (10, 2048));

    let mut d = Descriptor { index: 9, offset: 128, length: 1920, ..Descriptor::default() };
    buffers.bytes_mut(&mut d).fill(7);
    assert_eq!(buffers.bytes(&d), [7; 1920]);
    let room = buffers.room_mut(&mut d);
    assert_eq!((room.len(), room[127], room[128]), (2048, 0, 7));
    let before = Descriptor { index: 8, offset: 0, length: 2048, ..d };
    assert_eq!(buffers.bytes(&before), [0; 2048], "the neighbour is untouched");

    for (index, offset, length) in
        [(10, 0, 1), (u32::MAX, 0, 0), (0, 129, 1920), (0, 2048, 1), (0, 0, 2049), (0, u16::MAX, u16::MAX)]
    {
        let mut d = Descriptor { index, offset, length, ..Descriptor::default() };
        assert!(!buffers.fits(&d), "{d:?}");
        assert!(buffers.bytes(&d).is_empty());
        assert!(buffers.bytes_mut(&mut d).is_empty());
        assert_eq!(buffers.room_mut(&mut d).len(), if index == 0 { 2048 } else { 0 });
        buffers.prefetch(&d);
    }
    assert!(buffers.fits(&Descriptor { index: 9, offset: 2048, length: 0, ..Descriptor::default() }));
}

#[test]
fn file_descriptors_arrive_with_their_message() {
    let (ours, theirs) = socket_pair().unwrap();
    let region = Region::create("passed", 4096, Pages::Small).unwrap();
    send(ours.as_fd(), b"take this", &[region.fd(), region.fd()]).unwrap();
    send(ours.as_fd(), b"and this", &[]).unwrap();
    let (bytes, mut fds) = receive(theirs.as_fd(), 100).unwrap();
    assert_eq!((&bytes[..], fds.len()), (&b"take this"[..], 2));
    let passed = Region::open(fds.pop().unwrap()).unwrap();
    // SAFETY: one byte in mappings that no other thread knows of.
    unsafe {
        passed.as_ptr().write(42);
        assert_eq!(region.as_ptr().read(), 42);
    }
    assert_eq!(fcntl(&fds[0], FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    let (bytes, fds) = receive(theirs.as_fd(), 100).unwrap();
    assert_eq!((&bytes[..], fds.len()), (&b"and this"[..], 0));
    drop(ours);
    assert_eq!(receive(theirs.as_fd(), 100).unwrap().0, b"", "the end");
    assert_eq!(send(theirs.as_fd(), b"x", &[]).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn a_message_that_does_not_fit_is_an_error_and_leaks_nothing() {
    let (ours, theirs) = socket_pair().unwrap();
    let many = vec![ours.as_fd(); MAX_FDS + 1];
    assert!(send(ours.as_fd(), b"x", &many).is_err());
    assert!(send(ours.as_fd(), b"", &[]).is_err(), "would look like the end");

    // A pipe whose write end only the message holds: when the message is refused, the write end must be closed.
    let (reader, writer) = std::io::pipe().unwrap();
    send(ours.as_fd(), b"0123456789", &[writer.as_fd()]).unwrap();
    drop(writer);
    assert_eq!(receive(theirs.as_fd(), 5).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(std::io::read_to_string(reader).unwrap(), "", "ends only when no write end is left");

    send(ours.as_fd(), b"x", &many[..MAX_FDS]).unwrap();
    assert_eq!(receive(theirs.as_fd(), 1).unwrap().1.len(), MAX_FDS);

    // More descriptors than there is room for, from a peer that does not use our `send`.
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let raw: Vec<i32> = many.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let bytes = [std::io::IoSlice::new(b"x")];
    sendmsg::<()>(ours.as_raw_fd(), &bytes, &control, MsgFlags::empty(), None).unwrap();
    assert_eq!(receive(theirs.as_fd(), 1).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}
