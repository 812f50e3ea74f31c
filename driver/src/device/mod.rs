//! What the kernel has: netdevs over rtnetlink, their namespaces, SR-IOV in sysfs. Knows nothing of Docker.
pub mod mac;
