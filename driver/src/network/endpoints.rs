//! Endpoints: a container gets a netdev, and gives it back.
use std::{path::PathBuf, sync::Arc};

use super::{CreateEndpoint, Driver, Error, Joined, Result, caller::Caller, locate::Place, now};
use crate::{
    device::Mac,
    fault,
    state::{Endpoint, EndpointId, Mode, Network, NetworkId, State},
};

impl Driver {
    /// Makes the network's netdev ready for a container: as the options want it, tagged, counted, down.
    /// Answers with the hardware address that the container will have. Undone if the caller has given up.
    pub async fn create_endpoint(&self, request: &CreateEndpoint, caller: &Caller) -> Result<Option<Mac>> {
        let before = self.store.get();
        match self.try_create_endpoint(request, caller).await {
            Err(Error::NoFreeVf { .. } | Error::InUse { .. } | Error::MacInUse { .. })
                if self.take_back_vfs(&before, &request.network).await =>
            {
                self.try_create_endpoint(request, caller).await
            }
            tried => tried,
        }
    }

    async fn try_create_endpoint(&self, request: &CreateEndpoint, caller: &Caller) -> Result<Option<Mac>> {
        let CreateEndpoint { network: network_id, endpoint: id, mac, vf } = request;
        let _hold = self.hold(network_id, id).await;
        if caller.gave_up() {
            return Err(Error::TooLate);
        }
        let mut network = self.network(network_id)?;
        if let Some(mac) = *mac
            && !mac.is_assignable()
        {
            return Err(Error::Mac { mac, reason: "is a group address or zero, which no netdev can have" });
        }
        if let Some(known) = network.endpoints.get(id) {
            // Asked again: the answer to the first time was lost. If the driver was, half way, it starts over.
            let whole = !known.ending && (known.joined.is_some() || self.is_ready(id, known).await?);
            if whole && (mac.is_none() || *mac == known.mac) {
                let mac = known.mac;
                return self.unless_given_up(request, caller).await.map(|()| mac);
            }
            self.release(network_id, id, &known.clone()).await?;
            network = self.network(network_id)?;
        }
        if network.mode == Mode::Passthrough {
            if let Some(vf) = *vf {
                return Err(Error::VfOfWhole(vf));
            }
            for (other, endpoint) in &network.endpoints {
                if !self.release_if_over(network_id, other, endpoint).await? {
                    let netdevice = endpoint.netdevice().to_owned();
                    return Err(Error::InUse { netdevice, user: endpoint.user(other) });
                }
            }
        }
        let mac = self.assign(&network, request, caller).await?;
        self.unless_given_up(request, caller).await.map(|()| mac)
    }

    /// Undoes what is done where Docker was told that it failed, and will not delete what it does not have. The
    /// endpoint is still held: who asks for it again finds all of it, or nothing.
    async fn unless_given_up(&self, request: &CreateEndpoint, caller: &Caller) -> Result<()> {
        if caller.settle() {
            return Ok(());
        }
        self.end(&request.network, &request.endpoint).await?;
        Err(Error::TooLate)
    }

    /// Whether all is done that [`Driver::create_endpoint`] does.
    async fn is_ready(&self, id: &EndpointId, endpoint: &Endpoint) -> Result<bool> {
        Ok(match self.locate(id, endpoint).await? {
            Place::Home(link) => {
                let counted = self.reading(id).await.is_ok();
                counted && (endpoint.unmarked || self.rtnl.is_marked(link.ifindex).await?)
            }
            Place::Away(..) => true,
            Place::Gone => false,
        })
    }

    /// Takes back VFs of the network's PF, whichever network has them, whose containers ended without
    /// Docker having said so; answers whether any has become free since `state`, by that or otherwise.
    async fn take_back_vfs(&self, state: &State, network_id: &NetworkId) -> bool {
        let Some(network) = state.networks.get(network_id) else { return false };
        if network.mode != Mode::Sriov {
            return false;
        }
        let options = &network.options;
        let mut any = false;
        for (network_id, network, id, _) in state.endpoints() {
            // One that is just getting its VF is not over, and may take a while.
            if network.options.netdevice != options.netdevice || self.reserved.is_for(id) {
                continue;
            }
            // One that hangs is not over.
            let Some(_hold) = self.when_idle(network_id, id).await else { continue };
            let state = self.store.get();
            let Some(endpoint) = state.endpoint(network_id, id) else {
                any = true;
                continue;
            };
            match self.release_if_over(network_id, id, endpoint).await {
                Ok(over) => any |= over,
                Err(error) => tracing::error!(%id, %error, "taking back"),
            }
        }
        any
    }

    /// What Docker needs to move the netdev into the container that has `sandbox`.
    pub async fn join(&self, network_id: &NetworkId, id: &EndpointId, sandbox: PathBuf) -> Result<Joined> {
        let _hold = self.hold(network_id, id).await;
        let network = self.network(network_id)?;
        let endpoint = network.endpoints.get(id).ok_or_else(|| Error::UnknownEndpoint(id.clone()))?.clone();
        self.store
            .update(|state| {
                if let Some(endpoint) = state.endpoint_mut(network_id, id) {
                    endpoint.sandbox = Some(sandbox);
                    endpoint.joined = Some(now());
                }
            })
            .await?;
        fault::point!("join.remembered");
        self.ask_names(network_id);
        Ok(Joined {
            netdev: endpoint.original.name.clone(),
            prefix: network.options.prefix.clone(),
            gateway: network.gateway(false),
            gateway_ipv6: network.gateway(true),
        })
    }

    /// Takes the netdev home where Docker could not: it was renamed in the container, or its name is taken on
    /// the host. Makes it what it was before [`Driver::create_endpoint`], and forgets the endpoint. Fine if
    /// there is no such endpoint.
    pub async fn delete_endpoint(&self, network_id: &NetworkId, id: &EndpointId) -> Result<()> {
        let _hold = self.hold(network_id, id).await;
        self.end(network_id, id).await
    }

    /// The same, for whoever holds it.
    pub(super) async fn end(&self, network_id: &NetworkId, id: &EndpointId) -> Result<()> {
        let state = self.store.get();
        let Some(endpoint) = state.endpoint(network_id, id) else { return self.recover_stray(id).await };
        self.remember_end(network_id, |other| other == id).await;
        self.release(network_id, id, endpoint).await.inspect_err(|_| self.look_soon())
    }

    fn network(&self, id: &NetworkId) -> Result<Arc<Network>> {
        self.store.get().networks.get(id).cloned().ok_or_else(|| Error::UnknownNetwork(id.clone()))
    }
}

impl Endpoint {
    /// Who has it, for errors: `container web`, or `endpoint 0123456789ab` where the name is not known.
    pub(super) fn user(&self, id: &EndpointId) -> String {
        match &self.container {
            Some(name) => format!("container {name}"),
            None => format!("endpoint {}", id.short()),
        }
    }
}
