//! Nodes whose log goes to followers by RDMA, as on real hardware: images on fsdax, logs on a devdax device each. Run in the guest
//! by `cargo xtask guest --suite`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use farkeep_tests::load::{Ledger, Load};
use farkeep_tests::pair::{LINK_TROUBLE, wait_for_link};
use farkeep_tests::{Pair, Server, ServerBuilder, guest, wait};
use tempfile::TempDir;

const WRITERS: u64 = 4;

/// The follower's card alone makes records durable; or its agent does.
const APM: &str = "--rdma-direct-write yes";
const GPSPM: &str = "--rdma-direct-write no";

/// A pair and the directory that its pools are in.
struct Bed {
    pair: Pair,
    _pools: TempDir,
}

impl Bed {
    fn new(mode: &str) -> Self {
        let pools = tempfile::tempdir_in(guest::fsdax()).unwrap();
        let [leader_log, follower_log] = guest::blank_devdax();
        let node = |name: &str, log: &Path| {
            let builder = ServerBuilder::farkeep()
                .pool(&pools.path().join(name))
                .directive("log", log.to_str().unwrap())
                .args("--durability auto --enable-debug-command local")
                .args(mode);
            LINK_TROUBLE.iter().fold(builder, |builder, text| builder.expect_log(text))
        };
        let pair = Pair::with(node("leader", &leader_log), node("follower", &follower_log));
        wait_for_fabric(&pair, "rdma");
        Self { pair, _pools: pools }
    }
}

/// Waits until both sides say that the follower is reached in this way.
#[track_caller]
fn wait_for_fabric(pair: &Pair, fabric: &str) {
    wait::until(&format!("the session to run over {fabric}"), || fabrics(pair) == [fabric, fabric]);
}

/// What the leader and the follower say of their session.
fn fabrics(pair: &Pair) -> [String; 2] {
    let line = pair.leader.info("farkeep", "farkeep_follower0");
    let of_leader = line.split(',').find_map(|field| field.strip_prefix("fabric=")).unwrap_or_default();
    [of_leader.to_owned(), pair.follower.info("farkeep", "farkeep_fabric")]
}

/// The flags of each shared mapping of the file at `path` in a node and whether it is synchronous (`MAP_SYNC`).
fn synchronous_mappings(node: &Server, path: &Path) -> Vec<(String, bool)> {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", node.pid())).unwrap();
    let mut mappings = Vec::new();
    let mut ours = false;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.len() >= 6 && words[0].contains('-') {
            ours = Path::new(words[5]) == path && words[1].ends_with('s') && words[1].contains('w');
        } else if ours && words[0] == "VmFlags:" {
            mappings.push((line.to_owned(), words.contains(&"sf")));
            ours = false;
        }
    }
    mappings
}

#[track_caller]
fn promote(node: &Server) {
    node.client().expect_ok("REPLICAOF NO ONE");
    assert_eq!(node.info("replication", "role"), "master");
}

/// Processor time that all threads of a node have taken, in nanoseconds.
fn processor_time_ns(node: &Server) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap();
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.map(|task| of_task(task.unwrap())).sum()
}

#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_a_pair_on_persistent_memory_says_what_its_promises_rest_on() {
    let bed = Bed::new(APM);
    let Pair { leader, follower } = &bed.pair;
    let [leader_log, follower_log] = guest::devdax();
    for (node, log) in [(leader, &leader_log), (follower, &follower_log)] {
        assert_eq!(node.info("farkeep", "farkeep_durability"), "pmem");
        assert_eq!(node.info("farkeep", "farkeep_rdma_device"), "rxe0 at 10.0.2.15");
        for file in [log.as_path(), &node.pool().join("image")] {
            let mappings = synchronous_mappings(node, file);
            assert!(!mappings.is_empty() && mappings.iter().all(|(_, sync)| *sync), "{mappings:?}");
        }
    }
    assert_eq!(follower.info("farkeep", "farkeep_rdma_mode"), "apm");
    assert!(leader.info("farkeep", "farkeep_follower0").contains("fabric=rdma,mode=apm,"));
    assert_eq!(leader.info("farkeep", "farkeep_follower0_fabric_reason"), "");
    for (node, line) in [(leader, "a follower is attached"), (follower, "following")] {
        let log = node.log();
        let said =
            |line: &str, text: &str| log.lines().any(|found| found.contains(line) && found.contains(text));
        assert!(said(line, "rdma") && said(line, "apm"), "{log}");
    }
    assert!(leader.log().contains("the log is registered"), "{}", leader.log());
}

