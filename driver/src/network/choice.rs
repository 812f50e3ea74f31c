//! Which VF a container gets, and what an error says who has them.
use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{CreateEndpoint, Driver, Error, Result, assign::Chosen};
use crate::{
    device::{
        Change, Link, LinkRef, Mac, Stats,
        claim::{Claim, claim},
        link::{MAX_NAME, require},
        pci,
        vf::VfSettings,
    },
    state::{EndpointId, State, VfGrant},
};

/// VFs that are being assigned, by their hardware. From choosing one to remembering it takes a while, which
/// those who choose another need not wait for.
#[derive(Debug, Default)]
pub(super) struct Reservations(Arc<Mutex<Table>>);

type Table = HashMap<String, Taker>;

/// Who gets a VF, and the hardware address that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Taker {
    pub endpoint: EndpointId,
    pub mac: Option<Mac>,
}

/// Nobody else gets this VF, as long as this lives.
#[derive(Debug)]
pub(super) struct Reserved {
    table: Arc<Mutex<Table>>,
    hardware: String,
    /// Nor does another driver.
    _claim: Option<Claim>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.hardware);
    }
}

impl Reservations {
    /// None if somebody has reserved it, also if it is another driver that assigns it or takes it back.
    pub(super) fn reserve(&self, hardware: String, taker: Taker) -> Option<Reserved> {
        match self.table().entry(hardware.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                let claim = match claim(&hardware) {
                    Ok(claim) => Some(claim?),
                    Err(error) => {
                        tracing::warn!(hardware, %error, "keeping other drivers off it");
                        None
                    }
                };
                free.insert(taker);
                Some(Reserved { table: Arc::clone(&self.0), hardware, _claim: claim })
            }
        }
    }

    /// Those of this moment. Who asks for the state afterwards sees each that is somebody's in one of the
    /// two: it is remembered before it is no longer reserved.
    pub(super) fn now(&self) -> Table {
        self.table().clone()
    }

    /// Whether this endpoint is just getting its VF.
    pub(super) fn is_for(&self, id: &EndpointId) -> bool {
        self.table().values().any(|taker| taker.endpoint == *id)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A free VF that was chosen.
struct Candidate {
    vf: pci::Vf,
    siblings: Vec<pci::Vf>,
    original: VfSettings,
    netdev: Option<Link>,
    reserved: Reserved,
}

impl Driver {
    /// Chooses a free VF, and makes sure that it has a netdev under a name that it can come home with. The
    /// VF is nobody else's until what comes with it is dropped.
    pub(super) async fn choose_vf(&self, pf: &Link, request: &CreateEndpoint) -> Result<(Chosen, Reserved)> {
        let mut passed_over = BTreeMap::new();
        loop {
            let Candidate { vf, siblings, original, netdev, reserved } =
                self.reserve_vf(pf, request, &passed_over).await?;
            tracing::info!(netdevice = pf.name, vf = vf.index, "chosen");
            let usable = async {
                let found = self.usable_vf(pf, &siblings, &vf, netdev).await?;
                let (link, uppers) = self.examined(&request.network, found).await?;
                // Until it was reserved and examined, a stray's or another driver's settings can have been on it. Not
                // so an address, which its own driver may have told the PF meanwhile.
                let now = self.rtnl.vf_settings(pf.ifindex).await?.remove(&vf.index);
                let now = now.map(|now| VfSettings { mac: original.mac, ..now });
                Ok::<_, Error>((link, uppers, now.unwrap_or(original)))
            };
            match usable.await {
                Ok((link, uppers, original)) => {
                    let own = original.mac.unwrap_or_else(|| stable_mac(pf, vf.index));
                    let mac = link.mac.map(|_| request.mac.unwrap_or(own));
                    let counters = self.vf_counters(pf, vf.index).await;
                    let pf = pf.hardware().unwrap_or_default();
                    let grant = VfGrant { pf, index: vf.index, original, counters };
                    return Ok((Chosen { link, mac, vf: Some(grant), lower: None, uppers }, reserved));
                }
                Err(error) => {
                    tracing::warn!(netdevice = pf.name, vf = vf.index, %error, "passed over");
                    passed_over.insert(vf.index, error.to_string());
                }
            }
        }
    }

    /// A free VF: the one asked for by number or by address, else the lowest.
    async fn reserve_vf(
        &self,
        pf: &Link,
        request: &CreateEndpoint,
        passed_over: &BTreeMap<u32, String>,
    ) -> Result<Candidate> {
        // Until it is reserved.
        let _pf = self.pfs.lock(&pf.hardware().unwrap_or_default()).await;
        // In this order, and then the kernel: one that is handed back is as it was before it is forgotten.
        let reserved = self.reserved.now();
        let state = self.store.get();
        let siblings = pci::vfs(pf);
        let settings = self.rtnl.vf_settings(pf.ifindex).await?;
        let (links, lowers) = (self.rtnl.links().await?, self.rtnl.lowers().await?);
        let netdev = |vf: &pci::Vf| links.iter().find(|link| link.is_hardware("pci", &vf.address));
        let has_mac = |vf: &pci::Vf, mac| {
            let hardware = vf.hardware();
            settings.get(&vf.index).is_some_and(|settings| settings.mac == mac)
                || netdev(vf).is_some_and(|link| link.mac == mac)
                || state.holder(&hardware).is_some_and(|(.., endpoint)| endpoint.mac == mac)
                || reserved.get(&hardware).is_some_and(|taker| taker.mac == mac)
        };
        let of_mac = request.mac.and_then(|mac| siblings.iter().find(|vf| has_mac(vf, Some(mac))));

        let mut users = passed_over.clone();
        for vf in siblings.iter().filter(|vf| !passed_over.contains_key(&vf.index)) {
            let user = match reserved.get(&vf.hardware()) {
                Some(taker) => Some(format!("endpoint {}", taker.endpoint.short())),
                None => self.vf_user(&state, vf, netdev(vf), &lowers).await?,
            };
            // Such a VF could not be given back as it was.
            let user = user.or_else(|| {
                let unknown = !settings.contains_key(&vf.index);
                unknown.then(|| "the PF's driver does not tell its settings".to_owned())
            });
            users.extend(user.map(|user| (vf.index, user)));
        }
        let (name, count) = (pf.name.clone(), siblings.len());
        let user_of = |index| users.get(index).filter(|_| !passed_over.contains_key(index));
        if let (Some(index), Some(mac), Some(other)) = (request.vf, request.mac, of_mac)
            && !siblings.iter().any(|vf| vf.index == index && has_mac(vf, Some(mac)))
            && let Some(user) = user_of(&other.index)
        {
            let user = format!("{user}, on {name} VF {}", other.index);
            return Err(Error::MacInUse { mac, user });
        }
        let wanted = match request.vf {
            Some(index) if !siblings.iter().any(|vf| vf.index == index) => {
                return Err(Error::NoSuchVf { pf: name, index, count });
            }
            Some(index) => Some(index),
            None => of_mac.map(|vf| vf.index),
        };
        if let Some(index) = wanted
            && let Some(user) = user_of(&index)
        {
            return Err(Error::InUse { netdevice: format!("{name} VF {index}"), user: user.clone() });
        }
        let taker = Taker { endpoint: request.endpoint.clone(), mac: request.mac };
        for vf in siblings.iter().filter(|vf| wanted.is_none_or(|index| index == vf.index)) {
            let Some(original) = settings.get(&vf.index).filter(|_| !users.contains_key(&vf.index)) else {
                continue;
            };
            if let Some(reserved) = self.reserved.reserve(vf.hardware(), taker.clone()) {
                let (vf, original, netdev) = (vf.clone(), original.clone(), netdev(vf).cloned());
                return Ok(Candidate { vf, siblings, original, netdev, reserved });
            }
            let user = "another driver, or a stray that is just being recovered".to_owned();
            if wanted.is_some() {
                return Err(Error::InUse { netdevice: format!("{name} VF {}", vf.index), user });
            }
            users.insert(vf.index, user);
        }
        let users = users.iter().map(|(vf, user)| format!("VF {vf}: {user}")).collect();
        Err(Error::NoFreeVf { pf: name, count, users })
    }

    /// Who has the VF; none if it is free.
    pub(super) async fn vf_user(
        &self,
        state: &State,
        vf: &pci::Vf,
        netdev: Option<&Link>,
        lowers: &HashSet<u32>,
    ) -> Result<Option<String>> {
        if let Some((_, id, endpoint)) = state.holder(&vf.hardware()) {
            return Ok(Some(endpoint.user(id)));
        }
        if let Some(driver) = vf.driver.as_ref().filter(|driver| pci::is_userspace(driver)) {
            return Ok(Some(format!("bound to {driver}")));
        }
        let Some(netdev) = netdev else {
            // Without a driver it is probed; with one, its netdev is in some other namespace.
            return Ok(vf.driver.as_ref().map(|_| "another network namespace".to_owned()));
        };
        if let Some((id, network)) =
            state.networks.iter().find(|(_, network)| network.options.netdevice == netdev.name)
        {
            return Ok(Some(network.title(id)));
        }
        if let Some(driver) = self.other_driver(netdev) {
            return Ok(Some(driver));
        }
        Ok(self.host_uses(netdev, lowers).await?.then(|| format!("the host ({})", netdev.name)))
    }

    /// What the hardware has counted for the VF; none where that can't be asked for.
    pub(super) async fn vf_counters(&self, pf: &Link, vf: u32) -> Option<Stats> {
        let rows = self.rtnl.vf_counters(pf).await.ok()?;
        rows.get(&vf).copied()
    }

    /// The VF's netdev, which its driver may have to make first.
    async fn usable_vf(
        &self,
        pf: &Link,
        siblings: &[pci::Vf],
        vf: &pci::Vf,
        netdev: Option<Link>,
    ) -> Result<Link> {
        let link = match netdev {
            Some(link) => link,
            None => self.bind_vf(pf, siblings, vf).await?,
        };
        self.named(self.when_named(link).await?, pf, vf.index).await
    }

    /// The netdev under a name that it can come home with. Where nobody names them by their hardware, the
    /// kernel gives a new one the name of one that is in a container.
    async fn named(&self, link: Link, pf: &Link, vf: u32) -> Result<Link> {
        let taken = |name: &str| self.store.get().endpoints().any(|(.., other)| other.original.name == name);
        if !taken(&link.name) {
            return Ok(link);
        }
        let suffix = format!("v{vf}");
        let stem: String = pf.name.chars().take(MAX_NAME - suffix.len()).collect();
        let name = format!("{stem}{suffix}");
        tracing::info!(netdevice = link.name, name, "renamed: its name is that of a netdev in a container");
        for up in [false, link.up] {
            let name = (!up).then(|| name.clone());
            self.rtnl.change(link.ifindex, &Change { name, up: Some(up), ..Change::default() }).await?;
        }
        Ok(require(&self.rtnl, LinkRef::Index(link.ifindex)).await?)
    }
}

/// A locally administered address for a VF that has none: always the same for one VF of one PF.
fn stable_mac(pf: &Link, vf: u32) -> Mac {
    // FNV-1a, as it needs to be the same in every version of this driver.
    // A bond gives all its members one address.
    let seed = pf.permanent_mac.or(pf.mac).map(|mac| mac.0).unwrap_or_default();
    let bytes = seed.into_iter().chain(vf.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [_, _, _, tail @ ..] = hash.to_be_bytes();
    let mut octets = [0x02; 6];
    octets[1..].copy_from_slice(&tail);
    Mac(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stable_mac_is_assignable_and_each_vf_has_its_own() {
        let pf = Link { mac: Some("02:00:00:00:00:10".parse().unwrap()), ..Link::default() };
        let macs: std::collections::HashSet<_> = (0..256).map(|vf| stable_mac(&pf, vf)).collect();
        assert_eq!(macs.len(), 256);
        assert!(macs.iter().all(|mac| mac.is_assignable() && mac.0[0] & 2 != 0));
        // Never another one: it is in neighbours' caches and in DHCP leases.
        assert_eq!(stable_mac(&pf, 0), stable_mac(&pf, 0));
        // Also as a member of a bond, whose address another PF has then, too.
        let member = |own: &str| Link { permanent_mac: Some(own.parse().unwrap()), ..pf.clone() };
        assert_eq!(stable_mac(&member("02:00:00:00:00:10"), 0), stable_mac(&pf, 0));
        assert_ne!(stable_mac(&member("02:00:00:00:00:11"), 0), stable_mac(&pf, 0));
    }
}
