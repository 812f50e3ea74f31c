//! What a netdev can do with XDP: the kernel is asked, not a list of drivers.
use std::{io, sync::OnceLock};

use netlink_packet_core::{NLM_F_ACK, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_sys::{Socket, protocols::NETLINK_GENERIC};

use super::{
    netlink::{Connection, attributes},
    rtnl::{Error, Result},
};
use crate::blocking;

/// `NETDEV_XDP_ACT_*` (include/uapi/linux/netdev.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// `NETDEV_XDP_ACT_BASIC`: the driver runs XDP programs itself.
    pub fn native(self) -> bool {
        self.0 & 1 != 0
    }

    /// `NETDEV_XDP_ACT_RX_SG`: also for frames in several buffers, as jumbo frames are.
    pub fn multi_buffer(self) -> bool {
        self.0 & 1 << 5 != 0
    }
}

/// `NETDEV_CMD_DEV_GET` with `NETDEV_A_DEV_IFINDEX`, and its answer. One netdev at a time: the family's
/// dumps lack `NLM_F_MULTI`.
const DEV_GET: u8 = 1;
const A_IFINDEX: u16 = 1;
const A_XDP_FEATURES: u16 = 3;

/// `struct genlmsghdr`.
const GENLMSGHDR: usize = 4;

/// A request with one attribute, of a family that is given by its number.
struct Request {
    family: u16,
    command: u8,
    attribute: u16,
    value: Vec<u8>,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        GENLMSGHDR + 4 + self.value.len().next_multiple_of(4)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let length = u16::try_from(4 + self.value.len()).unwrap_or_default();
        let version = 1;
        let head = [self.command, version, 0, 0].into_iter();
        let attribute = length.to_ne_bytes().into_iter().chain(self.attribute.to_ne_bytes());
        let bytes = head.chain(attribute).chain(self.value.iter().copied());
        for (to, byte) in buffer.iter_mut().zip(bytes) {
            *to = byte;
        }
    }
}

/// What the netdev's driver says of itself, in the namespace of the calling thread; none on kernels before
/// 6.3, which can't be asked.
pub async fn xdp_features(ifindex: u32) -> Result<Option<XdpFeatures>> {
    let what = || format!("asking for the XDP features of netdev {ifindex}");
    let answer = blocking::run(move || ask(ifindex)).await;
    answer.flatten().map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => Error::Timeout { what: what() },
        _ => Error::io(what(), source),
    })
}

fn ask(ifindex: u32) -> io::Result<Option<XdpFeatures>> {
    let mut connection = Connection::on(Socket::new(NETLINK_GENERIC)?)?;
    let Some(family) = family(&mut connection)? else { return Ok(None) };
    let (command, attribute) = (DEV_GET, A_IFINDEX);
    let request = Request { family, command, attribute, value: ifindex.to_ne_bytes().into() };
    let bits = value(&mut connection, request, A_XDP_FEATURES)?;
    let bits = bits.and_then(|bits| bits.try_into().ok()).map_or(0, u64::from_ne_bytes);
    Ok(Some(XdpFeatures(bits)))
}

/// The number of the family `netdev`, which stays what it is (include/uapi/linux/genetlink.h).
fn family(connection: &mut Connection) -> io::Result<Option<u16>> {
    const CONTROLLER: u16 = 16;
    const GET_FAMILY: u8 = 3;
    const A_FAMILY_ID: u16 = 1;
    const A_FAMILY_NAME: u16 = 2;
    static FAMILY: OnceLock<u16> = OnceLock::new();
    if let Some(family) = FAMILY.get() {
        return Ok(Some(*family));
    }
    let (command, attribute) = (GET_FAMILY, A_FAMILY_NAME);
    let request = Request { family: CONTROLLER, command, attribute, value: b"netdev\0".into() };
    let id = match value(connection, request, A_FAMILY_ID) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => None,
        answer => answer?,
    };
    let id = id.and_then(|id| id.try_into().ok()).map(u16::from_ne_bytes);
    Ok(id.map(|id| *FAMILY.get_or_init(|| id)))
}

/// An attribute of the answer.
fn value(connection: &mut Connection, request: Request, wanted: u16) -> io::Result<Option<Vec<u8>>> {
    let request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
    let bodies = connection.exchange(request, NLM_F_ACK, 1)?;
    let found = bodies.iter().find_map(|body| {
        attributes(body.get(GENLMSGHDR..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec())
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_has_no_native_xdp() {
        assert_eq!(xdp_features(1).await.unwrap(), Some(XdpFeatures::default()));
    }

    #[tokio::test]
    async fn no_such_netdev() {
        assert!(xdp_features(i32::MAX as u32).await.unwrap_err().is_not_found());
    }
}