#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_kills_of_either_side_of_an_rdma_session_under_load_lose_nothing_acknowledged() {
    for mode in [APM, GPSPM] {
        let Bed { mut pair, _pools } = Bed::new(mode);
        let load = Load::start(pair.leader.port(), WRITERS, 1);
        load.wait_for_more(100);
        pair.follower.kill();
        pair.follower.restart();
        wait_for_link(&pair.leader, &pair.follower);
        wait_for_fabric(&pair, "rdma");
        assert_eq!(pair.leader.info("stats", "sync_partial_err"), "0", "it resumed");
        load.wait_for_more(100);

        pair.leader.kill();
        let ledger = load.stop();
        promote(&pair.follower);
        pair.leader.follow(pair.follower.port());
        pair.leader.restart();
        wait_for_link(&pair.follower, &pair.leader);
        ledger.assert_kept_by("the promoted follower", &mut pair.follower.client());
        let swapped = Pair { leader: pair.follower, follower: pair.leader };
        wait_for_fabric(&swapped, "rdma");
        swapped.wait_until_applied();
        ledger.assert_kept_by("the leader that came back", &mut swapped.follower.client());
    }
}

/// The leader stands still while its follower is promoted, and does not know of it when it goes on. Its window has been taken away.
#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_a_zombie_leader_gets_no_acknowledgement_out_of_a_promoted_follower_over_rdma() {
    for mode in [APM, GPSPM] {
        let Bed { pair, _pools } = Bed::new(mode);
        let load = Load::start(pair.leader.port(), WRITERS, 1);
        load.wait_for_more(100);
        pair.leader.freeze();
        promote(&pair.follower);
        let mut client = pair.leader.client();
        client.send(&["SET", "zombie", "acknowledged"]).unwrap();
        pair.leader.thaw();
        let reply = client.reply();
        assert!(
            reply.as_ref().is_ok_and(|value| value.error().is_some()),
            "a write after the promotion: {reply:?}"
        );
        // By the link or by the control channel, whichever ends first.
        wait::until("the zombie to notice", || {
            let log = pair.leader.log();
            log.contains("the rdma link broke") || log.contains("lost a follower")
        });
        let refusal = pair.leader.client().words("SET zombie acknowledged");
        assert!(refusal.error().is_some_and(|text| text.starts_with("NOREPLICAS")), "{refusal:?}");
        let ledger = load.stop();
        let mut client = pair.follower.client();
        client.expect_ok("CONFIG SET sync-followers 0");
        ledger.assert_kept_by("the promoted follower", &mut client);
        assert!(client.words("GET zombie").is_null());
    }
}

/// As Sentinel does it: the leader stands down first, and follows.
#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_a_promotion_in_a_transaction_moves_the_leader_over_rdma_and_back_without_loss() {
    let Bed { pair, _pools } = Bed::new(APM);
    let Pair { mut leader, mut follower } = pair;
    let mut ledger = Ledger::default();
    for round in 1..=2 {
        let load = Load::start(leader.port(), WRITERS, round);
        load.wait_for_more(100);
        let mut client = follower.client();
        client.expect_ok("MULTI");
        client.words("SLAVEOF NO ONE");
        let replies = client.words("EXEC").elements().expect("an array");
        assert!(replies[0].is_ok(), "{replies:?}");
        assert_eq!(follower.info("replication", "role"), "master");
        wait_for_link(&follower, &leader);
        ledger.merge(load.stop());
        std::mem::swap(&mut leader, &mut follower);
        let pair = Pair { leader, follower };
        wait_for_fabric(&pair, "rdma");
        ledger.assert_kept_by(&format!("the leader of round {round}"), &mut pair.leader.client());
        ledger.settle(&mut pair.leader.client());
        Pair { leader, follower } = pair;
    }
}

