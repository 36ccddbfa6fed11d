//! Doorbells: an eventfd that only one side holds, seen by the other through an epoll instance; and why not simply shared.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};
use rustix::event::PollFlags;
use rustix::io::ReadWriteFlags;
use shmbc_tests::raw::number;
use shmbc_tests::sockets::{poll_now, wait_until};
use shmbc_tests::suite::Test;
use shmbc_tests::test;

/// The most an eventfd's counter can be.
const FULL: u64 = u64::MAX - 1;

pub(crate) fn facts() -> Vec<Test> {
    vec![
        test("eventfd_when_rung_unread_is_a_new_edge_through_nested_epoll", rung_unread_is_a_new_edge),
        test("eventfd_when_rung_thrice_before_a_look_is_one_edge", rung_thrice_is_one_edge),
        test("eventfd_when_full_refuses_without_blocking_and_without_an_edge", full_refuses_without_blocking),
        test("waiter_when_it_holds_the_epoll_cannot_reach_the_eventfd", waiter_cannot_reach_the_eventfd),
        test("waiter_when_it_hangs_on_more_epolls_is_stopped_and_blocks_nobody", waiter_with_more_epolls_is_stopped),
        test("waiter_when_it_closes_the_epoll_does_not_disturb_the_ringer", waiter_that_closes_disturbs_nobody),
        test("shared_eventfd_when_one_holder_sets_flags_changes_both", shared_eventfd_flags_are_shared),
        test("shared_eventfd_when_made_blocking_and_filled_blocks_the_other", shared_eventfd_blocks_the_other),
        test("eventfd_when_written_with_nowait_is_not_supported", eventfd_nowait_is_not_supported),
    ]
}

fn eventfd() -> OwnedFd {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).expect("eventfd").into()
}

fn epoll_on(fd: &impl AsFd) -> Result<Epoll, Errno> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    Ok(epoll)
}

/// An eventfd, the epoll instance its waiter gets, and the waiter's reactor.
fn doorbell() -> (OwnedFd, Epoll, Epoll) {
    let event = eventfd();
    let waiter = epoll_on(&event).expect("epoll on an eventfd");
    let reactor = epoll_on(&waiter.0).expect("epoll on an epoll");
    (event, waiter, reactor)
}

fn ring(event: &OwnedFd) -> Result<usize, Errno> {
    write(event, &1_u64.to_ne_bytes())
}

fn edges(reactor: &Epoll) -> usize {
    reactor.wait(&mut [EpollEvent::empty(); 4], EpollTimeout::ZERO).expect("epoll_wait")
}

fn flags(fd: &OwnedFd) -> OFlag {
    OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).expect("F_GETFL"))
}

fn rung_unread_is_a_new_edge() {
    let (event, _waiter, reactor) = doorbell();
    assert_eq!(edges(&reactor), 0);
    for _ in 0..100 {
        ring(&event).unwrap();
        assert_eq!(edges(&reactor), 1);
        assert_eq!(edges(&reactor), 0, "and only one");
    }
}

fn rung_thrice_is_one_edge() {
    let (event, _waiter, reactor) = doorbell();
    for _ in 0..3 {
        ring(&event).unwrap();
    }
    assert_eq!((edges(&reactor), edges(&reactor)), (1, 0));
}

fn full_refuses_without_blocking() {
    let (event, _waiter, reactor) = doorbell();
    write(&event, &FULL.to_ne_bytes()).unwrap();
    assert_eq!(edges(&reactor), 1);
    assert_eq!(ring(&event), Err(Errno::EAGAIN));
    assert_eq!(edges(&reactor), 0);
    assert_eq!(write(&event, &u64::MAX.to_ne_bytes()), Err(Errno::EINVAL));
}

fn waiter_cannot_reach_the_eventfd() {
    let (event, waiter, _reactor) = doorbell();
    fcntl(&waiter.0, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    assert!(flags(&event).contains(OFlag::O_NONBLOCK), "the flags of the epoll are its own");
    assert_eq!(write(&waiter.0, &FULL.to_ne_bytes()), Err(Errno::EINVAL));
    // Nor does /proc open what the epoll watches.
    let path = format!("/proc/self/fd/{}", number(&waiter.0));
    let error = std::fs::File::open(path).unwrap_err().raw_os_error();
    // Which of the two depends on who asks: the file behind it belongs to root.
    assert!(matches!(error, Some(libc::ENXIO | libc::EACCES)), "{error:?}");
    // What it holds under the same number is another file, and so not what the epoll knows.
    let other = eventfd();
    assert_eq!(waiter.delete(&other), Err(Errno::ENOENT));
    assert_eq!(ring(&event), Ok(8));
}

fn waiter_with_more_epolls_is_stopped() {
    let (event, waiter, reactor) = doorbell();
    let mut hung = Vec::new();
    let refused = loop {
        match epoll_on(&waiter.0) {
            Ok(epoll) => hung.push(epoll),
            Err(error) => break error,
        }
        assert!(hung.len() <= 1000, "the kernel stops this");
    };
    // 500 at this depth, one of them the reactor; a descriptor limit may come first.
    assert!(matches!(refused, Errno::EINVAL | Errno::EMFILE), "{refused} after {}", hung.len());
    assert_eq!(ring(&event), Ok(8));
    assert_eq!(edges(&reactor), 1);
    assert!(hung.iter().all(|epoll| edges(epoll) == 1));
}

fn waiter_that_closes_disturbs_nobody() {
    let (event, waiter, reactor) = doorbell();
    drop((waiter, reactor));
    assert_eq!(ring(&event), Ok(8));
}

fn shared_eventfd_flags_are_shared() {
    let victim = eventfd();
    let peer = victim.try_clone().unwrap();
    fcntl(&peer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    assert!(!flags(&victim).contains(OFlag::O_NONBLOCK));
}

fn shared_eventfd_blocks_the_other() {
    let victim = eventfd();
    let peer = victim.try_clone().unwrap();
    fcntl(&peer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    write(&peer, &FULL.to_ne_bytes()).unwrap();
    assert!(!poll_now(&victim).contains(PollFlags::OUT));
    let thread = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let rings = scope.spawn(|| {
            thread.store(nix::unistd::gettid().as_raw() as u64, Ordering::SeqCst);
            ring(&victim)
        });
        // After it has said who it is it does nothing but write: asleep means asleep in write.
        wait_until("the ring blocks", || {
            let id = thread.load(Ordering::SeqCst);
            let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat"));
            id != 0 && stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S")))
        });
        assert!(!rings.is_finished());
        let mut counted = [0; 8];
        read(&peer, &mut counted).unwrap();
        assert_eq!(u64::from_ne_bytes(counted), FULL);
        assert_eq!(rings.join().unwrap(), Ok(8));
    });
}

fn eventfd_nowait_is_not_supported() {
    let event = eventfd();
    let error = rustix::io::pwritev2(&event, &[IoSlice::new(&1_u64.to_ne_bytes())], u64::MAX, ReadWriteFlags::NOWAIT);
    assert_eq!(error, Err(rustix::io::Errno::OPNOTSUPP));
}
