//! Netdevs read without trust in what a container called them.
//!
//! The kernel takes any bytes for a name, an alternative name or an alias. The netlink crates take UTF-8
//! only: an answer with anything else never arrives there, and a dump comes without that netdev. So links
//! are read over a socket of our own, and what is no text is made one before the crate decodes it.
use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_DUMP, Parseable as _};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage, Prop},
    nsid::{NsidAttribute, NsidMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::{
    Rtnl,
    netlink::{Raw, attributes, message_at, outcome},
    netns::NetNs,
    rtnl::{Error, Result},
};
use crate::fault;

/// `struct ifinfomsg`.
const IFINFOMSG: usize = 16;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;

pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_IFALIAS: u16 = 20;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROP_LIST: u16 = 52;
pub(super) const IFLA_PARENT_DEV_NAME: u16 = 56;
pub(super) const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;

/// The netdevs that messages tell of: the number and the attributes of each.
pub(super) fn links_in(mut rest: &[u8]) -> impl Iterator<Item = (u32, impl Iterator<Item = (u16, &[u8])>)> {
    std::iter::from_fn(move || message_at(&mut rest))
        .filter(|(header, _)| matches!(header.kind, RTM_NEWLINK | RTM_DELLINK))
        .filter_map(|(_, body)| {
            let ifindex = i32::from_ne_bytes(*body.get(4..)?.first_chunk()?).cast_unsigned();
            Some((ifindex, attributes(body.get(IFINFOMSG..)?)))
        })
}

/// Makes text of all names among attributes, each byte that is none a question mark.
fn make_readable(mut rest: &mut [u8]) {
    while let Some(len) = rest.first_chunk().map(|len| usize::from(u16::from_ne_bytes(*len)))
        && (4..=rest.len()).contains(&len)
    {
        let end = len.next_multiple_of(4).min(rest.len());
        let (attribute, after) = std::mem::take(&mut rest).split_at_mut(end);
        let kind = u16::from_ne_bytes([attribute[2], attribute[3]]) & 0x3fff;
        let value = &mut attribute[4..len];
        match kind {
            IFLA_IFNAME | IFLA_IFALIAS | IFLA_ALT_IFNAME => make_text(value),
            IFLA_PROP_LIST => make_readable(value),
            _ => {}
        }
        rest = after;
    }
}

fn make_text(value: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(value) {
        let bad = error.valid_up_to();
        let end = error.error_len().map_or(value.len(), |len| bad + len);
        value[bad..end].fill(b'?');
    }
}

/// What the kernel says of a netdev, as the crate has it.
pub(super) fn decoded(mut body: Vec<u8>) -> Result<LinkMessage, String> {
    make_readable(body.get_mut(IFINFOMSG..).unwrap_or_default());
    LinkMessage::parse(body.as_slice()).map_err(|error| error.to_string())
}

/// What a netdev stands on, whatever else it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its number.
    pub ifindex: u32,
    /// Its name, as far as it is text.
    pub name: String,
    /// Its `rtnl_link_ops` kind.
    pub kind: String,
    /// The number of what is beneath it, in the namespace of that.
    pub lower: u32,
    /// The id of that namespace, if it is another.
    pub netns: Option<i32>,
}

