//! What Docker speaks: HTTP on a Unix socket, one POST a call (Docker's docs/extend/plugin_api.md,
//! moby's libnetwork/docs/remote.md). Knows nothing of netlink.
pub mod messages;
pub mod routes;
pub mod server;
