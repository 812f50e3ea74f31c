//! stub
pub fn stop_shared() {}
