//! How far a delta sync is, as far as INFO says it: the follower knows how many bytes of its image are settled, the leader
//! also how fast that goes.

use std::fmt;

use serde_json::{Value, json};

use super::discover::{Fields, Group, Node};
use crate::commands::info::human;

/// How far a delta sync is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    settled_bytes: u64,
    /// 0 while the follower has not heard yet how much there is.
    image_bytes: u64,
    rate_bytes_s: Option<u64>,
    eta_s: Option<u64>,
}

impl Progress {
    /// What a follower says of itself; `None` if it is not being synchronised.
    pub fn of_follower(info: &Fields) -> Option<Self> {
        (info.number("master_sync_in_progress") == 1).then(|| Self {
            settled_bytes: info.number("farkeep_sync_settled_bytes"),
            image_bytes: info.number("farkeep_sync_image_bytes"),
            ..Self::default()
        })
    }

    /// What a leader says of those of its followers that it synchronises: where they are, and how far.
    pub fn of_leader(info: &Fields) -> Vec<(String, Self)> {
        let lines = info.lists("farkeep_follower").into_iter().enumerate();
        let syncing = lines.filter(|(_, line)| line.get("state").is_some_and(|state| state == "syncing"));
        syncing
            .map(|(at, line)| {
                let walk = info.list(&format!("farkeep_follower{at}_walk"));
                let walk = walk.filter(|walk| walk.get("purpose").is_some_and(|purpose| purpose == "sync"));
                let walk = walk.unwrap_or_default();
                let number = |name: &str| walk.get(name).and_then(|text| text.parse::<u64>().ok());
                let progress = Self {
                    settled_bytes: number("settled_bytes").unwrap_or(0),
                    image_bytes: number("image_bytes").unwrap_or(0),
                    rate_bytes_s: number("rate_bytes_s").filter(|rate| *rate > 0),
                    eta_s: number("eta_s"),
                };
                (line.get("address").cloned().unwrap_or_default(), progress)
            })
            .collect()
    }

    /// What the follower and its leader say together; `None` if it is not being synchronised.
    pub fn of_node(group: &Group, node: &Node) -> Option<Self> {
        let own = Self::of_follower(&node.info)?;
        let address = node.announced().to_string();
        let told = group.leaders().into_iter().flat_map(|leader| Self::of_leader(&leader.info));
        let told = told.filter(|(of, progress)| *of == address && progress.image_bytes > 0);
        Some(told.map(|(_, progress)| progress).next().unwrap_or(own))
    }

    /// For scripts.
    pub fn json(&self, address: &str) -> Value {
        json!({
            "address": address,
            "settled_bytes": self.settled_bytes,
            "image_bytes": self.image_bytes,
            "rate_bytes_s": self.rate_bytes_s,
            "eta_s": self.eta_s,
        })
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (settled, image) = (self.settled_bytes, self.image_bytes);
        if image == 0 {
            return f.write_str("being synchronised");
        }
        let percent = settled as f64 * 100.0 / image as f64;
        write!(f, "being synchronised, {} of {} ({percent:.0} %)", human(settled), human(image))?;
        if let Some(rate) = self.rate_bytes_s {
            write!(f, " at {}/s", human(rate))?;
        }
        if let Some(eta_s) = self.eta_s {
            write!(f, ", {eta_s} s to go")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALK: &str = "farkeep_follower1_walk:purpose=sync,image_bytes=33554432,settled_bytes=8388608,sent_bytes=1,\
        differing=1,elapsed_ms=2000,rate_bytes_s=4194304,eta_s=6\n";

    fn leader(walk: &str) -> Fields {
        let followers =
            "farkeep_follower0:address=a:1,state=streaming\nfarkeep_follower1:address=b:2,state=syncing\n";
        Fields::new(format!("role:master\n{followers}{walk}").replace('\n', "\r\n"))
    }

    fn follower() -> Fields {
        let info = "role:slave\nmaster_sync_in_progress:1\nfarkeep_sync_settled_bytes:1024\nfarkeep_sync_image_bytes:2048\n";
        Fields::new(info.replace('\n', "\r\n"))
    }

    fn group(leader: Fields) -> Group {
        let node = |address: &str, info| Node { address: address.parse().unwrap(), known_as: None, info };
        Group { nodes: vec![node("l:9", leader), node("b:2", follower())], silent: Vec::new() }
    }

    #[test]
    fn the_leader_knows_how_fast_it_goes_and_the_follower_how_far_it_is() {
        let group = group(leader(WALK));
        let shown = Progress::of_node(&group, &group.nodes[1]).unwrap().to_string();
        assert_eq!(shown, "being synchronised, 8.00M of 32.00M (25 %) at 4.00M/s, 6 s to go");
        let shown = Progress::of_follower(&follower()).unwrap().to_string();
        assert_eq!(shown, "being synchronised, 1.00K of 2.00K (50 %)");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        for walk in ["", &WALK.replace("purpose=sync", "purpose=scrub")] {
            let group = group(leader(walk));
            let shown = Progress::of_node(&group, &group.nodes[1]).unwrap().to_string();
            assert_eq!(shown, "being synchronised, 1.00K of 2.00K (50 %)");
            assert_eq!(Progress::of_leader(&group.nodes[0].info)[0].1.to_string(), "being synchronised");
        }
        let start = WALK.replace("rate_bytes_s=4194304,eta_s=6", "rate_bytes_s=0,eta_s=-1");
        let shown = Progress::of_leader(&leader(&start))[0].1.to_string();
        assert_eq!(shown, "being synchronised, 8.00M of 32.00M (25 %)");
        let streaming = Fields::new("role:slave\r\nmaster_sync_in_progress:0\r\n".into());
        assert_eq!(Progress::of_follower(&streaming), None);
    }
}
