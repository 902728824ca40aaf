//! Joining a leader whose log does not reach back: the image is compared and sent chunk by chunk while the leader goes on.
//! And the same walk over a healthy follower's image, which finds what is damaged.

use std::os::unix::fs::FileExt;

use farkeep_proto::logfile::WINDOW_AT;
use farkeep_proto::window::RING_AT;
use farkeep_tests::load::Load;
use farkeep_tests::pair::{expect_link_trouble, wait_for_link, wait_until_up};
use farkeep_tests::{Pair, Server, ServerBuilder, wait};

const WRITERS: u64 = 4;
/// The smallest ring there may be, so that little is needed to go round it.
const SMALL_RING: &str = "--log-size 4mb";

fn number(node: &Server, section: &str, field: &str) -> u64 {
    node.info(section, field).parse().unwrap_or_else(|_| panic!("{field} is a number"))
}

/// A standalone leader with a small ring that went round long ago. Nobody has to wait for followers.
fn leader_with(keys: usize, value_len: usize) -> Server {
    let leader = ServerBuilder::farkeep().args(SMALL_RING).args("--sync-followers 0").start();
    fill(&leader, 0..keys, value_len);
    leader
}

fn value(key: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (key.wrapping_mul(2_654_435_761) >> (at % 4 * 8)) as u8 ^ at as u8).collect()
}

fn fill(leader: &Server, keys: std::ops::Range<usize>, value_len: usize) {
    let mut client = leader.client();
    for batch in keys.collect::<Vec<_>>().chunks(500) {
        for &key in batch {
            client
                .send(&[b"SET".to_vec(), format!("fill:{key}").into_bytes(), value(key, value_len)])
                .unwrap();
        }
        for _ in batch {
            assert!(client.reply().unwrap().is_ok());
        }
    }
}

#[track_caller]
fn assert_filled(node: &Server, keys: std::ops::Range<usize>, value_len: usize) {
    let mut client = node.client();
    for key in keys.step_by(97) {
        let raw = client.command(&["GET", &format!("fill:{key}")]);
        assert_eq!(raw.bytes().as_deref(), Some(&value(key, value_len)[..]), "fill:{key}");
    }
}

fn follower_of(leader: &Server) -> ServerBuilder {
    ServerBuilder::farkeep()
        .args(SMALL_RING)
        .args("--sync-followers 0")
        .directive("replicaof", &format!("127.0.0.1 {}", leader.port()))
}

/// Waits until a follower serves what it was synced, and its leader, who hears of that a little later, counts so many syncs.
#[track_caller]
fn wait_until_synced(leader: &Server, follower: &Server, syncs: u64) {
    wait_until_up(follower);
    let counted = || number(leader, "farkeep", "farkeep_syncs_total");
    wait::until("the leader to count the sync", || counted() >= syncs);
    assert_eq!(counted(), syncs);
}

/// Stops both where they stand at the same position, and compares their images.
#[track_caller]
fn assert_identical_images(leader: Server, follower: Server) {
    let mut pair = Pair { leader, follower };
    pair.wait_until_applied();
    assert!(pair.leader.stop().success());
    assert!(pair.follower.stop().success());
    let image = |node: &Server| std::fs::read(node.pool().join("image")).expect("the image can be read");
    let (ours, theirs) = (image(&pair.leader), image(&pair.follower));
    let common = ours.len().min(theirs.len());
    assert_eq!((0..common).find(|&at| ours[at] != theirs[at]), None, "the images differ");
    assert!(ours[common..].iter().chain(&theirs[common..]).all(|&byte| byte == 0));
    pair.leader.verify_pool();
    pair.follower.verify_pool();
}

#[test]
fn an_empty_follower_gets_everything_from_a_leader_that_goes_on_writing() {
    let mut leader = leader_with(20_000, 500);
    let oldest = number(&leader, "farkeep", "farkeep_oldest_lsn");
    assert!(oldest > 0, "the ring has gone round, so the log alone is not enough");
    let load = Load::start(leader.port(), WRITERS, 1);
    load.wait_for_more(100);
    let mut follower = follower_of(&leader).start();
    expect_link_trouble(&mut leader);
    expect_link_trouble(&mut follower);
    wait_until_synced(&leader, &follower, 1);
    load.wait_for_more(100);
    let ledger = load.stop();
    let pair = Pair { leader, follower };
    pair.wait_until_applied();
    assert_filled(&pair.follower, 0..20_000, 500);
    ledger.assert_kept_by("the synced follower", &mut pair.follower.client());
    assert_identical_images(pair.leader, pair.follower);
}

