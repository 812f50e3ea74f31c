//! The state as the file has it: JSON, a line for each network.
use std::{mem, sync::Arc};

use super::{
    NetworkId,
    model::{Network, State},
};

/// The networks' lines as they were written last: only what has changed since is put into words again.
#[derive(Debug, Default)]
pub struct Lines {
    /// By the networks' ids.
    networks: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    id: NetworkId,
    network: Arc<Network>,
    text: String,
}

impl Lines {
    /// The whole file.
    pub fn text(&mut self, state: &State) -> serde_json::Result<String> {
        // All fields: one that is forgotten here would be lost.
        let State { version, networks, pfs } = state;
        let mut known = mem::take(&mut self.networks).into_iter().peekable();
        for (id, network) in networks {
            // Both are in order: what comes before is no more.
            while known.next_if(|line| line.id < *id).is_some() {}
            let known = known.next_if(|line| line.id == *id);
            let line = known.filter(|line| Arc::ptr_eq(&line.network, network));
            self.networks.push(line.map_or_else(|| Line::new(id, network), Ok)?);
        }
        let lines: Vec<&str> = self.networks.iter().map(|line| line.text.as_str()).collect();
        let (lines, pfs) = (lines.join(",\n"), serde_json::to_string(pfs)?);
        Ok(format!("{{\"version\":{version},\n\"networks\":{{\n{lines}}},\n\"pfs\":{pfs}}}"))
    }
}

impl Line {
    fn new(id: &NetworkId, network: &Arc<Network>) -> serde_json::Result<Self> {
        let text = format!("{}:{}", serde_json::to_string(id)?, serde_json::to_string(network)?);
        Ok(Self { id: id.clone(), network: Arc::clone(network), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::model::PfChanges;

    fn network(netdevice: &str) -> Arc<Network> {
        let options = serde_json::json!({"netdevice": netdevice});
        let network = serde_json::json!({"mode": "passthrough", "options": options});
        serde_json::from_value(network).unwrap()
    }

    #[test]
    fn each_change_is_in_the_next_text() {
        let (mut lines, mut state) = (Lines::default(), State::default());
        let mut check = |state: &State| {
            let text = lines.text(state).unwrap();
            assert_eq!(&serde_json::from_str::<State>(&text).unwrap(), state, "{text}");
            assert_eq!(text.lines().count(), 3 + state.networks.len().max(1), "{text}");
        };
        check(&state);
        for n in 0..3 {
            state.networks.insert(format!("n{n}").parse().unwrap(), network(&format!("nic{n}")));
            check(&state);
        }
        state.network_mut(&"n1".parse().unwrap()).unwrap().options.mtu = Some(9000);
        check(&state);
        state.networks.remove(&"n0".parse().unwrap());
        state.pfs.insert("pci/0000:01:00.0".into(), PfChanges { enabled: true, ..PfChanges::default() });
        check(&state);
        // What could not be written is taken back.
        let before = state.clone();
        state.networks.insert("n0".parse().unwrap(), network("nic9"));
        check(&state);
        check(&before);
    }

    #[test]
    fn what_has_not_changed_is_not_put_into_words_again() {
        let (mut lines, mut state) = (Lines::default(), State::default());
        for n in 0..2 {
            state.networks.insert(format!("n{n}").parse().unwrap(), network(&format!("nic{n}")));
        }
        lines.text(&state).unwrap();
        let at = |lines: &Lines| -> Vec<_> { lines.networks.iter().map(|line| line.text.as_ptr()).collect() };
        let before = at(&lines);
        state.network_mut(&"n1".parse().unwrap()).unwrap().options.mtu = Some(9000);
        lines.text(&state).unwrap();
        // A new text that comes to lie where the old one was would be one of as many bytes.
        assert_eq!(before[0], at(&lines)[0]);
        assert!(lines.networks[1].text.contains("9000"));
    }
}
