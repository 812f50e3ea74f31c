//! What blocks, and where it may.
//!
//! A call's work is some thirty short questions to the kernel, one after the other: on a thread of its own, each costs
//! what the kernel takes, and none a change of threads there and back.
use std::{
    cell::Cell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::{runtime::Handle, task::spawn_blocking};

thread_local! {
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Runs a future on the calling thread, which is one of the runtime's for what blocks. Whatever it [`run`]s blocks it.
pub fn here<T>(future: impl Future<Output = T>) -> T {
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            MAY_BLOCK.set(false);
        }
    }
    MAY_BLOCK.set(true);
    let _ended = Ended;
    Handle::current().block_on(future)
}

/// Runs what blocks: at once where the thread may block, else on another. An error is its panic, which is in the log.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    if MAY_BLOCK.get() {
        // What was begun can be undone, as when it was another thread that panicked.
        return catch_unwind(AssertUnwindSafe(work)).map_err(|_| io::Error::other("it panicked"));
    }
    Ok(spawn_blocking(work).await?)
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use super::*;

    async fn thread() -> ThreadId {
        run(|| current().id()).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_thread_that_may_block_does_and_no_other() {
        assert_ne!(thread().await, current().id());
        let both = || here(async { (thread().await, current().id()) });
        let (there, here) = spawn_blocking(both).await.unwrap();
        assert_eq!(there, here);
        assert_ne!(thread().await, current().id());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_panic_is_an_error_on_either() {
        let panics = || run(|| -> u8 { panic!("as planned") });
        assert!(panics().await.is_err());
        assert!(spawn_blocking(move || here(panics())).await.unwrap().is_err());
    }
}
