//! What cargo cannot say.
fn main() {}
