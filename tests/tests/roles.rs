//! Roles change at run time: who follows whom, what is taken over, what is kept, what is refused.

use farkeep_tests::load::Load;
use farkeep_tests::pair::{expect_link_trouble, wait_for_link, wait_until_up};
use farkeep_tests::{Client, Pair, Server, ServerBuilder, binary, wait};

const WRITERS: u64 = 4;

fn replicaof(node: &Server, leader: &Server) {
    node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", leader.port()));
}

#[track_caller]
fn promote(node: &Server) {
    node.client().expect_ok("REPLICAOF NO ONE");
    assert_eq!(node.info("replication", "role"), "master");
}

fn get(client: &mut Client, key: &str) -> Option<String> {
    client.command(&["GET", key]).text()
}

fn wait_until_key(node: &Server, key: &str, value: &str) {
    wait::until("the key to arrive", || {
        let mut client = node.client();
        get(&mut client, key).as_deref() == Some(value)
    });
}

/// Waits until the follower gives a reason for its link being down that contains `text`.
#[track_caller]
fn wait_for_reason(follower: &Server, text: &str) {
    wait::until("the reason for the link being down", || {
        follower.info("farkeep", "farkeep_link_down_reason").contains(text)
    });
    assert_eq!(follower.info("replication", "master_link_status"), "down");
}

/// The bytes of the image, which nobody has open any more.
fn image(node: &Server) -> Vec<u8> {
    std::fs::read(node.pool().join("image")).expect("the image can be read")
}

