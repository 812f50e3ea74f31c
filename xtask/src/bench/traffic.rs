//! One TCP stream, or a flood of short UDP frames, from one network namespace to another.
use std::fs::{self, File};
use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};

use super::lab::thread_cpu;

const PORT: u16 = 5201;
/// A frame of 64 bytes with its FCS, less Ethernet, IPv4 and UDP.
const PAYLOAD: usize = 18;
/// Frames in one call.
const BURST: usize = 64;
/// How much a program would read or write at once.
const CHUNK: usize = 256 << 10;

/// What was moved, and what it took.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Bytes of a stream, or frames.
    pub amount: u64,
    pub wall: Duration,
    /// Of sender, receiver, and the kernel's threads for what is left over.
    pub cpu: Duration,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// A namespace of `ip netns`.
    pub from: &'a str,
    /// Another.
    pub to: &'a str,
    /// The other's address.
    pub address: Ipv4Addr,
}

fn enter(netns: &str) -> Result<()> {
    let path = Path::new("/run/netns").join(netns);
    let netns = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))
}

/// Does it on a thread of its own, in a namespace.
fn within<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let there = || enter(netns).and_then(|()| work());
    thread::scope(|scope| scope.spawn(there).join()).map_err(|_| anyhow!("the thread in {netns} panicked"))?
}

/// As many bytes as one stream takes in that time.
pub fn stream(route: Route<'_>, time: Duration) -> Result<Moved> {
    let before = softirq_cpu()?;
    let listener = within(route.to, || TcpListener::bind((route.address, PORT)).context("listening"))?;
    let receive = || -> Result<(u64, Instant, Duration)> {
        let (mut stream, _) = listener.accept().context("accepting")?;
        let (mut buffer, mut amount) = (vec![0; CHUNK], 0);
        loop {
            match stream.read(&mut buffer).context("receiving")? {
                0 => return Ok((amount, Instant::now(), thread_cpu()?)),
                count => amount += count as u64,
            }
        }
    };
    let send = || -> Result<(Instant, Duration)> {
        enter(route.from)?;
        let patience = Duration::from_secs(5);
        let mut stream =
            TcpStream::connect_timeout(&(route.address, PORT).into(), patience).context("connecting")?;
        let (chunk, begun) = (vec![0; CHUNK], Instant::now());
        while begun.elapsed() < time {
            stream.write_all(&chunk).context("writing")?;
        }
        drop(stream);
        Ok((begun, thread_cpu()?))
    };
    let (near, far) = thread::scope(|scope| {
        let near = scope.spawn(send);
        let far = scope.spawn(receive);
        let near = near.join();
        // It would wait for ever for one that could not connect.
        if !matches!(near, Ok(Ok(_))) {
            let _ = within(route.to, || TcpStream::connect((route.address, PORT)).context("unblocking"));
        }
        (near, far.join())
    });
    let (begun, writing) = near.map_err(|_| anyhow!("the thread that sends panicked"))??;
    let (amount, ended, reading) = far.map_err(|_| anyhow!("the thread that receives panicked"))??;
    let kernel = softirq_cpu()?.saturating_sub(before);
    Ok(Moved { amount, wall: ended.saturating_duration_since(begun), cpu: writing + reading + kernel })
}

/// As many frames as one thread sends in that time. Nobody reads them: all the work is the sender's.
pub fn flood(route: Route<'_>, time: Duration) -> Result<Moved> {
    let before = softirq_cpu()?;
    let _receiver = within(route.to, || UdpSocket::bind((route.address, PORT)).context("a receiver"))?;
    let (amount, wall, cpu) = within(route.from, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("a sender")?;
        socket.connect((route.address, PORT)).context("connecting")?;
        // Before that it waits for ARP.
        socket.send(&[0; PAYLOAD]).context("sending")?;
        thread::sleep(Duration::from_millis(20));
        let (payload, mut sent) = ([0; PAYLOAD], 0);
        let slices = [[IoSlice::new(&payload)]; BURST];
        let mut headers = MultiHeaders::<()>::preallocate(BURST, None);
        let (begun, used) = (Instant::now(), thread_cpu()?);
        while begun.elapsed() < time {
            match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, [None; BURST], [], MsgFlags::empty()) {
                Ok(results) => sent += results.count() as u64,
                Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("sending"),
            }
        }
        Ok((sent, begun.elapsed(), thread_cpu()?.saturating_sub(used)))
    })?;
    Ok(Moved { amount, wall, cpu: cpu + softirq_cpu()?.saturating_sub(before) })
}

/// What the kernel's threads for softirqs have had: what the others are not charged for.
fn softirq_cpu() -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let path = entry.path();
        // One that has just ended is none of these.
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            let text = fs::read_to_string(path.join("schedstat")).context("reading schedstat")?;
            let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
            sum += Duration::from_nanos(nanoseconds.context("schedstat has no number")?);
        }
    }
    Ok(sum)
}
