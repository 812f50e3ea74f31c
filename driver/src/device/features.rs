//! What a netdev can do with XDP: the kernel is asked, not a list of drivers.
use std::time::Duration;

use futures_util::StreamExt as _;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use super::rtnl::{Error, Result, runtime};

const REQUEST: Duration = Duration::from_secs(3);

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
#[derive(Debug)]
enum Dev {
    Get { ifindex: u32 },
    Features(XdpFeatures),
}

const DEV_GET: u8 = 1;
const A_IFINDEX: u16 = 1;
const A_XDP_FEATURES: u16 = 3;

impl GenlFamily for Dev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Dev {
    fn buffer_len(&self) -> usize {
        8
    }

    fn emit(&self, buffer: &mut [u8]) {
        let Self::Get { ifindex } = self else { return };
        let parts = [8_u16.to_ne_bytes(), A_IFINDEX.to_ne_bytes()].concat();
        buffer[..4].copy_from_slice(&parts);
        buffer[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Dev {
    fn parse_with_param(body: &[u8], _: GenlHeader) -> std::result::Result<Self, DecodeError> {
        let mut features = XdpFeatures::default();
        for attribute in NlasIterator::new(body) {
            let attribute = attribute?;
            if attribute.kind() == A_XDP_FEATURES
                && let Ok(bits) = attribute.value().try_into()
            {
                features = XdpFeatures(u64::from_ne_bytes(bits));
            }
        }
        Ok(Self::Features(features))
    }
}

/// What the netdev's driver says of itself, in the namespace of the calling thread; none on kernels before
/// 6.3, which can't be asked.
pub async fn xdp_features(ifindex: u32) -> Result<Option<XdpFeatures>> {
    let what = || format!("asking for the XDP features of netdev {ifindex}");
    let protocol = |reason: String| Error::Protocol { what: what(), reason };
    let runtime = runtime().map_err(|source| Error::io(what(), source))?;
    let (connection, mut handle, _) = {
        let _entered = runtime.enter();
        genetlink::new_connection().map_err(|source| Error::io(what(), source))?
    };
    let connection = runtime.spawn(connection);
    let asked = async {
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(Dev::Get { ifindex }));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = match handle.request(request).await {
            Ok(answers) => answers,
            Err(genetlink::GenetlinkError::NetlinkError(error))
                if error.raw_os_error() == Some(nix::libc::ENOENT) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(protocol(error.to_string())),
        };
        while let Some(answer) = answers.next().await {
            match answer.map_err(|error| protocol(error.to_string()))?.payload {
                NetlinkPayload::InnerMessage(GenlMessage { payload: Dev::Features(features), .. }) => {
                    return Ok(Some(features));
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let source = std::io::Error::from_raw_os_error(error.raw_code().saturating_neg());
                    return Err(Error::io(what(), source));
                }
                _ => {}
            }
        }
        Ok(Some(XdpFeatures::default()))
    };
    let answer = tokio::time::timeout(REQUEST, asked).await;
    connection.abort();
    answer.unwrap_or_else(|_| Err(Error::Timeout { what: what() }))
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
