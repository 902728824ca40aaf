//! The line that an operator reads first: how this node is, why, and what to do.
//!
//! Pure: from a [`Status`] to a [`Verdict`]. The order of the questions is the order of what matters.

use serde::Serialize;

use super::status::{FollowerStatus, Status};
use crate::events::Level;

/// A stage that is further behind than this is told in the verdict: no healthy group takes so long.
const STALLED_US: u64 = 1_000_000;

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `healthy`, `standalone`, `degraded`, `catching-up`, `stalled`, `no-failover-target`, `refusing-writes`, `link-down`, `syncing`,
    /// `loading`, `failed`.
    pub state: &'static str,
    /// How much that matters.
    pub level: Level,
    /// In a sentence.
    pub text: String,
    /// What to do about it; may be empty.
    pub advice: &'static str,
}

impl Default for Verdict {
    fn default() -> Self {
        verdict("loading", Level::Warning, "no look at the node yet", "")
    }
}

fn verdict(state: &'static str, level: Level, text: impl Into<String>, advice: &'static str) -> Verdict {
    Verdict { state, level, text: text.into(), advice }
}

/// What to say about a node. `refusing`, `degraded` and `loading` are the engine's.
pub fn judge(status: &Status, refusing: bool, degraded: bool, loading: bool) -> Verdict {
    if !status.pool.failure.is_empty() {
        let text = format!("this node has stopped writing: {}", status.pool.failure);
        return verdict(
            "failed",
            Level::Critical,
            text,
            "fail over to a follower, then replace this node's log device",
        );
    }
    if let Some(link) = &status.link {
        if link.syncing {
            return verdict("syncing", Level::Warning, format!("being filled by {}", link.leader), "");
        }
        if !link.up {
            let why = if link.down_reason.is_empty() { "not connected yet" } else { &link.down_reason };
            let text = format!("the link to the leader {} is down: {why}", link.leader);
            return verdict(
                "link-down",
                Level::Warning,
                text,
                "look at the leader; if it is gone, fail over to the most advanced follower",
            );
        }
        if loading {
            return verdict("loading", Level::Warning, "waits for its first synchronisation", "");
        }
        return verdict("healthy", Level::Info, format!("following {}", link.leader), "");
    }
    leader(status, refusing, degraded)
}

fn leader(status: &Status, refusing: bool, degraded: bool) -> Verdict {
    let (have, want) = (status.followers_in_reach, status.followers_wanted);
    if refusing {
        let (text, advice) = if have < want && want > status.sync_followers {
            (
                format!(
                    "writes are refused: {have} of {want} followers in reach, which it takes to begin, as another node may lead the group"
                ),
                "if one does, have this node follow that one (REPLICAOF); otherwise bring more followers back",
            )
        } else if have < want {
            (
                format!("writes are refused: {have} of {want} followers in reach"),
                "bring a follower back, or set on-follower-loss degrade to go on without",
            )
        } else {
            (
                format!(
                    "writes are refused: of {have} followers in reach fewer are good than min-replicas-to-write"
                ),
                "bring a follower back, or lower min-replicas-to-write",
            )
        };
        return verdict("refusing-writes", Level::Critical, text, advice);
    }
    let waits_us = status.uncommitted.us.unwrap_or(0);
    if waits_us >= STALLED_US {
        let (stage, name) = status
            .followers
            .iter()
            .max_by_key(|f| f.stages[1].lag_us)
            .map_or(("durable", "this node's log"), |f| (stalled_stage(f), f.name.as_str()));
        let text = format!("writes wait for {name} ({stage}): the oldest for {} s", seconds(waits_us));
        return verdict(
            "stalled",
            Level::Critical,
            text,
            "look at that node: it is in reach, but does not make writes durable",
        );
    }
    if degraded {
        let text = format!("writes go on with less than sync-followers {want}: {have} in reach");
        return verdict(
            "degraded",
            Level::Warning,
            text,
            "bring a follower back; until then the loss of this node loses what no follower holds",
        );
    }
    if have == 0 {
        if want == 0 && status.lost.is_empty() {
            return verdict("standalone", Level::Info, "standalone: durable here, no follower wanted", "");
        }
        if let Some(filled) = status.followers.iter().find(|f| f.state == "syncing") {
            let text = format!("no follower could take over yet: {} is being filled", filled.name);
            return verdict("catching-up", Level::Warning, text, "");
        }
        return verdict(
            "no-failover-target",
            Level::Critical,
            "no follower holds what is written now",
            "bring a follower back, or start a new one",
        );
    }
    if let Some(slow) = status.followers.iter().filter(|f| f.online).max_by_key(|f| f.stages[1].lag_us)
        && slow.stages[1].lag_us >= STALLED_US
    {
        let text =
            format!("{} is {} s behind ({})", slow.name, seconds(slow.stages[1].lag_us), stalled_stage(slow));
        let state = if slow.catch_up_s.is_some() { "catching-up" } else { "stalled" };
        return verdict(state, Level::Warning, text, "look at that follower; writes do not wait for it");
    }
    if !status.lost.is_empty() {
        let names: Vec<&str> = status.lost.iter().map(|lost| lost.name.as_str()).collect();
        return verdict(
            "degraded",
            Level::Warning,
            format!("lost {}", names.join(", ")),
            "bring it back before its part of the log is overwritten",
        );
    }
    let joining = status.followers.iter().filter(|f| f.state != "streaming").count();
    if joining > 0 && joining == status.followers.len() {
        return verdict("catching-up", Level::Warning, "no follower is up to date yet", "");
    }
    let text = match want {
        0 => format!("{have} followers; writes do not wait for them"),
        _ => format!("every acknowledged write is on {want} of {have} followers"),
    };
    verdict("healthy", Level::Info, text, "")
}

