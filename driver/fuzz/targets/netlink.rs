//! What the kernel says of a netdev whose names a container has chosen: it is read, or said to be unreadable, and
//! every name is text.
#![no_main]
use docker_passthrough::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    if let Ok(names) = fuzz::link(body) {
        assert!(names.iter().all(|name| name.len() <= 3 * body.len()), "{names:?}");
    }
});
