//! `ifalias`, which a container can write. A tag says what it was made of, and an alias never more than it has.
#![no_main]
use docker_passthrough::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|alias: &str| {
    let Some((id, netdev)) = fuzz::tagged(alias, "passthrough") else { return };
    assert!(alias.contains(id.as_str()) && alias.ends_with(&netdev));
    assert_eq!(fuzz::tagged(alias, "another"), None);
    let (tag, read) = fuzz::tag("passthrough", &id, &netdev);
    assert_eq!((tag.as_str(), read), (alias, Some((id, netdev))));
});
