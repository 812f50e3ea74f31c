//! Frames made by hand, as a hostile container can send them.
use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
};

use super::look::{Look, Place};

/// Runs `f` in the network of `place`.
#[track_caller]
pub fn within<T: Send>(place: &Place, f: impl FnOnce() -> T + Send) -> T {
    let path = match place {
        Place::Host => return f(),
        Place::Named(path) => path.clone(),
        Place::Process(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
    };
    let netns = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
            f()
        });
        inside.join().expect("no panic in there")
    })
}

/// Sends frames past the qdisc, and so past TCX.
#[track_caller]
pub fn bypass_the_qdisc(place: &Place, netdev: &str, count: usize) {
    let look = Look::at(place, netdev).unwrap_or_else(|| panic!("no {netdev}"));
    let own: Vec<u8> =
        look.mac.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("an octet")).collect();
    // To a MAC that nobody has, of a type for experiments (IEEE 802).
    let frame = [&[2, 0xfa, 0, 0, 0, 0xfe], own.as_slice(), &[0x88, 0xb5], &[0x55; 50]].concat();
    within(place, || {
        let ifindex = nix::net::if_::if_nametoindex(netdev).expect("its number");
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
        // SAFETY: just opened.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let on: libc::c_int = 1;
        // SAFETY: the value lives as long as the call, and its size is right.
        let set = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_PACKET,
                libc::PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                libc::socklen_t::try_from(mem::size_of_val(&on)).expect("a size"),
            )
        };
        assert_eq!(set, 0, "PACKET_QDISC_BYPASS: {}", io::Error::last_os_error());
        // SAFETY: all zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("a family");
        address.sll_ifindex = i32::try_from(ifindex).expect("a number");
        for _ in 0..count {
            // SAFETY: frame and address live as long as the call, and their sizes are right.
            let length = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const address).cast(),
                    libc::socklen_t::try_from(mem::size_of_val(&address)).expect("a size"),
                )
            };
            assert_eq!(usize::try_from(length).ok(), Some(frame.len()), "{}", io::Error::last_os_error());
        }
    });
}
