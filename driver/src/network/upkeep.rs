//! What the driver has done without being asked, and what it could not do yet: for the metrics.
use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::state::EndpointId;

/// What reconciling does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The netdev of a container that ended without a word from Docker is given back.
    TakeBack,
    /// The programs of another version are replaced by this driver's.
    ReplacePrograms,
    /// A netdev that nobody remembers is made usable again.
    RecoverStray,
    /// A network is forgotten that Docker has no more.
    ForgetNetwork,
    /// A PF is made what it was before its first network.
    LeavePf,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::TakeBack, Self::ReplacePrograms, Self::RecoverStray, Self::ForgetNetwork, Self::LeavePf];

    /// As the metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TakeBack => "take_back",
            Self::ReplacePrograms => "replace_programs",
            Self::RecoverStray => "recover_stray",
            Self::ForgetNetwork => "forget_network",
            Self::LeavePf => "leave_pf",
        }
    }
}

/// How often an action was carried out, and how often it failed.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    failed: AtomicU64,
}

/// Netdevs that are reserved, and that nobody can use.
#[derive(Debug, Default)]
struct Limbo {
    /// Of endpoints that are over, and that could not be made what they were.
    kept: BTreeSet<EndpointId>,
    /// Not found by the last look.
    lost: BTreeSet<EndpointId>,
}

/// The driver's own count of its upkeep, since it was started.
#[derive(Debug, Default)]
pub struct Upkeep {
    tallies: [Tally; Action::ALL.len()],
    limbo: Mutex<Limbo>,
}

impl Upkeep {
    pub(super) fn done(&self, action: Action) {
        self.tallies[action as usize].done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, action: Action) {
        self.tallies[action as usize].failed.fetch_add(1, Ordering::Relaxed);
    }

    /// How often each action was carried out, and how often it failed.
    pub fn tallies(&self) -> impl Iterator<Item = (Action, u64, u64)> {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Action::ALL.into_iter().zip(&self.tallies).map(move |(action, tally)| {
            let Tally { done, failed } = tally;
            (action, load(done), load(failed))
        })
    }

    /// Whether the endpoint's netdev is reserved and could not be given back, or found.
    pub fn is_in_limbo(&self, id: &EndpointId) -> bool {
        let limbo = self.limbo();
        limbo.kept.contains(id) || limbo.lost.contains(id)
    }

    /// An endpoint that is over was released, or not.
    pub(super) fn released(&self, id: &EndpointId, done: bool) {
        let mut limbo = self.limbo();
        if done {
            limbo.kept.remove(id);
            limbo.lost.remove(id);
        } else {
            limbo.kept.insert(id.clone());
        }
    }

    /// The netdev of an endpoint was looked for.
    pub(super) fn looked(&self, id: &EndpointId, found: bool) {
        let mut limbo = self.limbo();
        if found {
            limbo.lost.remove(id);
        } else {
            limbo.lost.insert(id.clone());
        }
    }

    fn limbo(&self) -> MutexGuard<'_, Limbo> {
        self.limbo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_has_its_own_tally() {
        let upkeep = Upkeep::default();
        for (index, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action as usize, index, "{action:?}");
            (0..=index).for_each(|_| upkeep.done(action));
        }
        upkeep.failed(Action::LeavePf);
        let tallies: Vec<_> = upkeep.tallies().map(|(_, done, failed)| (done, failed)).collect();
        assert_eq!(tallies, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 1)]);
    }

    #[test]
    fn limbo_ends_with_what_ended_in_it() {
        let (upkeep, id) = (Upkeep::default(), "0a".parse().unwrap());
        upkeep.released(&id, false);
        // Found, and still not what it was.
        upkeep.looked(&id, true);
        assert!(upkeep.is_in_limbo(&id));
        upkeep.released(&id, true);
        assert!(!upkeep.is_in_limbo(&id));
        upkeep.looked(&id, false);
        assert!(upkeep.is_in_limbo(&id));
        upkeep.looked(&id, true);
        assert!(!upkeep.is_in_limbo(&id));
    }
}
