//! A busybox that runs without libraries: the whole of an image.
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::packages::{self, Need};
use crate::process::{self, command};
use crate::step::note;
use crate::workspace;

const PACKAGE: &str = "busybox-static";

/// Where it is.
pub fn find() -> Option<PathBuf> {
    let own = workspace::target("busybox/bin/busybox");
    process::find("busybox").into_iter().chain([own]).find(|path| is_static(path))
}

/// Gets one if there is none.
pub fn ensure() -> Result<PathBuf> {
    if find().is_none() {
        let need = || Need::new("a static busybox", &[PACKAGE], || find().is_some());
        // It can't be installed beside a busybox that needs libraries, which others may need.
        if let Err(error) = packages::ensure("making an image", &[need()]) {
            note("it can't be installed, so it is unpacked into target/");
            unpack().context(error)?;
        }
    }
    find().context("there is no static busybox")
}

fn unpack() -> Result<()> {
    let folder = workspace::target("busybox");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    process::text(command("apt-get").current_dir(&folder).args(["download", PACKAGE]))?;
    for file in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let file = file.with_context(|| format!("reading {}", folder.display()))?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            process::text(command("dpkg").arg("-x").arg(&file).arg(&folder))?;
        }
    }
    // Since the merge of /bin into /usr/bin it is there.
    let (usr, bin) = (folder.join("usr/bin/busybox"), folder.join("bin/busybox"));
    if usr.is_file() && !bin.is_file() {
        fs::create_dir_all(folder.join("bin")).context("creating bin")?;
        fs::rename(&usr, &bin).with_context(|| format!("moving {}", usr.display()))?;
    }
    Ok(())
}

/// Whether a program asks for no dynamic loader.
fn is_static(program: &Path) -> bool {
    let mut head = Vec::new();
    let read = fs::File::open(program).and_then(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok() && interpreter(&head) == Some(false)
}

/// Whether the 64-bit ELF file, of which this is the beginning, has an entry `PT_INTERP`.
fn interpreter(head: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if !head.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let half = |at: usize| Some(usize::from(u16::from_ne_bytes(head.get(at..at + 2)?.try_into().ok()?)));
    let table = usize::try_from(u64::from_ne_bytes(head.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    let kind = |entry: usize| {
        let at = table + entry * size;
        Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?))
    };
    let kinds = (0..count).map(kind).collect::<Option<Vec<_>>>()?;
    Some(kinds.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_test_program_has_an_interpreter() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
    }

    #[test]
    fn what_is_no_program_is_not_static() {
        assert!(!is_static(Path::new("/etc/passwd")));
        assert_eq!(interpreter(b"\x7fELF\x02"), None);
    }
}
