//! Where the kernel has no TCX, frames are counted by filters, which any move of a netdev drops and a
//! container with NET_ADMIN can take off. Here they are put on as soon as the netdev is in its container, and
//! again whenever they are gone.
//!
//! It goes by what the kernel tells the host of other namespaces. A socket of ours in a container would keep
//! that alive, so one is opened there for each look, and closed again.
use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Driver, Error, Result, locate::Place};
use crate::{
    counters,
    device::{
        Rtnl,
        clsact::{Direction, Filter},
        events::{Changed, Events},
        netns,
        netns::NetNs,
    },
    state::{Endpoint, EndpointId, NetworkId},
};

/// How often all are looked at, whatever is heard.
const LOOK: Duration = Duration::from_secs(10);
/// An endpoint is looked at as often as something happens to its netdev, up to so many times in a row, and
/// then once in this time: a container that takes its filters off in a loop shall not cost the host much.
const IN_A_ROW: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// The same for reading what is heard: a container can make any number of events.
const READ: Duration = Duration::from_millis(20);
const READ_IN_A_ROW: u32 = 100;
/// If more happened than could be heard, all are looked at, at most this often.
const MISSED: Duration = Duration::from_secs(1);
/// A container that takes its filters off is in the log this often, and so is what fails.
const QUIET: Duration = Duration::from_mins(1);

/// Endpoints that are counted by filters.
#[derive(Default)]
pub(super) struct Filtered {
    endpoints: Mutex<HashMap<EndpointId, Tended>>,
    /// Some are to be looked at now.
    wake: Notify,
}

struct Tended {
    network: NetworkId,
    /// The netdev's number on the host, and where it was seen last.
    numbers: [u32; 2],
    due: bool,
}

impl Filtered {
    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Tended>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, and now.
    fn begin(&self, network: &NetworkId, id: &EndpointId, ifindex: u32) {
        let tended = Tended { network: network.clone(), numbers: [ifindex; 2], due: true };
        self.lock().insert(id.clone(), tended);
        self.wake.notify_one();
    }

    /// No more.
    pub(super) fn end(&self, id: &EndpointId) {
        self.lock().remove(id);
    }

    fn seen(&self, id: &EndpointId, ifindex: u32) {
        if let Some(tended) = self.lock().get_mut(id) {
            tended.numbers[1] = ifindex;
        }
    }

    /// Those that something has happened to.
    fn touched(&self, netdevs: &BTreeSet<u32>) -> Vec<EndpointId> {
        let all = self.lock();
        let touched = all.iter().filter(|(_, tended)| tended.numbers.iter().any(|n| netdevs.contains(n)));
        touched.map(|(id, _)| id.clone()).collect()
    }

    fn due(&self) -> Vec<EndpointId> {
        let mut all = self.lock();
        let due = all.iter_mut();
        due.filter_map(|(id, tended)| std::mem::take(&mut tended.due).then(|| id.clone())).collect()
    }

    fn all(&self) -> Vec<EndpointId> {
        self.lock().keys().cloned().collect()
    }

    fn network(&self, id: &EndpointId) -> Option<NetworkId> {
        self.lock().get(id).map(|tended| tended.network.clone())
    }
}

/// As many turns as asked for, up to a number in a row; then one in a time.
struct Turns {
    left: u32,
    most: u32,
    pause: Duration,
    since: Instant,
}

impl Turns {
    fn new(most: u32, pause: Duration) -> Self {
        Self { left: most, most, pause, since: Instant::now() }
    }

    /// How long to wait for the next turn, which is taken.
    fn take(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.since).as_nanos() / self.pause.as_nanos().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.most);
            self.since = now;
        }
        if self.left > 0 {
            self.left -= 1;
            return Duration::ZERO;
        }
        self.pause
    }
}

/// What a look came to.
enum Looked {
    /// The filters are there.
    Counted,
    /// They were not, and are now.
    PutBack,
    /// The netdev is in no container.
    NotAway,
}

impl Driver {
    /// The filters of an endpoint; none if it is counted by links, or not at all.
    pub(super) async fn filters(&self, id: &EndpointId) -> Result<Vec<Filter>> {
        let (bpffs, endpoint) = (self.bpffs.clone(), id.clone());
        match self.counters(move |_| counters::filters(&bpffs, &endpoint)).await {
            Err(Error::Counters(counters::Error::NotCounted { .. })) => Ok(Vec::new()),
            filters => filters,
        }
    }

