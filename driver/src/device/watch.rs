//! What happens to the netdevs of a namespace, as the kernel tells it.
use std::{
    io,
    os::fd::{FromRawFd as _, IntoRawFd as _},
};

use netlink_sys::{AsyncSocketExt as _, Socket, TokioSocket, protocols::NETLINK_ROUTE};

use super::{netns::NetNs, raw};

/// `RTNLGRP_LINK`.
const LINKS: u32 = 1;

/// A netdev that came, changed or went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub ifindex: u32,
    /// Its name, as far as it is text.
    pub name: String,
    /// Its `ifalias`, as far as it is text.
    pub alias: String,
    /// Bus and name of the hardware behind it, `pci/0000:01:10.0`.
    pub hardware: Option<String>,
}

/// A subscription to a namespace's netdevs.
pub struct Watch(TokioSocket);

impl Watch {
    /// Within a tokio runtime.
    pub fn on(netns: &NetNs) -> io::Result<Self> {
        let socket = netns.run(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.add_membership(LINKS)?;
            socket.set_non_blocking(true)?;
            io::Result::Ok(socket)
        })??;
        // SAFETY: the descriptor was just taken out of `Socket`, so this is its only owner.
        Ok(Self(unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) }))
    }

    /// What happened next; none if the kernel has told more than anybody took, and what it was is lost.
    pub async fn next(&mut self) -> io::Result<Option<Vec<Seen>>> {
        match self.0.recv_from_full().await {
            Ok((bytes, _)) => Ok(Some(seen(&bytes))),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn seen(bytes: &[u8]) -> Vec<Seen> {
    raw::links_in(bytes)
        .map(|(ifindex, attributes)| {
            let mut seen = Seen { ifindex, ..Seen::default() };
            let (mut bus, mut device) = (None, None);
            for (kind, value) in attributes {
                let text = || String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
                match kind {
                    raw::IFLA_IFNAME => seen.name = text(),
                    raw::IFLA_IFALIAS => seen.alias = text(),
                    raw::IFLA_PARENT_DEV_NAME => device = Some(text()),
                    raw::IFLA_PARENT_DEV_BUS_NAME => bus = Some(text()),
                    _ => {}
                }
            }
            seen.hardware = bus.zip(device).map(|(bus, device)| format!("{bus}/{device}"));
            seen
        })
        .collect()
}