/// Stops both at one position and compares their images.
#[track_caller]
fn assert_identical_images(pair: &mut Pair) {
    pair.wait_until_applied();
    // The leader first: what it still has to say, the follower takes in.
    assert!(pair.leader.stop().success());
    assert!(pair.follower.stop().success());
    let position = |node: &Server| {
        let output = std::process::Command::new(binary::farkeep())
            .args(["pool", "inspect", "-o", "json"])
            .arg(node.pool())
            .output()
            .expect("farkeep can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (ours, theirs) = (image(&pair.leader), image(&pair.follower));
    let common = ours.len().min(theirs.len());
    let differs = (0..common).find(|&at| ours[at] != theirs[at]);
    assert!(
        differs.is_none(),
        "the images differ at {differs:?}\nleader {}\nfollower {}",
        position(&pair.leader),
        position(&pair.follower)
    );
    // Space allocated ahead of need is not part of the image and all zero.
    assert!(ours[common..].iter().chain(&theirs[common..]).all(|&byte| byte == 0));
}

/// Sentinel promotes whom it believes to be in sync.
#[test]
fn a_follower_is_up_only_once_it_serves() {
    // Nothing is committed as long as there is one follower and not two, so there is nothing to serve.
    let mut leader = ServerBuilder::farkeep().args("--sync-followers 2").start();
    let address = format!("127.0.0.1 {}", leader.port());
    let mut follower = ServerBuilder::farkeep().directive("replicaof", &address).start();
    expect_link_trouble(&mut leader);
    expect_link_trouble(&mut follower);
    wait::until("the session to run", || leader.info("farkeep", "farkeep_followers_in_reach") == "1");
    let says = |follower: &Server| {
        ["master_link_status", "master_sync_in_progress", "master_last_io_seconds_ago"]
            .map(|field| follower.info("replication", field))
    };
    let role = |follower: &Server| {
        follower.client().words("ROLE").elements().expect("an array")[3].text().expect("a text")
    };
    wait::until("the follower to say so", || says(&follower)[1] == "1");
    assert_eq!(says(&follower), ["down", "1", "-1"]);
    assert_eq!(role(&follower), "sync");
    assert_eq!(follower.info("replication", "master_link_down_since_seconds"), "-1", "it never was up");
    let refusal = follower.client().words("GET k");
    assert!(refusal.error().is_some_and(|text| text.starts_with("LOADING")), "{refusal:?}");

    leader.client().expect_ok("CONFIG SET sync-followers 1");
    wait_until_up(&follower);
    assert_eq!(says(&follower), ["up", "0", "0"]);
    assert_eq!(role(&follower), "connected");
    assert_eq!(follower.info("replication", "master_link_down_since_seconds"), "");
    assert_eq!(get(&mut follower.client(), "k"), None);

    leader.kill();
    // The window ends before the link takes note of it.
    wait::until("the link to be down since some time", || {
        let down_since = follower.info("replication", "master_link_down_since_seconds");
        says(&follower) == ["down", "0", "-1"] && down_since.parse::<i64>().is_ok_and(|seconds| seconds >= 0)
    });
}

#[test]
fn a_follower_whose_leader_is_killed_in_the_middle_of_a_sync_shows_no_progress_any_more() {
    let settings = "--log-size 4mb --sync-followers 0";
    let mut leader = ServerBuilder::farkeep().args(settings).args("--sync-max-rate 2mb").start();
    let mut client = leader.client();
    let value = "v".repeat(4000);
    for key in 0..2500 {
        assert!(client.command(&["SET", &format!("k{key}"), &value]).is_ok());
    }
    let address = format!("127.0.0.1 {}", leader.port());
    let mut follower = ServerBuilder::farkeep().args(settings).directive("replicaof", &address).start();
    expect_link_trouble(&mut leader);
    expect_link_trouble(&mut follower);
    let progress = || {
        let info = follower.client().words("INFO replication").text().expect("a text");
        let lines = info.lines().filter_map(|line| line.strip_prefix("master_sync_")?.split_once(':'));
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    let named = |name: &str| progress().into_iter().find(|(known, _)| known == name).map(|(_, value)| value);
    wait::until("a part of the image to be settled", || {
        named("read_bytes").is_some_and(|bytes| bytes.parse::<u64>().expect("a number") > 0)
    });
    let percent = named("perc").expect("it is in mid-sync").parse::<f64>().expect("a number");
    assert!(percent <= 100.0, "{percent}");
    leader.kill();
    let over = [("in_progress".to_owned(), "0".to_owned())];
    wait::until("the follower to have lost its leader", || progress()[0].1 == "0");
    assert_eq!(progress(), over);
    assert_eq!(follower.info("farkeep", "farkeep_mid_sync"), "1");
}

/// Other than in Redis: what is published is in no log, and the subscribers are here now.
#[test]
fn what_is_published_does_not_wait_for_a_failover_as_writes_do() {
    let pair = Pair::start().expect_link_trouble();
    let mut subscriber = pair.leader.client();
    subscriber.words("SUBSCRIBE news");
    let mut client = pair.leader.client();
    pair.follower.freeze();
    client.expect_ok(&format!("FAILOVER TO 127.0.0.1 {}", pair.follower.port()));
    let mut writer = pair.leader.client();
    writer.send(&["SET", "k", "v"]).expect("it can be sent");
    wait::until("the write to wait", || pair.leader.info("clients", "blocked_clients") == "1");
    assert_eq!(client.words("PUBLISH news now").int(), Some(1));
    let message = subscriber.reply().expect("a message").elements().expect("an array");
    assert_eq!(message[2].text().as_deref(), Some("now"));
    client.expect_ok("FAILOVER ABORT");
    pair.follower.thaw();
    assert!(writer.reply().expect("a reply").is_ok());
}

/// Two fresh servers and one REPLICAOF: how everyone tries a replica for the first time.
#[test]
fn an_empty_leader_told_to_follow_another_takes_its_dataset_over() {
    let leader = Server::farkeep();
    let mut follower = Server::farkeep();
    expect_link_trouble(&mut follower);
    leader.client().expect_ok("SET k v");
    replicaof(&follower, &leader);
    wait_until_up(&follower);
    wait_until_key(&follower, "k", "v");
    assert_eq!(follower.info("replication", "role"), "slave");
    let refusal = follower.client().words("SET k w");
    assert!(refusal.error().is_some_and(|text| text.starts_with("READONLY")), "{refusal:?}");
    assert_eq!(follower.info("farkeep", "farkeep_dataset_id"), leader.info("farkeep", "farkeep_dataset_id"));
    assert_identical_images(&mut Pair { leader, follower });
}

/// The same where the pool's log has another size and the node was restarted in between.
#[test]
fn an_empty_pool_of_another_log_size_is_given_up_for_the_leaders_dataset_at_start() {
    let leader = Server::farkeep();
    let mut follower = ServerBuilder::farkeep().args("--log-size 16mb").start();
    expect_link_trouble(&mut follower);
    leader.client().expect_ok("SET k v");
    follower.stop();
    follower.follow(leader.port());
    follower.restart();
    wait_until_up(&follower);
    wait_until_key(&follower, "k", "v");
    follower.kill();
    follower.restart();
    wait_until_key(&follower, "k", "v");
}

/// What a killed node has written, its image does not hold yet: that it holds no key is in its log only.
#[test]
fn an_empty_leader_that_was_killed_takes_the_leaders_dataset_over_at_start() {
    let leader = Server::farkeep();
    leader.client().expect_ok("SET k v");
    for emptied in [false, true] {
        let mut follower = Server::farkeep();
        expect_link_trouble(&mut follower);
        if emptied {
            follower.client().expect_ok("SET gone soon");
            follower.client().expect_ok("FLUSHALL");
            wait::until("the image to have no key either", || {
                let lsn = |name: &str| follower.info("farkeep", name);
                lsn("farkeep_applied_lsn") == lsn("farkeep_appended_lsn")
            });
        }
        follower.kill();
        follower.follow(leader.port());
        follower.restart();
        wait_until_up(&follower);
        wait_until_key(&follower, "k", "v");
        assert_eq!(get(&mut follower.client(), "gone"), None);
    }
}

/// A key that only the log holds is as much to lose as one in the image.
#[test]
fn a_killed_leader_with_a_single_key_is_refused_and_keeps_it() {
    let mut leader = Server::farkeep();
    leader.expect_log("refused a follower");
    let mut other = Server::farkeep();
    expect_link_trouble(&mut other);
    other.client().expect_ok("SET mine kept");
    other.kill();
    other.follow(leader.port());
    other.restart();
    wait_for_reason(&other, "holds another dataset");
    promote(&other);
    assert_eq!(get(&mut other.client(), "mine").as_deref(), Some("kept"));
}

#[test]
fn a_leader_with_other_data_is_refused_keeps_it_and_says_why_without_flooding_the_log() {
    let mut leader = Server::farkeep();
    let mut other = Server::farkeep();
    expect_link_trouble(&mut other);
    leader.expect_log("refused a follower");
    leader.client().expect_ok("SET k v");
    other.client().expect_ok("SET mine kept");
    replicaof(&other, &leader);
    wait_for_reason(&other, "holds another dataset");
    let refusals = || {
        let text = leader.info("stats", "sync_partial_err");
        text.parse::<u64>().unwrap_or(0)
    };
    // Several attempts later it is still refused, has said so once, and has its data.
    let before = refusals();
    wait::until("some more attempts", || refusals() >= before + 3);
    let said = |node: &Server| node.log().lines().filter(|line| line.contains("another dataset")).count();
    assert_eq!((said(&other), said(&leader)), (1, 1));
    assert_eq!(get(&mut other.client(), "mine").as_deref(), Some("kept"));
    promote(&other);
    let mut client = other.client();
    assert_eq!(get(&mut client, "mine").as_deref(), Some("kept"));
    client.expect_ok("SET mine changed");
    other.kill();
    other.follow(leader.port());
    other.restart();
    wait_for_reason(&other, "holds another dataset");
    // What it knows to be committed it shows at once, all that it has as soon as it leads.
    assert!(get(&mut other.client(), "mine").is_some());
    promote(&other);
    assert_eq!(get(&mut other.client(), "mine").as_deref(), Some("changed"));
}

#[test]
fn a_follower_told_to_follow_nobody_leads_with_all_it_had() {
    let Pair { leader, follower } = Pair::start().expect_link_trouble();
    let load = Load::start(leader.port(), WRITERS, 1);
    load.wait_for_more(500);
    let ledger = load.stop();
    promote(&follower);
    let mut client = follower.client();
    client.expect_ok("CONFIG SET sync-followers 0");
    ledger.assert_kept_by("the promoted follower", &mut client);
    client.expect_ok("SET after promotion");
    assert_eq!(client.words("ROLE").elements().expect("an array")[0].text().as_deref(), Some("master"));
    assert_eq!(leader.info("replication", "role"), "master", "nobody asked the leader");
    // The same again is no change.
    let epoch = follower.info("farkeep", "farkeep_epoch");
    promote(&follower);
    assert_eq!(follower.info("farkeep", "farkeep_epoch"), epoch);
}

/// How Sentinel promotes while the leader is there: it stands down first, and follows.
#[test]
fn a_follower_promoted_in_a_transaction_takes_over_from_its_leader_without_loss() {
    let Pair { mut leader, mut follower } = Pair::start().expect_link_trouble();
    let mut ledger = farkeep_tests::load::Ledger::default();
    for round in 1..=4 {
        let load = Load::start(leader.port(), WRITERS, round);
        load.wait_for_more(300);
        let mut client = follower.client();
        client.expect_ok("MULTI");
        client.words("SLAVEOF NO ONE");
        let replies = client.words("EXEC").elements().expect("an array");
        assert!(replies[0].is_ok(), "{replies:?}");
        assert_eq!(follower.info("replication", "role"), "master");
        wait_for_link(&follower, &leader);
        ledger.merge(load.stop());
        std::mem::swap(&mut leader, &mut follower);
        ledger.assert_kept_by(&format!("the leader of round {round}"), &mut leader.client());
        ledger.settle(&mut leader.client());
    }
    assert_identical_images(&mut Pair { leader, follower });
}

/// Who asked it to stand down was told otherwise meanwhile.
#[test]
fn a_leader_that_stood_down_for_nobody_leads_on() {
    let pair = Pair::start().expect_link_trouble();
    pair.leader.freeze();
    let mut client = pair.follower.client();
    client.expect_ok("MULTI");
    client.words("SLAVEOF NO ONE");
    client.send(&["EXEC"]).expect("it can be sent");
    drop(client);
    let clients = || pair.follower.info("clients", "connected_clients");
    wait::until("the client to be gone", || clients() == "1");
    pair.leader.thaw();
    let mut client = pair.leader.client();
    wait::until("the leader to stand down", || {
        pair.leader.log().contains("standing down for a follower that is to be promoted")
    });
    // It waits for as long as the leader stands down.
    client.expect_ok("SET k v");
    assert!(pair.leader.log().contains("leads on"));
    assert_eq!(pair.follower.info("replication", "role"), "slave");
}

/// The ex-leader has records that nobody else has; its image never saw them.
#[test]
fn an_ex_leader_restarted_as_follower_rejoins_without_its_unacknowledged_suffix() {
    let Pair { mut leader, mut follower } = Pair::start().expect_link_trouble();
    leader.client().expect_ok("SET kept yes");
    follower.freeze();
    let mut writer = leader.client();
    writer.send(&["SET", "lost", "yes"]).expect("it can be sent");
    wait::until("the write to be in the leader's log only", || {
        let number = |field: &str| leader.info("farkeep", field).parse::<u64>().unwrap_or(0);
        number("farkeep_appended_lsn") > number("farkeep_committed_lsn")
    });
    // What waits in the frozen follower's socket dies with it.
    follower.kill();
    leader.kill();
    follower.restart();
    promote(&follower);
    leader.follow(follower.port());
    leader.restart();
    wait_for_link(&follower, &leader);
    follower.client().expect_ok("SET after yes");
    wait_until_key(&leader, "after", "yes");
    let mut client = leader.client();
    assert_eq!(get(&mut client, "kept").as_deref(), Some("yes"));
    assert_eq!(get(&mut client, "lost"), None);
    assert_identical_images(&mut Pair { leader: follower, follower: leader });
}

#[test]
fn roles_swapped_back_and_forth_under_writes_leave_identical_images() {
    let Pair { mut leader, mut follower } = Pair::start().expect_link_trouble();
    let mut ledger = farkeep_tests::load::Ledger::default();
    for round in 1..=6 {
        let load = Load::start(leader.port(), WRITERS, round);
        load.wait_for_more(300);
        promote(&follower);
        replicaof(&leader, &follower);
        ledger.merge(load.stop());
        std::mem::swap(&mut leader, &mut follower);
        wait_for_link(&leader, &follower);
        ledger.assert_kept_by(&format!("the leader of round {round}"), &mut leader.client());
        ledger.settle(&mut leader.client());
    }
    let mut pair = Pair { leader, follower };
    pair.wait_until_applied();
    ledger.assert_kept_by("the follower", &mut pair.follower.client());
    assert_identical_images(&mut pair);
}

/// An operator demotes the leader first: nobody leads for a moment.
#[test]
fn a_leader_demoted_before_the_follower_is_promoted_joins_it_afterwards() {
    let Pair { leader, follower } = Pair::start().expect_link_trouble();
    leader.client().expect_ok("SET k v");
    replicaof(&leader, &follower);
    wait_for_reason(&leader, "follower");
    promote(&follower);
    wait_for_link(&follower, &leader);
    wait_until_key(&leader, "k", "v");
    assert_identical_images(&mut Pair { leader: follower, follower: leader });
}

#[test]
fn a_restarted_follower_resumes_where_it_was() {
    let mut pair = Pair::start().expect_link_trouble();
    pair.leader.client().expect_ok("CONFIG SET sync-followers 0");
    for round in 0..4 {
        if round % 2 == 0 {
            assert!(pair.follower.stop().success());
        } else {
            pair.follower.kill();
        }
        let key = format!("round{round}");
        pair.leader.client().expect_ok(&format!("SET {key} yes"));
        pair.follower.restart();
        wait_until_up(&pair.follower);
        wait_until_key(&pair.follower, &key, "yes");
    }
    assert_identical_images(&mut pair);
}

#[test]
fn a_restarted_leader_is_found_again_and_reigns_in_a_new_epoch() {
    let mut pair = Pair::start().expect_link_trouble();
    let mut ledger = farkeep_tests::load::Ledger::default();
    for round in 1..=4 {
        let epoch = pair.leader.info("farkeep", "farkeep_epoch").parse::<u64>().expect("a number");
        let load = Load::start(pair.leader.port(), WRITERS, round);
        load.wait_for_more(300);
        if round % 2 == 0 {
            assert!(pair.leader.stop().success());
        } else {
            pair.leader.kill();
        }
        ledger.merge(load.stop());
        pair.leader.restart();
        pair.wait_for_link();
        ledger.assert_kept_by("the leader", &mut pair.leader.client());
        ledger.settle(&mut pair.leader.client());
        let later = pair.leader.info("farkeep", "farkeep_epoch").parse::<u64>().expect("a number");
        assert!(later > epoch, "epoch {later} after {epoch}");
        wait::until("the follower to know the epoch", || {
            pair.follower.info("farkeep", "farkeep_epoch") == later.to_string()
        });
    }
    pair.wait_until_applied();
    ledger.assert_kept_by("the follower", &mut pair.follower.client());
    assert_identical_images(&mut pair);
}