#[test]
fn only_what_differs_travels_to_a_follower_that_was_away_for_too_long() {
    let leader = leader_with(60_000, 500);
    let mut follower = follower_of(&leader).start();
    wait_until_synced(&leader, &follower, 1);
    let first = number(&leader, "farkeep", "farkeep_sync_bytes_total");
    let image = number(&leader, "farkeep", "farkeep_image_bytes");
    assert!(first > image / 3, "{first} bytes were sent of an image of {image}");
    follower.expect_log("");
    follower.kill();
    // The same few keys over and over: more than the ring holds, on few pages. They end up with other values than they had.
    let mut client = leader.client();
    let before = number(&leader, "farkeep", "farkeep_appended_lsn");
    while number(&leader, "farkeep", "farkeep_appended_lsn") < before + (8 << 20) {
        for round in 0..200 {
            for key in 1..=10 {
                client
                    .send(&[b"SET".to_vec(), format!("fill:{key}").into_bytes(), value(round, 500)])
                    .unwrap();
            }
        }
        for _ in 0..2000 {
            client.reply().unwrap();
        }
    }
    follower.restart();
    wait_until_synced(&leader, &follower, 2);
    let second = number(&leader, "farkeep", "farkeep_sync_bytes_total") - first;
    // Ten entries and some words of the index, not the chunks in which these lie.
    assert!(second > 10 * 500 && second <= image / 200, "{second} bytes were sent of an image of {image}");
    assert_filled(&follower, 0..60_000, 500);
    assert_identical_images(leader, follower);
}

/// A follower that has missed more than a leader reads back of its log at once, and a leader that was killed since, so that all it
/// has missed lies before the checkpoint. Returns them both down, and where the follower's log ends.
fn missed_before_the_checkpoint() -> (Server, Server, u64) {
    let leader = ServerBuilder::farkeep().args("--log-size 64mb --sync-followers 0").start();
    let follower = ServerBuilder::farkeep()
        .args("--log-size 64mb --sync-followers 0")
        .directive("replicaof", &format!("127.0.0.1 {}", leader.port()))
        .start();
    fill(&leader, 0..1000, 500);
    let pair = Pair { leader, follower };
    pair.wait_until_applied();
    let Pair { mut leader, mut follower } = pair;
    let end = number(&leader, "farkeep", "farkeep_appended_lsn");
    follower.kill();
    fill(&leader, 1000..50_000, 500);
    assert!(number(&leader, "farkeep", "farkeep_appended_lsn") > end + (24 << 20));
    let committed = number(&leader, "farkeep", "farkeep_committed_lsn");
    wait::until("the checkpoint", || number(&leader, "farkeep", "farkeep_checkpoint_lsn") >= committed);
    leader.kill();
    (leader, follower, end)
}

#[test]
fn a_follower_goes_on_where_it_was_after_its_leader_has_read_the_log_back() {
    let (mut leader, mut follower, end) = missed_before_the_checkpoint();
    leader.restart();
    expect_link_trouble(&mut leader);
    expect_link_trouble(&mut follower);
    assert!(number(&leader, "farkeep", "farkeep_checkpoint_lsn") > end + (24 << 20));
    follower.restart();
    wait_until_up(&follower);
    let pair = Pair { leader, follower };
    pair.wait_until_applied();
    assert_eq!(number(&pair.leader, "farkeep", "farkeep_syncs_total"), 0, "the log was all it needed");
    assert_filled(&pair.follower, 0..50_000, 500);
    assert_identical_images(pair.leader, pair.follower);
}

