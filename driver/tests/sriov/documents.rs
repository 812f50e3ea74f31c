//! The commands in README.md and docs/ that are about VFs, as they stand there but for what this hardware has not.
use std::collections::BTreeMap;

use crate::support::{
    command,
    docker::{Engine, IMAGE},
    documents::commands,
    driver::Driver,
    trials,
};

use super::bench::bench;

trials![commands_about_vfs_and_bonds];

/// The PF of the documents.
const PF: &str = "ens2f1";
const BOND: &str = "bond0";

fn commands_about_vfs_and_bonds() {
    let (bench, engine) = (bench(), Engine::shared());
    let vfs = bench.with_vfs();
    let driver = Driver::start_beside(&engine.host());
    command::ip(&format!("link property add dev {} altname {PF}", vfs.pf.name));
    command::run("modprobe", &["bonding", "max_bonds=0"]);
    command::ip(&format!("link add {BOND} type bond"));
    let own = |text: &str| {
        let text = text.replace("-d passthrough ", &format!("-d {} ", driver.name));
        // It has one less.
        let text = text.replace("vfs=8", "vfs=7");
        let idle = format!("{IMAGE} sleep 1000000");
        text.replace("redis", &idle).replace(" IMAGE", &format!(" {idle}"))
    };
    let mut typed = 0;
    let run = |place: &str, text: &str| {
        let words: Vec<_> = text.split(' ').collect();
        assert_eq!(words[0], "docker", "{place}");
        let said = engine.attempt(&words[1..]);
        said.unwrap_or_else(|complaint| panic!("{place}: {complaint}\n{}", driver.log()))
    };
    // One network at a time, as each is an example of its own.
    let mut made: Option<String> = None;
    let remove = |made: &mut Option<String>| {
        if let Some(network) = made.take() {
            for container in engine.docker(&["ps", "-aq", "--filter", &format!("network={network}")]).lines()
            {
                engine.docker(&["rm", "-f", container]);
            }
            engine.docker(&["network", "rm", &network]);
        }
    };
    let mut examples = BTreeMap::new();
    for command in commands().iter().filter(|one| one.reason().is_none() && one.wants_hardware()) {
        let text = own(&command.text);
        if text.starts_with("docker network create") {
            remove(&mut made);
            made = text.rsplit(' ').next().map(str::to_owned);
            examples.insert(made.clone(), text.clone());
        } else if made.as_deref() != Some("red") {
            // What is further up the page.
            remove(&mut made);
            made = Some("red".into());
            run("red", &examples[&made]);
        }
        run(&command.place(), &text);
        typed += 1;
    }
    remove(&mut made);
    assert!(typed >= 12, "only {typed} commands were found: has the documents' form changed?");
    command::ip(&format!("link del {BOND}"));
    command::ip(&format!("link property del dev {} altname {PF}", vfs.pf.name));
    vfs.assert_as_before();
    driver.finish();
}
