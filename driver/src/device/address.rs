//! The addresses and routes of a netdev, which any move to another namespace drops: read before it,
//! written again after it.
use netlink_packet_core::{DecodeError, Emitable, NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType},
};
use serde::{Deserialize, Serialize};

use super::{
    Rtnl,
    rtnl::{Error, Result},
};

/// An address or a route, as the kernel gave it: its netlink message, kept whole so that it is put
/// back with its scope, label, metric, flags and whatever else it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// For people: `192.0.2.1/24`, `default via 192.0.2.254`.
    pub text: String,
    /// `ifaddrmsg` or `rtmsg` with its attributes, in hexadecimal digits.
    message: String,
}

/// All that a move of the netdev would drop and that nobody else brings back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressing {
    /// Static addresses. Those with a lifetime belong to DHCP or router advertisements, and come back
    /// from there.
    pub addresses: Vec<Saved>,
    /// Routes out of the netdev, those left out that the kernel makes for addresses.
    pub routes: Vec<Saved>,
}

/// What the host would lose with the netdev, for `force=1` to be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostUse {
    /// Addresses other than link-local ones: `192.0.2.1/24`.
    pub addresses: Vec<String>,
    /// Routes other than those the addresses bring: `default via 192.0.2.254`.
    pub routes: Vec<String>,
}

impl Rtnl {
    /// What a move of this netdev drops.
    pub async fn addressing(&self, ifindex: u32) -> Result<Addressing> {
        let addresses = self.addresses(ifindex).await?;
        let routes = self.routes(ifindex).await?;
        Ok(Addressing {
            addresses: addresses.into_iter().filter(is_static).map(save_address).collect(),
            routes: routes.into_iter().map(save_route).collect(),
        })
    }

    /// What the host uses this netdev for.
    pub async fn host_use(&self, ifindex: u32) -> Result<HostUse> {
        let addresses = self.host_addresses(ifindex).await?;
        let routes = self.routes(ifindex).await?;
        Ok(HostUse { addresses, routes: routes.iter().map(route_text).collect() })
    }

    /// The addresses among that.
    pub async fn host_addresses(&self, ifindex: u32) -> Result<Vec<String>> {
        let mut addresses = self.addresses(ifindex).await?;
        addresses.retain(|address| address.header.scope != AddressScope::Link);
        Ok(addresses.iter().map(address_text).collect())
    }

    /// Puts back what [`Rtnl::addressing`] read, going on past failures and answering with all of them.
    /// The netdev has to be up for its routes. What is there already is left alone.
    pub async fn restore_addressing(&self, ifindex: u32, saved: &Addressing) -> Vec<Error> {
        let mut errors = Vec::new();
        for address in &saved.addresses {
            if let Err(error) = self.restore_address(ifindex, address).await
                && !error.is_exists()
            {
                errors.push(error);
            }
        }
        for route in &saved.routes {
            if let Err(error) = self.restore_route(ifindex, route).await
                && !error.is_exists()
            {
                errors.push(error);
            }
        }
        errors
    }

    async fn addresses(&self, ifindex: u32) -> Result<Vec<AddressMessage>> {
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        let what = format!("reading the addresses of netdev {ifindex}");
        let request = RouteNetlinkMessage::GetAddress(message);
        // Some protocols list theirs whatever netdev is asked for, with attributes of their own.
        let is_ours = |body: &[u8]| {
            let family = body.first().copied().map(AddressFamily::from);
            let index = body.get(4..).and_then(|at| at.first_chunk()).copied().map(u32::from_ne_bytes);
            matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6)) && index == Some(ifindex)
        };
        match self.dump(what, request, is_ours, AddressMessage::parse).await {
            // It has just gone, and has none.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            addresses => addresses,
        }
    }

    async fn routes(&self, ifindex: u32) -> Result<Vec<RouteMessage>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.attributes.push(RouteAttribute::Oif(ifindex));
            let what = format!("reading the routes of netdev {ifindex}");
            let request = RouteNetlinkMessage::GetRoute(message);
            let routes: Vec<RouteMessage> = self.dump(what, request, |_| true, RouteMessage::parse).await?;
            found.extend(routes.into_iter().filter(|route| is_own_route(route, ifindex)));
        }
        Ok(found)
    }

    async fn restore_address(&self, ifindex: u32, saved: &Saved) -> Result<()> {
        let what = format!("giving netdev {ifindex} the address {}", saved.text);
        let mut message: AddressMessage = parse(saved, &what, AddressMessage::parse)?;
        message.header.index = ifindex;
        self.acked(what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await
    }

    async fn restore_route(&self, ifindex: u32, saved: &Saved) -> Result<()> {
        let what = format!("giving netdev {ifindex} the route {}", saved.text);
        let mut message: RouteMessage = parse(saved, &what, RouteMessage::parse)?;
        for attribute in &mut message.attributes {
            if let RouteAttribute::Oif(oif) = attribute {
                *oif = ifindex;
            }
        }
        self.acked(what, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL).await
    }
}

fn flags(address: &AddressMessage) -> AddressFlags {
    let wide = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    wide.unwrap_or(AddressFlags::from_bits_retain(address.header.flags.bits().into()))
}

fn is_static(address: &AddressMessage) -> bool {
    flags(address).contains(AddressFlags::Permanent)
}

fn is_own_route(route: &RouteMessage, ifindex: u32) -> bool {
    let out = route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(oif) => *oif == ifindex,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == ifindex),
        _ => false,
    });
    // The kernel's own come and go with the addresses and with the device.
    let manual = route.header.protocol != RouteProtocol::Kernel && route.header.protocol != RouteProtocol::Ra;
    let cloned = route.header.flags.contains(RouteFlags::Cloned);
    out && manual && !cloned && route.header.kind == RouteType::Unicast
}

fn save_address(mut address: AddressMessage) -> Saved {
    let text = address_text(&address);
    // Lifetimes of a static address are infinite, and its timestamps are of no use.
    address.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::CacheInfo(_)));
    Saved { text, message: emit(&address) }
}

fn save_route(mut route: RouteMessage) -> Saved {
    let text = route_text(&route);
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    Saved { text, message: emit(&route) }
}

fn address_text(address: &AddressMessage) -> String {
    let mut local = None;
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => local = local.or(Some(*ip)),
            _ => {}
        }
    }
    let ip = local.map_or_else(|| "?".to_owned(), |ip| ip.to_string());
    format!("{ip}/{}", address.header.prefix_len)
}

fn route_text(route: &RouteMessage) -> String {
    let show = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => ip.to_string(),
        RouteAddress::Inet6(ip) => ip.to_string(),
        other => format!("{other:?}"),
    };
    let (mut to, mut via) = ("default".to_owned(), String::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => {
                to = format!("{}/{}", show(ip), route.header.destination_prefix_length);
            }
            RouteAttribute::Gateway(ip) => via = format!(" via {}", show(ip)),
            _ => {}
        }
    }
    format!("{to}{via}")
}

fn emit(message: &impl Emitable) -> String {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

fn parse<T>(
    saved: &Saved,
    what: &str,
    decode: impl Fn(&[u8]) -> std::result::Result<T, DecodeError>,
) -> Result<T> {
    let protocol = |reason: String| Error::Protocol { what: what.to_owned(), reason };
    let digits: Option<Vec<u8>> = (0..saved.message.len())
        .step_by(2)
        .map(|at| saved.message.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    let bytes = digits.ok_or_else(|| protocol("the state file's message is no hexadecimal number".into()))?;
    decode(&bytes).map_err(|error| protocol(error.to_string()))
}
