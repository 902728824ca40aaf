//! `farkeep topology`, `status`, `history`, `lag`: what a group looks like.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::discover::{Fields, Group, Node};
use super::sync::Progress;
use super::{LEADERLESS, Shown, UNHEALTHY};
use crate::commands::info::human;

/// Columns as wide as their longest cell.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|title| title.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A follower as its leader sees it.
fn lines_of(leader: &Node) -> Vec<BTreeMap<String, String>> {
    leader.info.lists("farkeep_follower")
}

fn number(line: &BTreeMap<String, String>, name: &str) -> u64 {
    line.get(name).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// `farkeep topology`
pub fn topology(group: &Group) -> Shown {
    let mut rows = Vec::new();
    let mut nodes = Vec::new();
    for node in group.leaders().into_iter().chain(group.followers()) {
        let info = &node.info;
        let role = if node.is_leader() { "leader" } else { "follower" };
        let state = state_of(group, node);
        let follows = node.leader().map(|leader| leader.to_string());
        rows.push(vec![
            node.announced().to_string(),
            role.to_owned(),
            state.clone(),
            follows.clone().unwrap_or_else(|| "-".to_owned()),
            info.text("farkeep_epoch_shown").to_owned(),
            node.durable().to_string(),
            fabric_of(group, node),
            info.text("farkeep_durability").to_owned(),
        ]);
        nodes.push(json!({
            "address": node.announced().to_string(),
            "role": role,
            "state": state,
            "follows": follows,
            "node_id": info.text("farkeep_node_id"),
            "dataset_id": info.text("farkeep_dataset_id"),
            "epoch": node.epoch(),
            "epoch_shown": info.text("farkeep_epoch_shown"),
            "replid": info.text("farkeep_replid"),
            "durable_lsn": node.durable(),
            "committed_lsn": info.number("farkeep_committed_lsn"),
            "applied_lsn": info.number("farkeep_applied_lsn"),
            "checkpoint_lsn": info.number("farkeep_checkpoint_lsn"),
            "fabric": fabric_of(group, node),
            "durability": info.text("farkeep_durability"),
        }));
    }
    for silent in &group.silent {
        let mut row = vec!["-".to_owned(); 8];
        row[0] = silent.address.to_string();
        row[1] = "?".to_owned();
        row[2] = silent.why.clone();
        rows.push(row);
        nodes.push(json!({
            "address": silent.address.to_string(), "role": Value::Null, "state": "silent", "why": silent.why,
        }));
    }
    let head = ["NODE", "ROLE", "STATE", "FOLLOWS", "EPOCH", "DURABLE LSN", "FABRIC", "DURABILITY"];
    Shown { table: table(&head, &rows), json: json!({ "nodes": nodes }), code: 0 }
}

/// How a node is doing, in a word or two.
fn state_of(group: &Group, node: &Node) -> String {
    let info = &node.info;
    if node.is_leader() {
        let failover = info.text("master_failover_state");
        return match (failover, refuses_writes(node)) {
            ("no-failover" | "", false) if info.number("farkeep_degraded") == 1 => "degraded".to_owned(),
            ("no-failover" | "", false) => "writable".to_owned(),
            ("no-failover" | "", true) => "refuses writes".to_owned(),
            (failover, _) => failover.to_owned(),
        };
    }
    if info.number("farkeep_fenced") == 1 {
        return "fenced".to_owned();
    }
    if info.text("master_link_status") != "up" {
        return if info.number("master_sync_in_progress") == 1 { "synchronising" } else { "link down" }
            .to_owned();
    }
    let seen = group.leaders().into_iter().flat_map(lines_of);
    let own = |line: &BTreeMap<String, String>| {
        line.get("address").is_some_and(|address| *address == node.announced().to_string())
    };
    seen.filter(own).find_map(|line| line.get("state").cloned()).unwrap_or_else(|| "up".to_owned())
}

/// Whether a leader has too few followers to take writes, be it by `sync-followers` or by `min-replicas-to-write`.
pub(super) fn refuses_writes(leader: &Node) -> bool {
    why_refused(&leader.info).is_some()
}

/// Why a leader that nobody has promoted has nothing to hand over yet.
pub(super) fn why_contested(leader: &Node) -> Option<String> {
    let wants_more =
        leader.info.number("farkeep_followers_wanted") > leader.info.number("farkeep_sync_followers");
    why_refused(&leader.info).filter(|_| wants_more)
}

/// Why a leader refuses writes, if it has too few followers to take them.
pub fn why_refused(info: &Fields) -> Option<String> {
    let (have, sync) = (info.number("farkeep_followers_in_reach"), info.number("farkeep_sync_followers"));
    let want = sync.max(info.number("farkeep_followers_wanted"));
    (info.number("farkeep_refusing") == 1).then(|| {
        if have < want && want > sync {
            format!(
                "{have} of the {want} followers are in reach that it takes to begin, as another node may lead the group; if one does, have \
                 this node follow that one (REPLICAOF)"
            )
        } else if have < want {
            format!("{have} followers are in reach, sync-followers is {want}")
        } else {
            format!("of {have} followers in reach fewer are good than min-replicas-to-write asks for")
        }
    })
}

fn fabric_of(group: &Group, node: &Node) -> String {
    match node.info.text("farkeep_fabric") {
        "" if node.is_leader() && group.followers().next().is_some() => "-".to_owned(),
        "" => "-".to_owned(),
        fabric => fabric.to_owned(),
    }
}

/// `farkeep status`: one verdict, and what is wrong.
///
/// A delta sync is how a follower joins, and no fault. As long as there are as many others as there should be, it changes
/// no more than a word.
pub fn status(group: &Group) -> Shown {
    let leaders = group.leaders();
    let (mut problems, mut warnings, mut syncs) = (Vec::new(), Vec::new(), Vec::new());
    let mut code = 0;
    match leaders.as_slice() {
        [] => {
            code = LEADERLESS;
            problems.push(
                "no node that answers leads; `farkeep failover` promotes the most advanced follower"
                    .to_owned(),
            );
        }
        [leader] => {
            let info = &leader.info;
            if let Some(why) = why_refused(info) {
                problems.push(format!("the leader {} refuses writes: {why}", leader.announced()));
            } else if info.number("farkeep_degraded") == 1 {
                problems.push(format!(
                    "the leader {} goes on degraded: {} followers are in reach, sync-followers is {}",
                    leader.announced(),
                    info.number("farkeep_followers_in_reach"),
                    info.number("farkeep_sync_followers")
                ));
            }
            if !info.text("farkeep_failure").is_empty() {
                problems.push(format!("the leader has stopped writing: {}", info.text("farkeep_failure")));
            }
        }
        [first, others @ ..] => {
            code = LEADERLESS;
            for other in others {
                problems.push(format!(
                    "{} (epoch {}) leads as well as {} (epoch {}): two histories; tell the one to be given up to follow the other",
                    other.announced(),
                    other.info.text("farkeep_epoch_shown"),
                    first.announced(),
                    first.info.text("farkeep_epoch_shown"),
                ));
            }
        }
    }
    for node in group.followers().filter(|node| node.info.text("master_link_status") != "up") {
        let address = node.announced();
        if let Some(progress) = Progress::of_node(group, node) {
            warnings.push(format!("{address} is {progress}; it cannot take over until that is done"));
            syncs.push(progress.json(&address.to_string()));
            continue;
        }
        problems.push(format!("{address} has no link to its leader: {}", why_down(&node.info)));
    }
    for silent in &group.silent {
        problems.push(format!("{} does not answer: {}", silent.address, silent.why));
    }
    if code == 0 && !problems.is_empty() {
        code = UNHEALTHY;
    }
    let verdict = match code {
        0 if warnings.is_empty() => "healthy",
        0 => "synchronising",
        UNHEALTHY => "unhealthy",
        _ => "no single leader",
    };
    let leader = leaders.first().map(|leader| leader.announced().to_string());
    let followers = group.followers().count();
    let mut text = match &leader {
        Some(leader) => format!("{verdict}: {leader} leads, {followers} followers answer\n"),
        None => format!("{verdict}: {followers} followers answer\n"),
    };
    for problem in problems.iter().chain(&warnings) {
        let _ = writeln!(text, "  {problem}");
    }
    let json = json!({
        "verdict": verdict, "leader": leader, "followers": followers,
        "sync_followers": leaders.first().map(|leader| leader.info.number("farkeep_sync_followers")),
        "writable": leaders.len() == 1 && !refuses_writes(leaders[0]),
        "problems": problems,
        "warnings": warnings,
        "synchronising": syncs,
    });
    Shown { table: text, json, code }
}

/// Why a follower's link is down.
pub fn why_down(info: &Fields) -> &str {
    match info.text("farkeep_link_down_reason") {
        "" => "not connected yet",
        why => why,
    }
}

/// `farkeep history`: the reigns, and whose logs have them.
pub fn history(group: &Group) -> Shown {
    type Reign = (u64, String, String);
    let mut reigns: BTreeMap<Reign, Vec<String>> = BTreeMap::new();
    for node in &group.nodes {
        for line in node.info.lists("farkeep_reign") {
            let text = |name: &str| line.get(name).cloned().unwrap_or_default();
            let reign = (number(&line, "start_lsn"), text("epoch"), text("replid"));
            reigns.entry(reign).or_default().push(node.announced().to_string());
        }
    }
    let shown = |replid: &str| replid.get(..12).unwrap_or(replid).to_owned();
    let rows: Vec<Vec<String>> = reigns
        .iter()
        .map(|((start, epoch, replid), nodes)| {
            let whose =
                if nodes.len() == group.nodes.len() { "all that answer".to_owned() } else { nodes.join(" ") };
            vec![epoch.clone(), shown(replid), start.to_string(), whose]
        })
        .collect();
    let json: Vec<Value> = reigns
        .iter()
        .map(|((start, epoch, replid), nodes)| {
            json!({ "epoch": epoch, "replid": replid, "start_lsn": start, "nodes": nodes })
        })
        .collect();
    let head = ["EPOCH", "REPLID", "BEGAN AT LSN", "IN THE LOGS OF"];
    Shown { table: table(&head, &rows), json: json!({ "reigns": json }), code: 0 }
}

/// `farkeep lag`: how far behind its leader each follower is.
pub fn lag(group: &Group) -> Shown {
    let (mut rows, mut followers) = (Vec::new(), Vec::new());
    for leader in group.leaders() {
        let end = leader.info.number("farkeep_appended_lsn");
        for line in lines_of(leader) {
            let behind = |name: &str| end.saturating_sub(number(&line, name));
            let text = |name: &str| line.get(name).cloned().unwrap_or_default();
            let lag_ms = line.get("lag_ms").filter(|text| !text.is_empty());
            rows.push(vec![
                text("address"),
                leader.announced().to_string(),
                text("state"),
                lag_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
                human(behind("durable_lsn")),
                human(behind("applied_lsn")),
                human(behind("checkpoint_lsn")),
            ]);
            followers.push(json!({
                "address": text("address"),
                "leader": leader.announced().to_string(),
                "state": text("state"),
                "lag_ms": lag_ms.and_then(|ms| ms.parse::<f64>().ok()),
                "durable_lag_bytes": behind("durable_lsn"),
                "applied_lag_bytes": behind("applied_lsn"),
                "checkpoint_lag_bytes": behind("checkpoint_lsn"),
            }));
        }
    }
    let head = ["FOLLOWER", "LEADER", "STATE", "LAG", "NOT DURABLE", "NOT APPLIED", "NOT CHECKPOINTED"];
    let mut text = table(&head, &rows);
    if rows.is_empty() {
        text = "no leader that answers has followers".to_owned();
    }
    Shown { table: text, json: json!({ "followers": followers }), code: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["N", "VALUE"], &rows), "N     VALUE\na     1\nlong\n");
    }
}
