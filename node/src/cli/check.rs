//! `farkeep check`: one node, in one line, for Nagios and whatever speaks its language.
//!
//! Exit codes are those of its plugins: 0 well, 1 warning, 2 critical, 3 unknown. Behind the bar are figures in its format. What is
//! judged is the same as on the dashboard; limits are arguments.

use std::process::ExitCode;

use clap::Args;

use super::group::discover::{Address, Fields, Login};
use super::group::sync::Progress;
use super::group::{why_down, why_refused};

/// Arguments of `farkeep check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The node.
    #[arg(short = 'n', long = "node", value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    node: Address,
    /// Its password.
    #[arg(short = 'a', long, env = "FARKEEP_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// The user, if it is not the default one.
    #[arg(long)]
    user: Option<String>,
    /// A follower that is further behind is a warning.
    #[arg(long, value_name = "MS", default_value_t = 1000.0)]
    warn_lag_ms: f64,
    /// Acknowledged writes that are on this node alone for longer, or writes that wait for longer, are critical.
    #[arg(long, value_name = "MS", default_value_t = 5000.0)]
    critical_ms: f64,
    /// A leader without any follower is well.
    #[arg(long)]
    alone: bool,
}

/// How bad it is; the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Runs the check and prints its line.
pub fn check(arguments: &CheckArguments) -> ExitCode {
    let login = Login { user: arguments.user.clone(), password: arguments.password.clone() };
    let text =
        login.connect(&arguments.node).and_then(|mut client| client.info_text(&["replication", "farkeep"]));
    let (severity, line) = match text {
        Ok(text) => judge(&Fields::new(text), arguments),
        Err(error) => {
            let why = super::one_line(&error);
            // A node that answers but does not let us in says nothing about how it is.
            let severity = if why.contains("AUTH") || why.contains("NOAUTH") {
                Severity::Unknown
            } else {
                Severity::Critical
            };
            (severity, format!("{} {why}", arguments.node))
        }
    };
    say!("FARKEEP {} - {line}", severity.name());
    ExitCode::from(severity as u8)
}

fn judge(info: &Fields, limits: &CheckArguments) -> (Severity, String) {
    if info.text("farkeep_version").is_empty() {
        return (Severity::Unknown, format!("{} is not Farkeep", limits.node));
    }
    let mut found: Vec<(Severity, String)> = Vec::new();
    if !info.text("farkeep_failure").is_empty() {
        found.push((Severity::Critical, format!("has stopped writing: {}", info.text("farkeep_failure"))));
    }
    let (summary, figures) = if info.text("farkeep_role") == "leader" {
        leader(info, limits, &mut found)
    } else {
        follower(info, &mut found)
    };
    let severity = found.iter().map(|(severity, _)| *severity).max().unwrap_or(Severity::Ok);
    let mut words: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
    words.push(summary);
    (severity, format!("{} | {figures}", words.join("; ")))
}

fn leader(info: &Fields, limits: &CheckArguments, found: &mut Vec<(Severity, String)>) -> (String, String) {
    let ms = |name: &str| info.text(name).parse::<f64>().ok();
    let (have, want) = (info.number("farkeep_followers_in_reach"), info.number("farkeep_sync_followers"));
    let syncs = Progress::of_leader(info);
    if let Some(why) = why_refused(info) {
        found.push((Severity::Critical, format!("refuses writes: {why}")));
    } else if have == 0 && !limits.alone && !syncs.is_empty() {
        found.push((Severity::Warning, "no follower could take over yet".to_owned()));
    } else if have == 0 && !limits.alone {
        found.push((Severity::Critical, "no follower could take over".to_owned()));
    } else if info.number("farkeep_degraded") == 1 {
        found.push((Severity::Warning, format!("degraded, {have} of {want} followers in reach")));
    }
    for (address, progress) in &syncs {
        found.push((Severity::Warning, format!("{address} is {progress}")));
    }
    if let Some(waits) = ms("farkeep_uncommitted_ms").filter(|waits| *waits > limits.critical_ms) {
        found.push((Severity::Critical, format!("writes have waited for {waits} ms")));
    }
    if let Some(risk) = ms("farkeep_at_risk_ms").filter(|risk| *risk > limits.critical_ms) {
        found.push((Severity::Critical, format!("{risk} ms of acknowledged writes are here alone")));
    }
    let mut worst = 0.0_f64;
    for follower in info.lists("farkeep_follower") {
        let lag = follower.get("lag_ms").and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        worst = worst.max(lag);
        if lag > limits.warn_lag_ms {
            let name = follower.get("address").map_or("a follower", String::as_str);
            found.push((Severity::Warning, format!("{name} is {lag} ms behind")));
        }
    }
    // Unknown is left out.
    let risk = info.text("farkeep_at_risk_bytes");
    let risk = if risk.is_empty() { String::new() } else { format!(" at_risk={risk}B") };
    let figures = format!(
        "followers={have};;;0 lag={worst}ms;{};;0 uncommitted={}ms;;{};0{risk}",
        limits.warn_lag_ms,
        info.text("farkeep_uncommitted_ms"),
        limits.critical_ms
    );
    (format!("leader in epoch {}, {have} followers in reach", info.text("farkeep_epoch_shown")), figures)
}