#[test]
fn a_follower_is_synced_where_its_leaders_log_is_not_whole() {
    let (mut leader, mut follower, end) = missed_before_the_checkpoint();
    // As a power cut leaves it in the middle of overwriting a segment.
    let log = std::fs::OpenOptions::new().write(true).open(leader.pool().join("log")).unwrap();
    log.write_all_at(&[0xee; 8], WINDOW_AT + RING_AT + end + (1 << 20)).unwrap();
    leader.restart();
    expect_link_trouble(&mut leader);
    expect_link_trouble(&mut follower);
    leader.expect_log("the log is not whole here");
    follower.restart();
    wait_until_synced(&leader, &follower, 1);
    assert!(number(&leader, "farkeep", "farkeep_oldest_lsn") > end + (1 << 20));
    assert_filled(&follower, 0..50_000, 500);
    assert_identical_images(leader, follower);
}

/// The steps of a walk answer, so a slow one can be caught in the middle.
fn slow_sync() -> (Server, Server) {
    let leader = ServerBuilder::farkeep()
        .args(SMALL_RING)
        .args("--sync-followers 0 --sync-max-rate 8mb")
        .expect_log("")
        .start();
    fill(&leader, 0..60_000, 500);
    let follower = follower_of(&leader).expect_log("").start();
    wait::until("a part of the image to be settled", || {
        number(&follower, "farkeep", "farkeep_sync_settled_bytes") > 4 << 20
    });
    (leader, follower)
}

#[test]
fn in_mid_sync_nothing_is_read_nobody_is_promoted_and_progress_is_shown() {
    let (leader, follower) = slow_sync();
    let refusal = follower.client().words("GET fill:1");
    assert!(refusal.error().is_some_and(|text| text.starts_with("LOADING")), "{refusal:?}");
    let refusal = follower.client().words("REPLICAOF NO ONE");
    assert!(refusal.error().is_some_and(|text| text.contains("in the middle of a sync")), "{refusal:?}");
    assert_eq!(follower.info("replication", "master_link_status"), "down");
    assert_eq!(follower.info("replication", "master_sync_in_progress"), "1");
    assert!(leader.info("replication", "slave0").contains("state=send_bulk"));
    assert!(leader.info("farkeep", "farkeep_follower0").contains("state=syncing"));
    assert!(leader.info("farkeep", "farkeep_follower0_walk").contains("purpose=sync"));
    assert_eq!(number(&leader, "farkeep", "farkeep_followers_in_reach"), 0, "it could not take over");
    let mut client = leader.client();
    assert_eq!(client.words("WAIT 1 50").int(), Some(0));
    client.expect_ok("CONFIG SET sync-followers 1");
    let refusal = client.words("SET k v");
    assert!(refusal.error().is_some_and(|text| text.starts_with("NOREPLICAS")), "{refusal:?}");
    client.expect_ok("CONFIG SET sync-max-rate 0");
    wait_for_link(&leader, &follower);
    assert_filled(&follower, 0..60_000, 500);
}

#[test]
fn a_sync_goes_on_where_it_was_after_the_follower_is_killed() {
    let (leader, mut follower) = slow_sync();
    follower.kill();
    let refused = ServerBuilder::farkeep().pool(&follower.pool()).start_and_end();
    assert!(refused.log.contains("in the middle of a sync"), "a pool in mid-sync does not lead: {refused:?}");
    leader.client().expect_ok("CONFIG SET sync-max-rate 0");
    follower.restart();
    wait_until_synced(&leader, &follower, 1);
    let sent = number(&leader, "farkeep", "farkeep_sync_bytes_total");
    let image = number(&leader, "farkeep", "farkeep_image_bytes");
    assert!(sent < image - (3 << 20), "what was settled is not sent again: {sent} bytes of {image}");
    assert_filled(&follower, 0..60_000, 500);
    assert_identical_images(leader, follower);
}

#[test]
fn a_sync_goes_on_after_the_leader_is_killed() {
    let (mut leader, follower) = slow_sync();
    leader.kill();
    leader.restart();
    leader.client().expect_ok("CONFIG SET sync-max-rate 0");
    wait_until_up(&follower);
    assert_filled(&follower, 0..60_000, 500);
    assert_identical_images(leader, follower);
}

