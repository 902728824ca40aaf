//! Random command streams go to Farkeep and to redis-server; replies are compared byte for byte.
//!
//! `FARKEEP_SEED=n FARKEEP_SEEDS=count` replays given seeds; `FARKEEP_DIFF_STREAMS` and `FARKEEP_DIFF_LEN` change how much
//! is run. A failure prints the shortest stream that shows it.

use farkeep_tests::differential::{Bench, Flavour, Step, explore};
use farkeep_tests::server::ServerBuilder;
use farkeep_tests::{Server, seed};

/// Streams per flavour, and steps per stream, when nobody says.
const STREAMS: u64 = 12;
const STREAM_LEN: usize = 1_000;

/// How many different findings one run collects before it reports.
const MAX_FINDINGS: usize = 25;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn oracle() -> Server {
    ServerBuilder::redis().args("--enable-debug-command local").start()
}

#[track_caller]
fn farkeep_answers_as_redis_does(flavour: Flavour) {
    let oracle = oracle();
    let subject =
        ServerBuilder::farkeep().args("--enable-debug-command local").expect_log("speaks HTTP").start();
    let mut bench = Bench::new(oracle.port(), subject.port()).expect("both servers can be reached");
    let seeds = seed::seeds(number("FARKEEP_DIFF_STREAMS", STREAMS));
    let len = usize::try_from(number("FARKEEP_DIFF_LEN", 0)).expect("a length");
    let len = if len == 0 { STREAM_LEN } else { len };
    let findings = explore(&mut bench, flavour, seeds, len, MAX_FINDINGS);
    let report: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} kinds of difference:\n\n{}", findings.len(), report.join("\n"));
}

#[test]
fn data_commands_answer_as_redis_does() {
    farkeep_answers_as_redis_does(Flavour::Data);
}

#[test]
fn large_values_answer_as_redis_does() {
    farkeep_answers_as_redis_does(Flavour::Large);
}

#[test]
fn expiring_keys_answer_as_redis_does() {
    farkeep_answers_as_redis_does(Flavour::Expiry);
}

#[test]
fn odd_and_malformed_protocol_answers_as_redis_does() {
    farkeep_answers_as_redis_does(Flavour::Protocol);
}

#[test]
fn transactions_answer_as_redis_does() {
    farkeep_answers_as_redis_does(Flavour::Transactions);
}

/// The harness itself: it must be silent where there is no difference.
#[test]
fn redis_beside_itself_shows_no_difference() {
    let (left, right) = (oracle(), oracle());
    let mut bench = Bench::new(left.port(), right.port()).expect("both servers can be reached");
    for flavour in Flavour::ALL {
        let findings =
            explore(&mut bench, flavour, seed::seeds(number("FARKEEP_DIFF_STREAMS", 3)), STREAM_LEN, 1);
        let report: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}", report.join("\n"));
    }
}

/// The harness itself: a small difference deep in a stream is found, and shown with little else.
#[test]
fn a_different_configuration_is_found_and_shown_in_a_few_commands() {
    let left = oracle();
    let right = ServerBuilder::redis()
        .args("--enable-debug-command local --hash-max-listpack-entries 8 --databases 15")
        .start();
    let mut bench = Bench::new(left.port(), right.port()).expect("both servers can be reached");
    let findings = explore(&mut bench, Flavour::Data, 1..6, STREAM_LEN, 4);
    assert!(!findings.is_empty(), "a redis-server with other limits was not told apart");
    for finding in &findings {
        assert!(finding.steps.len() <= 12, "not minimal:\n{finding}");
    }
}

/// The harness itself: a difference is reported with its step.
#[test]
fn a_difference_names_its_step_and_both_replies() {
    let left = oracle();
    let mut bench = Bench::new(left.port(), left.port()).expect("the server can be reached");
    // Both sides are the same server here, so the second INCR sees the first.
    let steps = vec![
        Step::Command { connection: 0, args: vec![b"PING".to_vec()] },
        Step::Command { connection: 1, args: vec![b"INCR".to_vec(), b"n".to_vec()] },
    ];
    let mismatch = bench.run(&steps).expect("1 is not 2");
    assert_eq!(
        (mismatch.index, mismatch.oracle.as_str(), mismatch.subject.as_str()),
        (1, "\":1\\r\\n\"", "\":2\\r\\n\"")
    );
}