fn follower(info: &Fields, found: &mut Vec<(Severity, String)>) -> (String, String) {
    let leader = format!("{}:{}", info.text("master_host"), info.text("master_port"));
    if let Some(progress) = Progress::of_follower(info) {
        found.push((Severity::Warning, progress.to_string()));
    } else if info.text("master_link_status") != "up" {
        found.push((Severity::Warning, format!("the link to {leader} is down: {}", why_down(info))));
    }
    let unapplied = info.number("farkeep_durable_lsn").saturating_sub(info.number("farkeep_applied_lsn"));
    (format!("follower of {leader}"), format!("unapplied={unapplied}B;;;0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> CheckArguments {
        CheckArguments {
            node: "a:1".parse().unwrap(),
            password: None,
            user: None,
            warn_lag_ms: 1000.0,
            critical_ms: 5000.0,
            alone: false,
        }
    }

    fn told(info: &str) -> (Severity, String) {
        judge(&Fields::new(info.replace('\n', "\r\n")), &limits())
    }

    const LEADER: &str = "farkeep_version:1\nfarkeep_role:leader\nfarkeep_epoch_shown:1.0\nfarkeep_sync_followers:1\n\
        farkeep_followers_in_reach:1\nfarkeep_uncommitted_ms:0.000\nfarkeep_at_risk_bytes:0\nfarkeep_at_risk_ms:0.000\n\
        farkeep_follower0:address=b:2,lag_ms=0.000\n";

    #[test]
    fn a_group_at_rest_is_ok_with_its_figures() {
        let (severity, line) = told(LEADER);
        assert_eq!(severity, Severity::Ok);
        assert_eq!(
            line,
            "leader in epoch 1.0, 1 followers in reach | followers=1;;;0 lag=0ms;1000;;0 uncommitted=0.000ms;;5000;0 at_risk=0B"
        );
    }

    #[test]
    fn the_worst_finding_decides_and_all_are_told() {
        let late = LEADER.replace("b:2,lag_ms=0.000", "b:2,lag_ms=1500.5");
        assert_eq!(told(&late).0, Severity::Warning);
        let stalled = late.replace("uncommitted_ms:0.000", "uncommitted_ms:9000.000");
        let (severity, line) = told(&stalled);
        assert_eq!(severity, Severity::Critical);
        assert!(
            line.contains("b:2 is 1500.5 ms behind") && line.contains("writes have waited for 9000 ms"),
            "{line}"
        );
        let alone = LEADER.replace("in_reach:1", "in_reach:0").replace("at_risk_bytes:0", "at_risk_bytes:");
        let (severity, line) = told(&alone);
        assert_eq!(severity, Severity::Critical);
        assert!(!line.contains("at_risk="), "unknown is not 0: {line}");
    }

    #[test]
    fn a_synchronisation_is_a_warning_on_either_side() {
        let leader =
            LEADER.replace("sync_followers:1", "sync_followers:0").replace("in_reach:1", "in_reach:0");
        let leader = leader.replace("address=b:2,", "address=b:2,state=syncing,");
        let (severity, line) = told(&leader);
        assert_eq!(severity, Severity::Warning, "{line}");
        assert!(line.starts_with("no follower could take over yet; b:2 is being synchronised; "), "{line}");
        assert_eq!(told(&format!("{leader}farkeep_refusing:1\n")).0, Severity::Critical);
        let (_, line) = told(&format!("{leader}farkeep_refusing:1\nfarkeep_followers_wanted:2\n"));
        assert!(line.contains("0 of the 2 followers are in reach that it takes to begin"), "{line}");
        let info = "farkeep_version:1\nfarkeep_role:follower\nmaster_host:a\nmaster_port:1\nmaster_link_status:down\n\
            master_sync_in_progress:1\nfarkeep_sync_settled_bytes:1024\nfarkeep_sync_image_bytes:2048\n";
        let (severity, line) = told(info);
        assert_eq!(severity, Severity::Warning, "{line}");
        assert!(line.starts_with("being synchronised, 1.00K of 2.00K (50 %); follower of a:1 |"), "{line}");
    }

    #[test]
    fn a_follower_without_a_link_is_a_warning_and_another_server_unknown() {
        let info = "farkeep_version:1\nfarkeep_role:follower\nmaster_host:a\nmaster_port:1\nmaster_link_status:down\n\
            farkeep_link_down_reason:refused\n";
        let (severity, line) = told(info);
        assert_eq!(severity, Severity::Warning);
        assert!(line.starts_with("the link to a:1 is down: refused"), "{line}");
        assert_eq!(told("redis_version:7.0.15\n").0, Severity::Unknown);
    }
}
