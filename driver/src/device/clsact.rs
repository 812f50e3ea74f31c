//! Programs that a filter at a clsact qdisc runs: how frames are counted where the kernel has no TCX.
//!
//! Qdisc and filters do not survive a move, and `NET_ADMIN` in the netdev's namespace is enough to take them
//! off or to put others first. So they are looked at again and again, and put back.
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption, TcU32OptionFlags},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{
    Rtnl,
    netlink::{Raw, attributes},
    rtnl::Result,
};

/// The least that the kernel takes: nothing runs before it but what is put to it.
const PREFERENCE: u32 = 1;
const HANDLE: u32 = 1;
/// In the kernel's byte order: all protocols.
const PROTOCOL: u16 = 0x0003_u16.to_be();
const KIND: &str = "bpf";
const NAME: &str = "docker-passthrough";

/// So many filters at our preference are listed. A container may make any number.
const LISTED: usize = 16;
/// So many netdevs of a container are looked at for our filter.
const LOOKED_AT: usize = 64;

const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;

/// Which frames a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received ones.
    Ingress,
    /// Sent ones.
    Egress,
}

impl Direction {
    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }
}

/// A program that is to see a netdev's frames before all other filters.
#[derive(Debug)]
pub struct Filter {
    /// Which frames.
    pub direction: Direction,
    /// The program.
    pub program: OwnedFd,
    /// Its id.
    pub id: u32,
}

impl Rtnl {
    /// Makes the filters the first at the netdev's clsact qdisc, and answers whether they had not been. At
    /// the worst with a new qdisc, without the filters of others that stand in the way. To be called once
    /// on a socket in a container's namespace.
    pub async fn attach_filters(&self, ifindex: u32, filters: &[Filter]) -> Result<bool> {
        if self.are_first(ifindex, filters).await.unwrap_or(false) {
            return Ok(false);
        }
        let gently = async {
            let fresh = self.add_clsact(ifindex).await?;
            for filter in filters {
                if fresh {
                    self.add_filter(ifindex, filter).await?;
                    continue;
                }
                let is_first = || self.is_first(ifindex, filter.direction, filter.id);
                if is_first().await? {
                    continue;
                }
                // An older program of ours is replaced where it stands, and misses nothing.
                self.add_filter(ifindex, filter).await?;
                if !is_first().await? {
                    // Anew, it is the first of its preference.
                    self.delete_filter(ifindex, filter.direction).await?;
                    self.add_filter(ifindex, filter).await?;
                }
            }
            Ok(fresh || self.are_first(ifindex, filters).await?)
        };
        let put: Result<bool> = gently.await;
        if !put.unwrap_or(false) {
            // Another kind of filter has the preference, or the qdisc's filters are shared, or it is no
            // clsact qdisc: whatever it is, it is in the way.
            self.delete_clsact(ifindex).await?;
            self.add_clsact(ifindex).await?;
            for filter in filters {
                self.add_filter(ifindex, filter).await?;
            }
        }
        Ok(true)
    }

    /// Takes the filters off again, and leaves what else is there.
    pub async fn detach_filters(&self, ifindex: u32, filters: &[Filter]) -> Result<()> {
        for filter in filters {
            if self.is_first(ifindex, filter.direction, filter.id).await? {
                self.delete_filter(ifindex, filter.direction).await?;
            }
        }
        Ok(())
    }

    /// Which netdev of this namespace has the filter: more likely `guess` than another.
    pub async fn filtered(
        &self,
        direction: Direction,
        program: u32,
        guess: Option<u32>,
    ) -> Result<Option<u32>> {
        let links = self.links().await?.into_iter().filter(|link| !link.loopback);
        let others = links.map(|link| link.ifindex).filter(|ifindex| Some(*ifindex) != guess).take(LOOKED_AT);
        for ifindex in guess.into_iter().chain(others) {
            if self.is_first(ifindex, direction, program).await? {
                return Ok(Some(ifindex));
            }
        }
        Ok(None)
    }