    /// Attaches the filters, if it is them that count the endpoint, to its netdev on the host: what the
    /// kernel refuses fails the container's start, and is not found out when it runs. From here on they are
    /// looked after.
    pub(super) async fn filter_at_home(
        &self,
        network: &NetworkId,
        id: &EndpointId,
        endpoint: &Endpoint,
        ifindex: u32,
    ) -> Result<()> {
        let filters = self.filters(id).await?;
        if filters.is_empty() {
            return Ok(());
        }
        // Not in the place of a qdisc of the host's.
        if !endpoint.original.ingress {
            self.rtnl.attach_filters(ifindex, &filters).await?;
        }
        self.filtered.begin(network, id, ifindex);
        Ok(())
    }

    /// Looks after the filters that a driver before this one attached.
    pub(super) async fn filter_again(&self, network: &NetworkId, id: &EndpointId, endpoint: &Endpoint) {
        match self.filters(id).await {
            Ok(filters) if filters.is_empty() => {}
            Ok(_) => self.filtered.begin(network, id, endpoint.ifindex),
            Err(error) => tracing::error!(%id, %error, "the filters that count"),
        }
    }

    /// Keeps filters attached as long as the driver runs. Nothing to do where the kernel has TCX.
    pub async fn keep_filters(self: Arc<Self>) {
        if counters::has_tcx() {
            return;
        }
        tracing::info!(
            "this kernel has no TCX: counting by clsact, which is put back where a container removes it"
        );
        // What is looking ends with it.
        let mut looks = HashMap::new();
        loop {
            let failed = match Events::listen() {
                Ok(events) => self.keep_by(&events, &mut looks).await,
                Err(error) => error,
            };
            tracing::error!(error = %failed, "listening for changes in containers");
            looks.retain(|id, _| self.filtered.network(id).is_some());
            self.tend(self.filtered.all(), &mut looks);
            sleep(LOOK).await;
        }
    }