#[test]
fn a_scrub_finds_a_flipped_bit_and_mends_it() {
    let leader = leader_with(20_000, 500);
    let follower = follower_of(&leader).expect_log("damaged").start();
    wait_until_synced(&leader, &follower, 1);
    let mut leader = leader;
    leader.expect_log("a scrub has found");
    let load = Load::start(leader.port(), WRITERS, 1);
    load.wait_for_more(50);
    let scrub = |mismatches: u64| {
        let before = number(&leader, "farkeep", "farkeep_scrubs_total");
        assert_eq!(leader.client().words("FARKEEP SCRUB").text().as_deref(), Some("Scrub started"));
        wait::until("the scrub to end", || number(&leader, "farkeep", "farkeep_scrubs_total") == before + 1);
        assert_eq!(number(&leader, "farkeep", "farkeep_scrub_mismatches_total"), mismatches);
    };
    scrub(0);
    // A value far from what the load writes to, flipped behind the node's back.
    let file =
        std::fs::OpenOptions::new().read(true).write(true).open(follower.pool().join("image")).unwrap();
    let image = std::fs::read(follower.pool().join("image")).unwrap();
    let wanted = value(7_000, 500);
    let at =
        image.windows(wanted.len()).position(|bytes| bytes == wanted).expect("the value is in the image");
    file.write_all_at(&[image[at + 250] ^ 4], at as u64 + 250).unwrap();
    let get = |node: &Server| node.client().command(&["GET", "fill:7000"]).bytes();
    assert_ne!(get(&follower), Some(wanted.clone()), "the damage can be seen");
    scrub(1);
    assert_eq!(get(&follower), Some(wanted));
    scrub(1);
    assert!(follower.log().contains("it is damaged, and will be repaired"), "{}", follower.log());
    assert_eq!(follower.info("replication", "master_link_status"), "up");
    let ledger = load.stop();
    ledger.assert_kept_by("the leader", &mut leader.client());
    let refusal = follower.client().words("FARKEEP SCRUB");
    assert!(refusal.error().is_some_and(|text| text.contains("on the leader")), "{refusal:?}");
    assert_identical_images(leader, follower);
}

#[test]
fn a_node_that_wrote_alone_gives_its_suffix_up_and_syncs() {
    let mut pair = Pair::with(
        ServerBuilder::farkeep().args(SMALL_RING).expect_log(""),
        ServerBuilder::farkeep().args(SMALL_RING).expect_log(""),
    );
    fill(&pair.leader, 0..5_000, 500);
    pair.wait_until_applied();
    let (mut old, mut new) = (pair.leader, pair.follower);
    // The old leader goes on alone, says so, and takes what it wrote into its image.
    old.client().expect_ok("CONFIG SET on-follower-loss degrade");
    new.kill();
    wait::until("a write without followers", || old.client().words("SET alone 1").is_ok());
    let alone = number(&old, "farkeep", "farkeep_appended_lsn");
    wait::until("it to be in the image", || number(&old, "farkeep", "farkeep_checkpoint_lsn") >= alone);
    old.kill();
    new.restart();
    new.client().expect_ok("REPLICAOF NO ONE");
    new.client().expect_ok("CONFIG SET sync-followers 0");
    fill(&new, 0..10, 400);
    old.follow(new.port());
    old.restart();
    wait_until_synced(&new, &old, 1);
    assert!(old.client().words("GET alone").is_null(), "it was never on two nodes");
    pair = Pair { leader: new, follower: old };
    pair.wait_until_applied();
    assert_filled(&pair.follower, 10..5_000, 500);
    assert_identical_images(pair.leader, pair.follower);
}

#[test]
fn a_foreign_dataset_is_replaced_only_by_order() {
    let leader = leader_with(1_000, 100);
    let mut other =
        ServerBuilder::farkeep().args(SMALL_RING).args("--sync-followers 0").expect_log("").start();
    other.client().expect_ok("SET mine 1");
    other.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", leader.port()));
    wait::until("the reason to be told", || {
        other.info("farkeep", "farkeep_link_down_reason").contains("another dataset")
    });
    assert_eq!(other.client().words("GET mine").text().as_deref(), Some("1"), "nothing is touched");
    other.stop();
    let mut other = ServerBuilder::farkeep()
        .args(SMALL_RING)
        .args("--sync-followers 0 --replace-dataset yes")
        .pool(&other.pool())
        .directive("replicaof", &format!("127.0.0.1 {}", leader.port()))
        .expect_log("")
        .start();
    wait_until_up(&other);
    assert!(other.client().words("GET mine").is_null());
    assert_filled(&other, 0..1_000, 100);
    other.kill();
}

