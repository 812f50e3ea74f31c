//! Whoever assigns a VF, or takes one back, keeps other drivers of ours off it meanwhile: nothing else that they
//! share tells of it before the netdev has a tag, and while it has none any more.
use std::{fs::File, io};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::link::Parent;

/// Held for as long as the VF is nobody else's; ends with the process that has it.
#[derive(Debug)]
pub struct Claim {
    _file: Option<Flock<File>>,
}

/// A file in sysfs that each VF has, and that only root can open: it can but be written
/// (`sriov_vf_dev_attrs`, drivers/pci/iov.c). Here it never is.
const FILE: &str = "sriov_vf_msix_count";

/// Locks the VF. None if somebody has. What is no VF is shared by nobody.
pub fn claim(hardware: &str) -> io::Result<Option<Claim>> {
    let Some(parent) = Parent::of(hardware) else { return Ok(Some(Claim { _file: None })) };
    let file = match File::options().write(true).open(parent.sysfs().join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Claim { _file: None })),
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Some(Claim { _file: Some(file) })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}