    /// Ends with what went wrong.
    async fn keep_by(self: &Arc<Self>, events: &Events, looks: &mut HashMap<EndpointId, Look>) -> io::Error {
        let mut reads = Turns::new(READ_IN_A_ROW, READ);
        let (mut tick, mut missed) = (interval(LOOK), false);
        let mut again = interval(MISSED);
        for interval in [&mut tick, &mut again] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let due = tokio::select! {
                changed = events.next() => {
                    match changed {
                        Ok(Changed::Netdevs(netdevs)) => self.tend(self.filtered.touched(&netdevs), looks),
                        Ok(Changed::Anything) => missed = true,
                        Err(error) => return error,
                    }
                    sleep(reads.take(Instant::now())).await;
                    continue;
                }
                () = self.filtered.wake.notified() => self.filtered.due(),
                _ = again.tick(), if missed => {
                    missed = false;
                    self.filtered.all()
                }
                _ = tick.tick() => {
                    looks.retain(|id, _| self.filtered.network(id).is_some());
                    self.filtered.all()
                }
            };
            self.tend(due, looks);
        }
    }

    /// Has the endpoints looked at, each by a task of its own.
    fn tend(self: &Arc<Self>, due: Vec<EndpointId>, looks: &mut HashMap<EndpointId, Look>) {
        for id in due {
            let look = looks.entry(id).or_insert_with_key(|id| {
                let wake = Arc::new(Notify::new());
                let task = Arc::clone(self).keep_looking(id.clone(), Arc::clone(&wake));
                Look { wake, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
            });
            look.wake.notify_one();
        }
    }

    async fn keep_looking(self: Arc<Self>, id: EndpointId, wake: Arc<Notify>) {
        let mut turns = Turns::new(IN_A_ROW, PAUSE);
        let (mut counted, mut said, mut silent) = (false, None::<Instant>, 0_u64);
        let mut complained = None::<Instant>;
        let is_quiet = |last: Option<Instant>| last.is_none_or(|last| last.elapsed() > QUIET);
        loop {
            wake.notified().await;
            let Some(network) = self.filtered.network(&id) else { continue };
            match self.look(&network, &id).await {
                Ok(Looked::NotAway) => {}
                Ok(Looked::Counted) => counted = true,
                Ok(Looked::PutBack) if !counted => {
                    counted = true;
                    tracing::debug!(%id, "counted in its container");
                }
                Ok(Looked::PutBack) if is_quiet(said) => {
                    tracing::warn!(%id, more = silent, "the container took the counters off, and they are back");
                    (said, silent) = (Some(Instant::now()), 0);
                }
                Ok(Looked::PutBack) => silent += 1,
                Err(error) if is_quiet(complained) => {
                    tracing::warn!(%id, %error, "counting it in its container");
                    complained = Some(Instant::now());
                }
                Err(error) => tracing::debug!(%id, %error, "counting it in its container"),
            }
            sleep(turns.take(Instant::now())).await;
        }
    }

    async fn look(&self, network: &NetworkId, id: &EndpointId) -> Result<Looked> {
        let state = self.store.get();
        let Some(endpoint) = state.endpoint(network, id) else { return Ok(Looked::NotAway) };
        let filters = self.filters(id).await?;
        // There first, as it is most often there and a moment counts.
        let (netns, ifindex) = match self.in_sandbox(id, endpoint).await {
            Ok(Some(found)) => found,
            Ok(None) | Err(_) => match self.locate(id, endpoint).await? {
                Place::Away(netns, ifindex) => (netns, ifindex),
                Place::Home(_) | Place::Gone => return Ok(Looked::NotAway),
            },
        };
        let put_back = Rtnl::within(&netns)
            .map_err(Error::io("an rtnetlink socket in the container"))?
            .attach_filters(ifindex, &filters)
            .await?;
        if put_back && !self.is_still(id, endpoint, &netns, ifindex, &filters).await? {
            return Ok(Looked::NotAway);
        }
        self.filtered.seen(id, ifindex);
        // One that the container has moved it to has none: nothing would be heard of it.
        self.rtnl.give_nsid(&netns).await?;
        Ok(if put_back { Looked::PutBack } else { Looked::Counted })
    }

    /// Whether the filters are on the endpoint's netdev, and not on one that got its number as it went.
    async fn is_still(
        &self,
        id: &EndpointId,
        endpoint: &Endpoint,
        netns: &NetNs,
        ifindex: u32,
        filters: &[Filter],
    ) -> Result<bool> {
        if let Place::Away(now, at) = self.locate(id, endpoint).await?
            && (now.inode(), at) == (netns.inode(), ifindex)
        {
            return Ok(true);
        }
        let rtnl = Rtnl::within(netns).map_err(Error::io("an rtnetlink socket in the container"))?;
        rtnl.detach_filters(ifindex, filters).await?;
        Ok(false)
    }

    /// Whether a netdev, in whatever namespace, has the filters of an endpoint that nobody remembers.
    pub(super) async fn is_filtered(&self, id: &EndpointId) -> Result<bool> {
        let Some(filter) = self.filters(id).await?.pop() else { return Ok(false) };
        for path in netns::others(&self.home) {
            let Ok(netns) = NetNs::open(&path) else { continue };
            let rtnl = Rtnl::within(&netns).map_err(Error::io("an rtnetlink socket in a namespace"))?;
            if rtnl.filtered(Direction::Egress, filter.id, None).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Looks at one endpoint, each time that it is woken.
struct Look {
    wake: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn so_many_turns_in_a_row_and_then_one_in_a_time() {
        let mut turns = Turns::new(3, PAUSE);
        let start = turns.since;
        for _ in 0..3 {
            assert_eq!(turns.take(start), Duration::ZERO);
        }
        assert_eq!(turns.take(start), PAUSE);
        assert_eq!(turns.take(start + PAUSE), Duration::ZERO);
        assert_eq!(turns.take(start + PAUSE), PAUSE);
        for _ in 0..3 {
            assert_eq!(turns.take(start + PAUSE * 100), Duration::ZERO);
        }
        assert_eq!(turns.take(start + PAUSE * 100), PAUSE);
    }

    #[test]
    fn what_happens_to_a_netdev_is_its_endpoints() {
        let filtered = Filtered::default();
        let (network, a, b): (NetworkId, EndpointId, EndpointId) =
            ("c0".parse().unwrap(), "a0".parse().unwrap(), "b0".parse().unwrap());
        filtered.begin(&network, &a, 7);
        filtered.begin(&network, &b, 8);
        filtered.seen(&b, 2);
        assert_eq!(filtered.due().len(), 2);
        assert!(filtered.due().is_empty());
        assert_eq!(filtered.touched(&[1, 7].into()), from_ref(&a));
        assert_eq!(filtered.touched(&[2].into()), from_ref(&b));
        assert_eq!(filtered.touched(&[8].into()), from_ref(&b));
        assert!(filtered.touched(&[9].into()).is_empty());
        filtered.end(&b);
        assert!(filtered.touched(&[2, 8].into()).is_empty());
        assert_eq!(filtered.all(), [a]);
    }
}