/// It has the same log as the other follower, and no image to go with it.
#[test]
fn farkeep_failover_passes_over_a_follower_in_the_middle_of_a_sync() {
    let node = || ServerBuilder::farkeep().args(SMALL_RING).args("--sync-followers 1").expect_log("");
    let mut leader = node().args("--sync-max-rate 4mb").start();
    let directive = format!("127.0.0.1 {}", leader.port());
    let whole = node().directive("replicaof", &directive).start();
    wait_for_link(&leader, &whole);
    fill(&leader, 0..40_000, 500);
    let halfway = node().directive("replicaof", &directive).start();
    wait::until("a part of the image to be settled", || {
        number(&halfway, "farkeep", "farkeep_sync_settled_bytes") > 1 << 20
    });
    leader.kill();
    let mut command = std::process::Command::new(farkeep_tests::binary::farkeep());
    command.args(["failover", "--force", "--timeout", "60000"]);
    for node in [&halfway, &whole] {
        command.args(["--node", &format!("127.0.0.1:{}", node.port())]);
    }
    let done = command.output().expect("it can be run");
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    assert_eq!(whole.info("replication", "role"), "master", "{said}");
    wait_until_up(&halfway);
    assert_filled(&halfway, 0..40_000, 500);
    assert_identical_images(whole, halfway);
}

#[test]
fn an_operator_has_a_follower_synced_anew_if_the_others_suffice_or_by_force() {
    let leader = ServerBuilder::farkeep().args("--sync-followers 1").start();
    let follower = || {
        let of = format!("127.0.0.1 {}", leader.port());
        ServerBuilder::farkeep().args("--sync-followers 1").directive("replicaof", &of).start()
    };
    let mut first = follower();
    expect_link_trouble(&mut first);
    wait_until_up(&first);
    fill(&leader, 0..2000, 500);
    let resync = |node: &Server, force: &[&str]| {
        let port = first.port().to_string();
        let argv = [&["FARKEEP", "RESYNC", "127.0.0.1", &port][..], force].concat();
        let said = node.client().command(&argv);
        said.text().or(said.error().map(str::to_owned)).expect("a status or an error")
    };
    assert!(resync(&first, &[]).contains("ERR a resync is begun on the leader"));
    assert!(resync(&leader, &["NOW"]).contains("ERR unknown subcommand or wrong number of arguments"));
    let refused = resync(&leader, &[]);
    assert!(refused.contains("without it 0 of the 1 followers"), "{refused}");
    assert_eq!(first.info("replication", "master_link_status"), "up");
    let second = follower();
    // It can stand in for the first one when it holds all that the leader has acknowledged.
    let mut client = leader.client();
    client.expect_ok("SET both 1");
    assert_eq!(client.words("WAIT 2 60000").int(), Some(2));
    wait_until_up(&second);
    let syncs = || number(&leader, "farkeep", "farkeep_syncs_total");
    let before = syncs();
    assert!(resync(&leader, &[]).starts_with("Resync started"));
    wait::until("the sync to be over", || syncs() == before + 1);
    wait_until_up(&first);
    fill(&leader, 2000..2100, 500);
    drop(second);
    wait::until("the other one to be gone", || leader.info("replication", "connected_slaves") == "1");
    assert!(resync(&leader, &["FORCE"]).starts_with("Resync started"));
    wait::until("the second sync to be over", || syncs() == before + 2);
    wait_until_up(&first);
    fill(&leader, 2100..2200, 500);
    let mut pair = Pair { leader, follower: first };
    expect_link_trouble(&mut pair.leader);
    pair.wait_until_applied();
    assert_filled(&pair.follower, 0..2200, 500);
    assert_identical_images(pair.leader, pair.follower);
}