/// The first stage at which a follower stands still.
fn stalled_stage(follower: &FollowerStatus) -> &'static str {
    follower.stages.iter().find(|stage| stage.lag_us >= STALLED_US).map_or("durable", |stage| stage.stage)
}

fn seconds(us: u64) -> String {
    format!("{:.1}", us as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::status::{Distance, LinkStatus, LostFollower};

    fn group() -> Status {
        let mut follower =
            FollowerStatus { name: "b:2".into(), state: "streaming", online: true, ..Default::default() };
        for (stage, name) in follower.stages.iter_mut().zip(crate::commands::info::STAGES) {
            stage.stage = name;
        }
        Status {
            role: "leader",
            sync_followers: 1,
            followers_wanted: 1,
            followers_in_reach: 1,
            followers: vec![follower],
            ..Status::default()
        }
    }

    #[test]
    fn a_group_at_rest_is_healthy_and_a_lone_leader_that_wants_nobody_is_standalone() {
        assert_eq!(judge(&group(), false, false, false).state, "healthy");
        assert_eq!(judge(&Status::default(), false, false, false).state, "standalone");
    }

    #[test]
    fn the_stage_at_which_a_follower_stands_still_is_named() {
        let mut status = group();
        status.followers[0].stages[1].lag_us = 4_200_000;
        status.followers[0].stages[2].lag_us = 4_200_000;
        status.uncommitted = Distance { bytes: Some(9), us: Some(4_200_000) };
        let told = judge(&status, false, false, false);
        assert_eq!(told.state, "stalled");
        assert_eq!(told.text, "writes wait for b:2 (durable): the oldest for 4.2 s");
        status.uncommitted = Distance { bytes: Some(0), us: Some(0) };
        assert_eq!(judge(&status, false, false, false).level, Level::Warning, "nobody waits");
    }

    #[test]
    fn what_is_refused_or_lost_or_failed_comes_before_all_else() {
        let mut status = group();
        status.followers.clear();
        status.followers_in_reach = 0;
        let refusing = judge(&status, true, false, false);
        assert_eq!(refusing.state, "refusing-writes");
        assert!(refusing.text.ends_with("0 of 1 followers in reach"), "{}", refusing.text);
        status.followers_wanted = 2;
        let refusing = judge(&status, true, false, false);
        assert!(refusing.advice.starts_with("if one does"), "{}", refusing.advice);
        (status.followers_wanted, status.followers_in_reach) = (1, 1);
        let refusing = judge(&status, true, false, false);
        status.followers_in_reach = 0;
        assert!(refusing.advice.ends_with("min-replicas-to-write"), "{}", refusing.advice);
        assert_eq!(judge(&status, false, true, false).state, "degraded");
        assert_eq!(judge(&status, false, false, false).state, "no-failover-target");
        status.sync_followers = 0;
        status.lost.push(LostFollower { name: "b:2".into(), ..LostFollower::default() });
        assert_eq!(judge(&status, false, false, false).state, "no-failover-target");
        status.pool.failure = "EIO".into();
        assert_eq!(judge(&status, true, false, false).state, "failed");
    }

    #[test]
    fn a_follower_says_why_its_link_is_down() {
        let link =
            LinkStatus { leader: "a:1".into(), down_reason: "refused".into(), ..LinkStatus::default() };
        let status = Status { role: "follower", link: Some(link), ..Status::default() };
        let told = judge(&status, false, false, false);
        assert_eq!(
            (told.state, told.text.as_str()),
            ("link-down", "the link to the leader a:1 is down: refused")
        );
    }
}
