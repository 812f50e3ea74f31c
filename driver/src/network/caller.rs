//! Who waits for an operation, and may have given up: Docker is told then that it failed, and what comes
//! of it must be undone.
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

const WAITING: u8 = 0;
const SETTLED: u8 = 1;
const GAVE_UP: u8 = 2;

/// Shared by the one who waits and the operation. Whoever is first decides.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<AtomicU8>);

impl Caller {
    /// The one who waits gives up. False: too late, the outcome counts.
    pub fn give_up(&self) -> bool {
        self.decide(GAVE_UP)
    }

    /// The operation has an outcome. False: nobody wants it, it is to be undone.
    pub fn settle(&self) -> bool {
        self.decide(SETTLED)
    }

    /// Whether nobody waits any more.
    pub fn gave_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == GAVE_UP
    }

    fn decide(&self, outcome: u8) -> bool {
        self.0.compare_exchange(WAITING, outcome, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decides() {
        let caller = Caller::default();
        assert!(caller.settle() && !caller.give_up() && !caller.gave_up());
        let caller = Caller::default();
        assert!(caller.give_up() && !caller.settle() && caller.gave_up());
    }
}
