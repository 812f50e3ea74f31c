//! Tenants come and go, also bad ones, and each VF is after them what it was before.
use std::{collections::BTreeSet, sync::Mutex, thread};

use crate::support::{command, driver::Driver, netns::Netns, trials};

use super::{
    bench::{Vfs, bench},
    pf::{Pf, row_mac},
    tenant::{INSIDE, Network, Tenant, Wish},
};

trials![two_hundred_tenants, hostile_tenants, tenants_put_their_vf_beneath_others];

/// How many tenants there are in all.
const TENANTS: u8 = 200;
/// How many networks share the PF.
const NETWORKS: u16 = 8;
/// How many of them come and go at the same time: a day is long where all is emulated, and mostly waiting.
const STREETS: u8 = 4;
/// The same each time; another one is worth a try after a change.
const SEED: u64 = 0x5eed;

/// Marsaglia's xorshift: what is random here has to be the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index")
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.index(words.len())]
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// VFs as a careful administrator would never leave them: each has something of its own.
#[track_caller]
fn disorder(pf: &Pf) {
    let netdev = |vf| pf.netdev(vf).expect("a netdev");
    pf.set(1, "vlan 7 qos 2");
    pf.set(2, "trust on");
    pf.set(3, "spoofchk off");
    pf.set(4, "max_tx_rate 500");
    pf.give_mac(5, "02:0a:00:00:00:05");
    command::ip(&format!("link set {} mtu 1400", netdev(0)));
    command::ip(&format!("link set {} up", netdev(6)));
    command::ip(&format!("link set {} alias admin's", netdev(1)));
    command::ip(&format!("link property add dev {} altname spare-vf", netdev(2)));
    command::ip(&format!("link set {} allmulticast on", netdev(4)));
}

/// A network's options, and what a VF's row has to show for them.
struct Tariff {
    options: Vec<(&'static str, String)>,
    vlan: u16,
    qos: u64,
    rate: Option<u64>,
    spoofchk: bool,
    trust: bool,
    mtu: Option<u64>,
}

impl Tariff {
    fn random(dice: &mut Dice, vlan: u16) -> Self {
        let mut options = vec![("vlan", vlan.to_string())];
        let qos = if vlan != 0 && dice.chance(2) { dice.below(8) } else { 0 };
        if qos != 0 {
            options.push(("vlan_qos", qos.to_string()));
        }
        let rate = dice.chance(2).then(|| 100 + dice.below(800));
        options.extend(rate.map(|rate| ("max_tx_rate", rate.to_string())));
        let mtu = dice.chance(2).then(|| 1000 + dice.below(500));
        options.extend(mtu.map(|mtu| ("mtu", mtu.to_string())));
        let privileged = dice.chance(2);
        options.push(("privileged", u8::from(privileged).to_string()));
        let switch = |dice: &mut Dice| dice.chance(3).then(|| dice.one_of(&["on", "off"]));
        let (spoofchk, trust) = (switch(dice), switch(dice));
        options.extend(spoofchk.map(|word| ("spoofchk", word.to_owned())));
        options.extend(trust.map(|word| ("trust", word.to_owned())));
        Self {
            vlan,
            qos,
            rate,
            mtu,
            spoofchk: spoofchk.map_or(!privileged, |word| word == "on"),
            trust: trust.map_or(privileged, |word| word == "on"),
            options,
        }
    }

    fn create<'a>(&self, driver: &'a Driver, pf: &'a Pf) -> Network<'a> {
        let options: Vec<_> = self.options.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Network::create(driver, pf, &options)
    }

