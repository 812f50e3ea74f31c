//! `docker-passthrough`: reads the command line, nothing else.
fn main() {}