    async fn are_first(&self, ifindex: u32, filters: &[Filter]) -> Result<bool> {
        for filter in filters {
            if !self.is_first(ifindex, filter.direction, filter.id).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether nothing sees frames before this program.
    async fn is_first(&self, ifindex: u32, direction: Direction, program: u32) -> Result<bool> {
        let what = format!("reading the filters of netdev {ifindex}");
        let message = RouteNetlinkMessage::GetTrafficFilter(first_of(ifindex, direction));
        match self.raw().ask_some(&what, message, NLM_F_DUMP, LISTED).await {
            Ok(found) => Ok(leads(&found, program)),
            // No such netdev, or a qdisc that has no filters.
            Err(error) if error.is_not_found() || error.errno() == Some(nix::libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Answers whether there was no such qdisc.
    async fn add_clsact(&self, ifindex: u32) -> Result<bool> {
        let mut message = TcMessage::with_index(ifindex.cast_signed());
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        message.attributes.push(TcAttribute::Kind("clsact".into()));
        let what = format!("adding a clsact qdisc to netdev {ifindex}, as this kernel has no TCX");
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        match self.raw().ask(&what, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).await {
            // Of whatever kind it is.
            Err(error) if error.is_exists() => Ok(false),
            added => added.map(|_| true),
        }
    }

    async fn delete_clsact(&self, ifindex: u32) -> Result<()> {
        let mut message = TcMessage::with_index(ifindex.cast_signed());
        message.header.parent = TcHandle::CLSACT;
        let what = format!("removing the qdisc of others from netdev {ifindex}");
        let message = RouteNetlinkMessage::DelQueueDiscipline(message);
        match self.raw().ask(&what, message, NLM_F_ACK).await {
            // There is none.
            Err(error) if error.is_not_found() || error.errno() == Some(nix::libc::EINVAL) => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    async fn add_filter(&self, ifindex: u32, filter: &Filter) -> Result<()> {
        let mut message = about(ifindex, filter.direction);
        message.header.handle = HANDLE.into();
        let options = [
            TcFilterBpfOption::ProgFd(filter.program.as_raw_fd().cast_unsigned()),
            TcFilterBpfOption::ProgName(NAME.into()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
            TcFilterBpfOption::FlagsGeneric(TcU32OptionFlags::SkipHw),
        ];
        message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).to_vec()));
        let what = format!("attaching the counters to netdev {ifindex} by clsact, as this kernel has no TCX");
        let message = RouteNetlinkMessage::NewTrafficFilter(message);
        self.raw().ask(&what, message, NLM_F_ACK | NLM_F_CREATE).await.map(drop)
    }

    async fn delete_filter(&self, ifindex: u32, direction: Direction) -> Result<()> {
        let mut message = about(ifindex, direction);
        message.header.handle = HANDLE.into();
        let what = format!("removing a filter from netdev {ifindex}");
        self.raw().ask(&what, RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK).await.map(drop)
    }
}

/// Which netdev of the calling thread's namespace has the filter, more likely `guess` than another; blocks.
pub fn filtered_here(direction: Direction, program: u32, guess: Option<u32>) -> io::Result<Option<u32>> {
    let raw = Raw::on(Socket::new(NETLINK_ROUTE)?)?;
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let links = raw.ask_here(all, NLM_F_DUMP, usize::MAX)?;
    let numbers = links.iter().filter_map(|link| link.get(4..)?.first_chunk().copied());
    let others = numbers.map(u32::from_ne_bytes).filter(|ifindex| Some(*ifindex) != guess).take(LOOKED_AT);
    for ifindex in guess.into_iter().chain(others) {
        let message = RouteNetlinkMessage::GetTrafficFilter(first_of(ifindex, direction));
        // An error: none are there.
        let found = raw.ask_here(message, NLM_F_DUMP, LISTED).unwrap_or_default();
        if leads(&found, program) {
            return Ok(Some(ifindex));
        }
    }
    Ok(None)
}

/// Asks for the filters that see frames first, of all protocols.
fn first_of(ifindex: u32, direction: Direction) -> TcMessage {
    let mut message = about(ifindex, direction);
    message.header.info = PREFERENCE << 16;
    message
}

/// A message about filters of our preference, protocol and kind.
fn about(ifindex: u32, direction: Direction) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = direction.parent();
    message.header.info = PREFERENCE << 16 | u32::from(PROTOCOL);
    message.attributes.extend([TcAttribute::Kind(KIND.into()), TcAttribute::Chain(0)]);
    message
}

/// Whether the first filter of a listing has this program. What a container called the others may be no
/// text, so that the crate could not read it.
fn leads(listing: &[Vec<u8>], program: u32) -> bool {
    for body in listing {
        let word = |at: usize| body.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        let within = |wanted: u16, rest| attributes(rest).find(|(kind, _)| *kind == wanted);
        let rest = body.get(TCMSG..).unwrap_or_default();
        let kind = within(TCA_KIND, rest).is_some_and(|(_, kind)| kind == b"bpf\0");
        if !kind || word(16) != Some(PREFERENCE << 16 | u32::from(PROTOCOL)) {
            return false;
        }
        // The head of the list has no handle of its own.
        if word(8) != Some(0) {
            let id = within(TCA_OPTIONS, rest).and_then(|(_, options)| within(TCA_BPF_ID, options));
            return id.is_some_and(|(_, id)| id == program.to_ne_bytes());
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::raw::tests::attribute;

    fn message(handle: u32, protocol: u16, kind: &[u8], program: u32) -> Vec<u8> {
        let info = PREFERENCE << 16 | u32::from(protocol.to_be());
        let header = [0, 7, handle, 0, info].map(u32::to_ne_bytes).concat();
        let id = attribute(TCA_BPF_ID, &program.to_ne_bytes());
        [header, attribute(TCA_KIND, kind), attribute(TCA_OPTIONS, &id)].concat()
    }

    #[test]
    fn only_the_first_leads() {
        let head = message(0, 3, b"bpf\0", 0);
        let (ours, other) = (message(1, 3, b"bpf\0", 42), message(2, 3, b"bpf\0", 43));
        assert!(leads(&[head.clone(), ours.clone(), other.clone()], 42));
        assert!(!leads(&[head.clone(), other, ours.clone()], 42));
        assert!(!leads(&[message(0, 3, b"fw\0", 0), ours.clone()], 42));
        assert!(!leads(&[message(0, 0x800, b"bpf\0", 0), ours.clone()], 42));
        assert!(!leads(std::slice::from_ref(&head), 42));
        assert!(!leads(&[], 42));
        for end in 0..ours.len() - 1 {
            assert!(!leads(&[ours[..end].to_vec()], 42), "{end}");
        }
    }
}