    /// Panics unless the tenant has it.
    #[track_caller]
    fn assert_given(&self, pf: &Pf, tenant: &Tenant) {
        let (row, look) = (pf.row(tenant.vf), tenant.look());
        let vlan = &row["vlan_list"][0];
        let text = format!("{:?}: {row}, {look:?}", self.options);
        assert_eq!(vlan["vlan"].as_u64().unwrap_or(0), u64::from(self.vlan), "{text}");
        assert_eq!(vlan["qos"].as_u64().unwrap_or(0), self.qos, "{text}");
        if let Some(rate) = self.rate {
            assert_eq!(row["rate"]["max_tx"], rate, "{text}");
        }
        assert_eq!((&row["spoofchk"], &row["trust"]), (&self.spoofchk.into(), &self.trust.into()), "{text}");
        if let Some(mtu) = self.mtu {
            assert_eq!(look.mtu, mtu, "{text}");
        }
        assert_eq!((&look.mac, &row_mac(&row)), (&tenant.mac, &tenant.mac), "{text}");
    }
}

/// What a container with NET_ADMIN may do, as far as the hardware lets it.
fn misbehave(dice: &mut Dice, tenant: &Tenant) {
    let mut name = INSIDE.to_owned();
    let mut lines = Vec::new();
    for _ in 0..4 {
        match dice.below(8) {
            0 => {
                let other = format!("evil{}", dice.below(1000));
                lines.push(format!("link set {name} down"));
                lines.push(format!("link set {name} name {other}"));
                name = other;
            }
            1 => lines.push(format!("link set {name} address 02:66:00:00:00:{:02x}", dice.below(256))),
            2 => lines.push(format!("link set {name} mtu {}", 1000 + dice.below(500))),
            3 => lines.push(format!("link set {name} promisc on multicast off")),
            4 => lines.push(format!("link set {name} allmulticast on arp off txqueuelen 7")),
            5 => lines.push(format!("link set {name} alias docker-passthrough")),
            6 => lines.push(format!("link property add dev {name} altname evil-{}", dice.below(1000))),
            _ => lines.push(format!("link set {name} down")),
        }
    }
    // Up to the first that it may not.
    let _ = command::ip_batch(Some(&tenant.netns.path()), &lines);
}

fn two_hundred_tenants() {
    let bench = bench();
    let mut vfs = bench.with_vfs();
    disorder(vfs.pf);
    vfs.settle();
    churn(&vfs);
    vfs.assert_as_before();
    vfs.pf.set_count(0);
}

#[track_caller]
fn churn(vfs: &Vfs) {
    let (driver, mut dice) = (Driver::start(), Dice(SEED));
    let tariffs: Vec<_> =
        (0..NETWORKS).map(|n| Tariff::random(&mut dice, if n == 0 { 0 } else { 100 * n })).collect();
    let offers: Vec<_> = tariffs.iter().map(|tariff| (tariff, tariff.create(&driver, vfs.pf))).collect();
    let (pf, given) = (vfs.pf, &Mutex::new(BTreeSet::new()));
    // Streets with networks of their own, side by side, and VFs enough for all of them.
    thread::scope(|scope| {
        let streets: Vec<_> = offers
            .chunks(offers.len() / usize::from(STREETS))
            .zip(0..)
            .map(|(offers, n)| scope.spawn(move || street(pf, offers, n, given)))
            .collect();
        for street in streets {
            street.join().expect("no panic in there");
        }
    });
    assert!(driver.stats().is_empty());
    for (_, network) in offers {
        network.remove();
    }
    driver.finish();
}

/// Tenants come and go, never more than there are VFs for all streets. No VF is given while it is in `given`.
#[track_caller]
fn street(pf: &Pf, offers: &[(&Tariff, Network)], n: u8, given: &Mutex<BTreeSet<u32>>) {
    let mut dice = Dice(SEED + u64::from(n));
    let at_once = usize::try_from((pf.total() + u32::from(n)) / u32::from(STREETS)).expect("a count");
    let given = || given.lock().expect("no panic elsewhere");
    let mut tenants: Vec<Tenant> = Vec::new();
    // Namespaces are taken again, for the sake of time.
    let mut spare: Vec<Netns> = Vec::new();
    let mut started = 0;
    while started < TENANTS / STREETS || !tenants.is_empty() {
        let full = tenants.len() == at_once || started == TENANTS / STREETS;
        if !full && (tenants.is_empty() || dice.chance(2)) {
            let (tariff, network) = &offers[dice.index(offers.len())];
            let mac =
                dice.chance(3).then(|| format!("02:77:00:{n:02x}:{:02x}:{started:02x}", dice.below(256)));
            let mut wish = Wish { mac: mac.unwrap_or_default(), vf: None };
            wish.vf = dice.chance(3).then(|| u32::try_from(dice.index(7)).expect("a number"));
            let mut netns = || spare.pop().unwrap_or_else(|| Netns::new(format!("churn{n}-{started}")));
            let tenant = network.attempt_in(&wish, |_| netns()).or_else(|complaint| {
                // It is another street's.
                assert!(wish.vf.is_some() && complaint.contains("in use"), "{complaint}");
                wish.vf = None;
                network.attempt_in(&wish, |_| netns())
            });
            let tenant = tenant.expect("a VF");
            assert!(wish.vf.is_none_or(|vf| vf == tenant.vf), "{wish:?}: VF {}", tenant.vf);
            assert!(given().insert(tenant.vf), "VF {} given twice", tenant.vf);
            tariff.assert_given(pf, &tenant);
            tenants.push(tenant);
            started += 1;
        } else {
            let tenant = tenants.swap_remove(dice.index(tenants.len()));
            if dice.chance(3) {
                misbehave(&mut dice, &tenant);
            }
            given().remove(&tenant.vf);
            if dice.chance(8) {
                tenant.die();
            } else {
                spare.push(tenant.leave());
            }
        }
    }
}

fn hostile_tenants() {
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("privileged", "1"), ("vlan", "100")]);
    for death in [false, true] {
        let tenant = network.start(&Wish::vf(3));
        tenant.netns.ip("link set eth0 down");
        tenant.netns.ip("link set eth0 address 02:66:00:00:00:02");
        tenant.netns.ip("link set eth0 mtu 1300");
        tenant.netns.ip("link set eth0 name evil0");
        tenant.netns.ip("link property add dev evil0 altname evil1");
        tenant.netns.ip("link set evil0 promisc on allmulticast on multicast off arp off");
        tenant.netns.ip("link set evil0 alias evil txqueuelen 7");
        tenant.netns.ip("link set evil0 up");
        // A decoy where Docker looks.
        tenant.netns.ip("link add eth0 type bridge");
        if death {
            tenant.die();
        } else {
            tenant.stop();
        }
        vfs.assert_as_before();
        let next = network.start(&Wish::vf(3));
        assert_eq!((next.look().mtu, next.look().altnames.len()), (1500, 0), "{:?}", next.look());
        next.stop();
    }
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}

