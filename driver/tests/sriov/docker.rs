//! Networks of a real engine on VFs.
use crate::support::{container::Container, docker::Engine, driver::Driver};

use super::{bench::Segment, pf::Pf};

/// A network of an engine, removed when this goes out of scope.
pub struct DockerNetwork<'a> {
    engine: &'a Engine,
    pub name: String,
}

impl<'a> DockerNetwork<'a> {
    /// `docker network create -o netdevice=PF -o vlan=… …`, in the subnet of a segment.
    #[track_caller]
    pub fn create(engine: &'a Engine, driver: &Driver, pf: &Pf, segment: &Segment, options: &[&str]) -> Self {
        Self::attempt(engine, driver, pf, segment, options)
            .unwrap_or_else(|complaint| panic!("docker network create {options:?}: {complaint}"))
    }

    /// The same, or the complaint.
    pub fn attempt(
        engine: &'a Engine,
        driver: &Driver,
        pf: &Pf,
        segment: &Segment,
        options: &[&str],
    ) -> Result<Self, String> {
        let vlan = format!("vlan={}", segment.vlan);
        Self::over(engine, driver, &pf.name, segment, &[&[vlan.as_str()], options].concat())
    }

    /// `docker network create -o netdevice=NETDEVICE …`, in the subnet of a segment; or the complaint.
    pub fn over(
        engine: &'a Engine,
        driver: &Driver,
        netdevice: &str,
        segment: &Segment,
        options: &[&str],
    ) -> Result<Self, String> {
        let name = format!("{}-{}", driver.name, segment.host(0));
        let netdevice = format!("netdevice={netdevice}");
        let (subnet, gateway) = (segment.subnet(), segment.gateway());
        let mut args = vec!["network", "create", "-d", &driver.name, "-o", &netdevice];
        args.extend(["--subnet", &subnet, "--gateway", &gateway]);
        for option in options {
            args.extend(["-o", option]);
        }
        args.push(&name);
        engine.attempt(&args)?;
        Ok(Self { engine, name })
    }

    /// `docker run` of a process that does nothing.
    #[track_caller]
    pub fn run(&self, name: &str, options: &[&str]) -> Container<'a> {
        self.try_run(name, options).unwrap_or_else(|complaint| {
            panic!("docker run {}: {complaint}\n{}", options.join(" "), self.engine.log())
        })
    }

    /// The same, or the complaint.
    pub fn try_run(&self, name: &str, options: &[&str]) -> Result<Container<'a>, String> {
        let network = ["--network", &self.name];
        Container::run(self.engine, format!("{name}-{}", self.name), &[&network, options].concat())
    }

    /// `docker run` with `--network name=…,…`.
    pub fn run_with(&self, name: &str, network: &str, options: &[&str]) -> Result<Container<'a>, String> {
        let network = format!("name={},{network}", self.name);
        let network = ["--network", network.as_str()];
        Container::run(self.engine, format!("{name}-{}", self.name), &[&network, options].concat())
    }

    /// Its id.
    #[track_caller]
    pub fn id(&self) -> String {
        self.engine.docker(&["network", "inspect", "-f", "{{.Id}}", &self.name])
    }

    /// `docker network rm`.
    #[track_caller]
    pub fn remove(self) {
        self.engine.docker(&["network", "rm", &self.name]);
    }
}

impl Drop for DockerNetwork<'_> {
    fn drop(&mut self) {
        let _ = self.engine.attempt(&["network", "rm", &self.name]);
    }
}

/// The IPv4 address of a container.
#[track_caller]
pub fn address(container: &Container) -> String {
    container.of_network("IPAddress")
}