impl Standing {
    fn read(body: &[u8]) -> Option<Self> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        let mut standing = Self {
            ifindex: i32::from_ne_bytes(*body.get(4..)?.first_chunk()?).cast_unsigned(),
            ..Self::default()
        };
        for (kind, value) in attributes(body.get(IFINFOMSG..)?) {
            let number = value.first_chunk().copied().map(u32::from_ne_bytes);
            match kind {
                IFLA_IFNAME => standing.name = text(value),
                IFLA_LINK => standing.lower = number.unwrap_or_default(),
                IFLA_LINK_NETNSID => standing.netns = number.map(u32::cast_signed),
                IFLA_LINKINFO => {
                    let name = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                    standing.kind = name.map(|(_, name)| text(name)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(standing).filter(|standing| standing.lower != 0)
    }
}

impl Raw {
    /// A socket in the calling thread's namespace.
    pub fn here() -> io::Result<Self> {
        Self::on(Socket::new(NETLINK_ROUTE)?)
    }

    /// The netdevs that stand on one that has this number, in whatever namespace that is; blocks.
    pub fn standing_here(&self, lower: u32) -> io::Result<Vec<Standing>> {
        let is_on_it = |body: &[u8]| {
            let mut attributes = attributes(body.get(IFINFOMSG..).unwrap_or_default());
            attributes.any(|(kind, value)| kind == IFLA_LINK && *value == lower.to_ne_bytes())
        };
        Ok(standing_in(&self.find_here(all_without_stats(), NLM_F_DUMP, &is_on_it)?))
    }

    /// The id that the namespace of this socket has for another; none if it knows nothing of it. Blocks.
    pub fn nsid_here(&self, of: &NetNs) -> io::Result<Option<i32>> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(of.raw_fd().cast_unsigned()));
        let bodies = self.ask_here(RouteNetlinkMessage::GetNsId(message), NLM_F_ACK, usize::MAX)?;
        let ids = bodies.iter().filter_map(|body| NsidMessage::parse(body.as_slice()).ok());
        let id = ids.flat_map(|answer| answer.attributes).find_map(|attribute| match attribute {
            NsidAttribute::Id(id) => Some(id),
            _ => None,
        });
        // NETNSA_NSID_NOT_ASSIGNED
        Ok(id.filter(|id| *id >= 0))
    }
}

/// All netdevs: what nobody asks for takes the kernel longest.
fn all_without_stats() -> RouteNetlinkMessage {
    let mut all = LinkMessage::default();
    all.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(all)
}

fn standing_in(bodies: &[Vec<u8>]) -> Vec<Standing> {
    bodies.iter().filter_map(|body| Standing::read(body)).collect()
}

impl Rtnl {
    /// The netdev that `request` names, whatever it is called.
    pub(super) async fn read_link(&self, what: &str, request: LinkMessage) -> Result<Option<LinkMessage>> {
        let bodies = match self.raw().ask(what, RouteNetlinkMessage::GetLink(request), NLM_F_ACK).await {
            Err(error) if error.is_not_found() => return Ok(None),
            answer => answer?,
        };
        let Some(body) = bodies.into_iter().next() else { return Ok(None) };
        decoded(body).map(Some).map_err(|reason| Error::Protocol { what: what.to_owned(), reason })
    }

    /// All netdevs.
    pub(super) async fn read_links(&self) -> Result<Vec<LinkMessage>> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let bodies = self.raw().ask("listing the netdevs", all, NLM_F_DUMP).await?;
        let link = |body| decoded(body).inspect_err(|error| tracing::debug!(error, "a netdev")).ok();
        Ok(bodies.into_iter().filter_map(link).collect())
    }

    /// The netdevs that stand on another one.
    pub async fn standing(&self) -> Result<Vec<Standing>> {
        let what = "listing what stands on netdevs";
        Ok(standing_in(&self.raw().ask(what, all_without_stats(), NLM_F_DUMP).await?))
    }