/// A log that no card may write to, because of where it lies or because of a limit: the node says so, and goes over tcp.
#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_a_follower_whose_log_no_card_can_write_to_says_why_and_is_reached_over_tcp() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

    let pools = tempfile::tempdir_in(guest::fsdax()).unwrap();
    let on_fsdax = |name: &str| {
        ServerBuilder::farkeep().args("--durability auto --log-size 16mb").pool(&pools.path().join(name))
    };
    let refused = "the leader cannot reach this node by RDMA";
    let copied = "what is written to followers by RDMA is copied on its way";
    let assert_over_tcp = |pair: &Pair, why: &str| {
        assert_eq!(fabrics(pair), ["tcp", "tcp"]);
        for (node, field) in
            [(&pair.leader, "farkeep_follower0_fabric_reason"), (&pair.follower, "farkeep_fabric_reason")]
        {
            let reason = node.info("farkeep", field);
            assert!(reason.contains(why), "{field}: {reason}");
        }
        let log = pair.follower.log();
        assert!(log.lines().any(|line| line.contains(refused) && line.contains(why)), "{log}");
    };
    let pair = Pair::with(on_fsdax("leader"), on_fsdax("follower").expect_log(refused));
    assert_over_tcp(&pair, "put the log on a devdax device");
    drop(pair);

    // What the processes of this test may lock from here on, whoever runs them. The test is a process of its own.
    remove_capability_from_bounding_set(CapabilitySet::IPC_LOCK).unwrap();
    setrlimit(Resource::Memlock, Rlimit { current: Some(8 << 20), maximum: Some(8 << 20) }).unwrap();
    let in_memory = || ServerBuilder::farkeep().args("--log-size 16mb").expect_log(copied);
    let pair = Pair::with(in_memory(), in_memory().expect_log(refused));
    assert_over_tcp(&pair, "LimitMEMLOCK=infinity");
}

/// Commits over which processor time is counted.
const COMMITS: u64 = 10_000;

#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_durability_in_apm_takes_less_than_a_hundredth_of_the_leaders_processor_time_on_the_follower() {
    let Bed { pair, _pools } = Bed::new(APM);
    let Pair { leader, follower } = &pair;
    let mut client = leader.client();
    client.expect_ok(&format!("SET counted {}", "x".repeat(256)));
    follower.client().expect_ok("DEBUG SET-REPLAY 0");
    let before = [processor_time_ns(leader), processor_time_ns(follower)];
    let committed =
        |node: &Server| node.info("farkeep", "farkeep_transactions_total").parse::<u64>().unwrap();
    let first = committed(leader);
    // One write at a time, so that each is a commit of its own.
    for number in 0..COMMITS {
        let reply = client.words(&format!("SETRANGE counted 0 {number:0256}"));
        assert_eq!(reply.int(), Some(256), "{reply:?}");
    }
    let after = [processor_time_ns(leader), processor_time_ns(follower)];
    assert!(committed(leader) - first >= COMMITS);
    assert_eq!(fabrics(&pair), ["rdma", "rdma"]);
    let [of_leader, of_follower] = [0, 1].map(|node| Duration::from_nanos(after[node] - before[node]));
    println!("{COMMITS} commits: the leader took {of_leader:?}, the follower {of_follower:?}");
    assert!(of_follower < of_leader / 100, "the leader took {of_leader:?}, the follower {of_follower:?}");
    follower.client().expect_ok("DEBUG SET-REPLAY 1");
    pair.wait_until_applied();
}