/// What a container makes on top of its netdev, or puts that into.
fn tenants_put_their_vf_beneath_others() {
    command::run("modprobe", &["-a", "8021q", "bonding", "macvlan"]);
    let bench = bench();
    let vfs = bench.with_vfs();
    let driver = Driver::start();
    let network = Network::create(&driver, vfs.pf, &[("privileged", "1"), ("vlan", "100")]);
    let bond = [
        "link add evil0 type bond mode active-backup miimon 50",
        "link set eth0 down",
        "link set eth0 master evil0",
        "link set evil0 up",
    ];
    let bridge = [
        "link add evil0 type bridge",
        "link set eth0 master evil0",
        "link set evil0 up",
        "link add link eth0 name evil1 type vlan id 200",
        "link set evil1 up",
    ];
    let macvlan = ["link add link eth0 name evil1 type macvlan mode bridge", "link set evil1 up"];
    for (misdeeds, death) in [(&bond[..], false), (&bridge[..], false), (&macvlan[..], true)] {
        let tenant = network.start(&Wish::vf(3));
        command::ip_batch(
            Some(&tenant.netns.path()),
            &misdeeds.iter().map(|&line| line.to_owned()).collect::<Vec<_>>(),
        )
        .expect("NET_ADMIN may");
        if death {
            tenant.die();
        } else {
            let netns = tenant.leave();
            // A bond and a bridge have let go of it; what stood on it is over.
            assert!(netns.place().attempt("ip link show dev evil1").is_err());
        }
        vfs.assert_as_before();
    }
    let next = network.start(&Wish::vf(3));
    assert_eq!((next.look().mtu, next.look().master), (1500, None));
    next.stop();
    network.remove();
    driver.finish();
    vfs.assert_as_before();
}