    /// Gives another namespace an id in that of this socket, if it has none yet.
    pub async fn give_nsid(&self, to: &NetNs) -> Result<()> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(to.raw_fd().cast_unsigned()));
        // Any.
        message.attributes.push(NsidAttribute::Id(-1));
        let what = "giving a network namespace an id";
        match self.raw().ask(what, RouteNetlinkMessage::NewNsId(message), NLM_F_ACK).await {
            Err(error) if error.is_exists() => Ok(()),
            given => given.map(drop),
        }
    }

    /// The alternative names, as the kernel has them.
    pub(super) async fn altnames(&self, ifindex: u32) -> Result<Vec<Vec<u8>>> {
        let mut request = LinkMessage::default();
        request.header.index = ifindex;
        let what = format!("reading the names of netdev {ifindex}");
        let bodies = self.raw().ask(&what, RouteNetlinkMessage::GetLink(request), NLM_F_ACK).await?;
        let mut names = Vec::new();
        for body in &bodies {
            let lists = attributes(body.get(IFINFOMSG..).unwrap_or_default());
            for (_, list) in lists.filter(|(kind, _)| *kind == IFLA_PROP_LIST) {
                let found = attributes(list).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
                names.extend(found.map(|(_, name)| name.strip_suffix(b"\0").unwrap_or(name).to_vec()));
            }
        }
        Ok(names)
    }

    /// Takes an alternative name off, whatever its bytes.
    pub(super) async fn remove_altname(&self, ifindex: u32, name: &[u8]) -> Result<()> {
        let mut request = LinkMessage::default();
        request.header.index = ifindex;
        let name_nul = [name, b"\0"].concat();
        let prop = Prop::Other(DefaultNla::new(IFLA_ALT_IFNAME, name_nul));
        request.attributes.push(LinkAttribute::PropList(vec![prop]));
        let name = String::from_utf8_lossy(name);
        let what = format!("taking the alternative name {name} off netdev {ifindex}");
        fault::point!("altname.removing");
        self.raw().ask(&what, RouteNetlinkMessage::DelLinkProp(request), NLM_F_ACK).await.map(drop)
    }
}

/// All that is read of a netdev: the names that were taken from it, or why it can't be read.
pub(crate) fn fuzz(body: &[u8]) -> Result<Vec<String>, String> {
    let mut names: Vec<_> = Standing::read(body).map(|standing| standing.name).into_iter().collect();
    let mut rest = body;
    while let Some((_, body)) = message_at(&mut rest) {
        let _ = outcome(body);
    }
    for attribute in decoded(body.to_vec())?.attributes {
        match attribute {
            LinkAttribute::IfName(name) | LinkAttribute::IfAlias(name) => names.push(name),
            LinkAttribute::PropList(props) => names.extend(props.into_iter().filter_map(|prop| match prop {
                Prop::AltIfName(name) => Some(name),
                _ => None,
            })),
            _ => {}
        }
    }
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn what_is_no_text_is_made_one() {
        let altname = attribute(IFLA_ALT_IFNAME, b"a\xfe\0");
        let mut body = [
            vec![0; IFINFOMSG],
            attribute(IFLA_IFNAME, b"\xffth0\0"),
            attribute(IFLA_IFALIAS, b"caf\xc3\xa9\xff"),
            attribute(IFLA_PROP_LIST | 0x8000, &altname),
        ]
        .concat();
        body[4] = 7;
        let message = decoded(body).unwrap();
        assert_eq!(message.header.index, 7);
        assert_eq!(
            message.attributes,
            [
                LinkAttribute::IfName("?th0".into()),
                LinkAttribute::IfAlias("café?".into()),
                LinkAttribute::PropList(vec![Prop::AltIfName("a?".into())]),
            ]
        );
    }

    #[test]
    fn what_a_netdev_stands_on_is_read() {
        let info = attribute(IFLA_INFO_KIND, b"macvlan\0");
        let mut body = [
            vec![0; IFINFOMSG],
            attribute(IFLA_IFNAME, b"sp\xff\0"),
            attribute(IFLA_LINK, &9_u32.to_ne_bytes()),
            attribute(IFLA_LINKINFO, &info),
            attribute(IFLA_LINK_NETNSID, &3_i32.to_ne_bytes()),
        ]
        .concat();
        body[4] = 7;
        let expected = Standing {
            ifindex: 7,
            name: "sp\u{fffd}".into(),
            kind: "macvlan".into(),
            lower: 9,
            netns: Some(3),
        };
        assert_eq!(Standing::read(&body), Some(expected));
        assert_eq!(Standing::read(&body[..IFINFOMSG]), None);
        assert_eq!(Standing::read(&[]), None);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let whole = attribute(1, b"abc");
        for end in 0..whole.len() - 1 {
            assert_eq!(attributes(&whole[..end]).count(), 0, "{end}");
            make_readable(&mut whole[..end].to_vec());
            assert!(message_at(&mut &whole[..end]).is_none());
        }
        assert_eq!(attributes(&whole).next(), Some((1, b"abc".as_slice())));
    }
}
