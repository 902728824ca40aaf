//! Lag in time, as INFO tells it.

use farkeep_tests::pair::Pair;
use farkeep_tests::{Server, wait};

/// One `name=value` of a field of INFO farkeep.
fn part(server: &Server, field: &str, name: &str) -> String {
    let line = server.info("farkeep", field);
    let value = line.split(',').find_map(|part| part.strip_prefix(&format!("{name}=")).map(str::to_owned));
    value.unwrap_or_else(|| panic!("no {name} in {field}:{line}"))
}

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn lag_ms(server: &Server, stage: &str) -> f64 {
    number(&part(server, "farkeep_follower0", &format!("{stage}_lag_ms")))
}

/// Acknowledged at once, since nobody is waited for, and held by the leader alone for as long as the follower stands still.
#[test]
fn lag_of_a_follower_that_stands_still_grows_from_where_it_stopped_and_ends_with_it() {
    let Pair { leader, follower } = Pair::start().expect_link_trouble();
    leader.client().expect_ok("CONFIG SET sync-followers 0");
    leader.client().expect_ok("SET k v");
    wait::until("an idle follower to have no lag", || lag_ms(&leader, "applied") == 0.0);
    assert_eq!(lag_ms(&leader, "posted"), 0.0);
    assert_eq!(leader.info("farkeep", "farkeep_at_risk_bytes"), "0");

    follower.freeze();
    leader.client().expect_ok("SET k w");
    wait::until("the lag to grow", || lag_ms(&leader, "durable") > 50.0);
    assert_eq!(lag_ms(&leader, "posted"), 0.0, "the window's connection took it");
    assert!(lag_ms(&leader, "applied") >= 50.0);
    assert!(number(&leader.info("farkeep", "farkeep_at_risk_ms")) > 0.0);
    assert!(number(&leader.info("farkeep", "farkeep_at_risk_bytes")) > 0.0);
    let before = lag_ms(&leader, "durable");
    wait::until("the lag to go on growing", || lag_ms(&leader, "durable") > before + 50.0);

    follower.thaw();
    wait::until("the follower to have caught up", || {
        leader.info("farkeep", "farkeep_follower0").contains("applied_lag_bytes=0")
            && lag_ms(&leader, "applied") == 0.0
    });
    assert!(number(&part(&leader, "farkeep_follower0_durable_times", "max_ms")) >= 50.0, "it is remembered");
}

#[test]
fn commit_takes_the_time_that_clients_wait_and_not_the_time_between_writes() {
    let Pair { leader, follower: _follower } = Pair::start();
    let mut client = leader.client();
    let mut slowest_ms = 0.0_f64;
    for round in 0..20 {
        let started = std::time::Instant::now();
        client.expect_ok(&format!("SET k {round}"));
        slowest_ms = slowest_ms.max(started.elapsed().as_secs_f64() * 1000.0);
    }
    // No write of this client can have been under way for longer than it waited, but for the histogram's two digits.
    let p50_ms = number(&part(&leader, "farkeep_commit_times", "p50_ms"));
    assert!(p50_ms > 0.0 && p50_ms <= slowest_ms * 1.02, "{p50_ms} ms of {slowest_ms} ms");
    assert!(number(&part(&leader, "farkeep_commit_times", "count")) >= 20.0);
    // Silence is not latency.
    let max_before = number(&part(&leader, "farkeep_commit_times", "max_ms"));
    wait::until("the lag of an idle group to be none", || {
        leader.info("farkeep", "farkeep_uncommitted_ms") == "0.000" && lag_ms(&leader, "applied") == 0.0
    });
    assert_eq!(number(&part(&leader, "farkeep_commit_times", "max_ms")), max_before);
}

/// A follower applies what is committed, and what is committed is known to it from the leader only: with the next write, or, after the
/// last one, by a message of its own, and not with the next heartbeat, which comes twice a second.
#[test]
fn last_write_of_an_idle_group_is_applied_long_before_the_next_heartbeat() {
    let Pair { leader, follower: _follower } = Pair::start();
    let mut client = leader.client();
    for round in 0..20 {
        client.expect_ok(&format!("SET k {round}"));
        wait::until("the follower to have applied it", || lag_ms(&leader, "applied") == 0.0);
    }
    // Waiting for heartbeats would make it 250 ms.
    let p50_ms = number(&part(&leader, "farkeep_follower0_applied_times", "p50_ms"));
    assert!(p50_ms < 125.0, "{p50_ms} ms");
}
