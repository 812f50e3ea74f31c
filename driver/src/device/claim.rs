//! Whoever assigns a device, or takes one back, keeps other drivers of ours off it meanwhile: nothing else that they
//! share tells of it before the netdev has a tag, and while it has none any more.
use std::{fs::File, io};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::link::Parent;

/// Held for as long as the device is nobody else's; ends with the process that has it.
#[derive(Debug)]
pub struct Claim {
    _folder: Option<Flock<File>>,
}

/// Locks the device's folder in sysfs. None if somebody has. A device without a folder is nobody's to share.
pub fn claim(hardware: &str) -> io::Result<Option<Claim>> {
    let Some(parent) = Parent::of(hardware) else { return Ok(Some(Claim { _folder: None })) };
    let folder = match File::open(parent.sysfs()) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Claim { _folder: None })),
        Err(error) => return Err(error),
    };
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(folder) => Ok(Some(Claim { _folder: Some(folder) })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        // Every machine has it: `device_add` of the platform bus's own device.
        let device = std::fs::read_dir("/sys/bus/platform/devices").unwrap().flatten().next().unwrap();
        let hardware = format!("platform/{}", device.file_name().to_str().unwrap());
        let held = claim(&hardware).unwrap();
        assert!(held.is_some());
        assert!(claim(&hardware).unwrap().is_none());
        drop(held);
        assert!(claim(&hardware).unwrap().is_some());
        assert!(claim("pci/0000:ff:1f.7").unwrap().is_some());
    }
}
