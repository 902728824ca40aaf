//! Promotions when the leader does not answer: fences, musters and their numbers.

use std::os::unix::fs::FileExt;

use farkeep_proto::logfile::WINDOW_AT;
use farkeep_proto::window::RING_AT;
use farkeep_tests::group::{
    Group, fail_over, known_peers, promote_in_a_transaction, role, wait_for_followers,
};
use farkeep_tests::pair::{expect_link_trouble, wait_for_link};
use farkeep_tests::sentinel::config_says;
use farkeep_tests::server::free_port;
use farkeep_tests::{Pair, Server, ServerBuilder, Value, http, wait};

/// What keeps a leader that is only out of sight from acknowledging anything behind a failover's back.
#[test]
fn a_leader_whose_followers_are_fenced_acknowledges_nothing_until_they_are_let_go() {
    let group = Group::start(2);
    let [leader, one, two] = &group.0[..] else { unreachable!() };
    let mut ends = Vec::new();
    for follower in [one, two] {
        let reply = follower.client().words("FARKEEP.FENCE").elements().expect("an array");
        ends.push(reply[1].int().expect("a position"));
        assert_eq!(follower.info("farkeep", "farkeep_fenced"), "1");
    }
    wait::until("the leader to refuse writes", || leader.client().words("SET k v").is_error("NOREPLICAS"));
    for (follower, end) in [one, two].into_iter().zip(&ends) {
        assert_eq!(follower.info("farkeep", "farkeep_durable_lsn"), end.to_string(), "what it said is final");
        follower.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", leader.port()));
        wait_for_link(leader, follower);
    }
    assert!(leader.client().words("FARKEEP.FENCE").is_error("ERR"));
}

/// The leader has not heard of the promotion and goes on with another follower. Nobody was told of anything in the reign that
/// leads nobody, so the operator can end it with one command.
#[test]
fn a_promoted_node_that_committed_nothing_follows_the_leader_that_went_on() {
    let group = Group::start(2);
    let [leader, promoted, _] = &group.0[..] else { unreachable!() };
    promoted.client().expect_ok("REPLICAOF NO ONE");
    leader.client().expect_ok("SET acknowledged yes");
    let mut alone = promoted.client();
    assert!(alone.words("SET refused yes").is_error("NOREPLICAS"));
    promoted.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", leader.port()));
    wait_for_link(leader, promoted);
    wait::until("what was acknowledged to be there", || {
        promoted.client().words("GET acknowledged").text().as_deref() == Some("yes")
    });
    for node in &group.0 {
        assert!(node.client().words("GET refused").is_null());
    }
}

/// It has handed over once, and tells who missed that whom to follow instead. The leader that is taken for dead now is no such advice.
#[test]
fn who_comes_to_a_promotion_is_not_sent_back_to_the_leader_that_it_has_left() {
    for _ in 0..3 {
        let group = Group::start(2).0;
        let [first, second, other] = &group[..] else { unreachable!() };
        fail_over(first, second);
        wait::until("everybody to know everybody", || {
            second.info("farkeep", "farkeep_followers_in_reach") == "2"
                && known_peers(first) == 2
                && known_peers(other) == 2
        });
        second.freeze();
        let reply = promote_in_a_transaction(first);
        assert!(reply.error().is_none(), "{reply:?}");
        second.thaw();
        wait_for_link(first, other);
        wait::until("the old leader to lose its followers", || {
            second.info("farkeep", "farkeep_followers_in_reach") == "0"
        });
        assert!(second.client().words("SET k v").is_error("NOREPLICAS"));
        assert_eq!(other.info("replication", "master_port"), first.port().to_string());
    }
}

/// The link's thread may be waiting for the leader all the while.
#[test]
fn a_follower_that_is_fenced_and_told_to_follow_the_same_leader_does() {
    let pair = Pair::start().expect_link_trouble();
    pair.leader.freeze();
    wait::until("the link to be down", || pair.follower.info("replication", "master_link_status") == "down");
    let mut client = pair.follower.client();
    for _ in 0..3 {
        assert!(client.words("FARKEEP.FENCE").error().is_none());
        client.expect_ok(&format!("REPLICAOF 127.0.0.1 {}", pair.leader.port()));
    }
    pair.leader.thaw();
    pair.wait_for_link();
}

#[test]
fn what_a_node_is_told_while_it_asks_its_peers_in_vain_stays() {
    let mut group = Group::start(2).0;
    group[0].kill();
    group[2].freeze();
    let asker = &mut group[1];
    asker.expect_log("a promotion is refused");
    let mut client = asker.client();
    client.expect_ok("MULTI");
    client.words("REPLICAOF NO ONE");
    client.send(&["EXEC"]).expect("it can be sent");
    wait::until("the fence", || asker.log().contains("following nobody until told whom"));
    let elsewhere = free_port();
    asker.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {elsewhere}"));
    let reply = client.reply().expect("an answer");
    assert!(reply.is_error("EXECABORT"), "{reply:?}");
    assert_eq!(asker.info("replication", "master_port"), elsewhere.to_string());
    group[2].thaw();
}

/// It was replaced without knowing, and somebody has told a follower that had been counted on to follow it again.
#[test]
fn a_leader_that_was_replaced_takes_no_writes_with_one_follower_that_comes_back() {
    let mut group = Group::start(3);
    let [zombie, back, promoted, other] = &mut group.0[..] else { unreachable!() };
    let (back, promoted, other) = (&*back, &*promoted, &*other);
    let claim = "00000000000000cc";
    for node in [back, promoted, other] {
        let reply = node.client().words(&format!("FARKEEP.FENCE 0 {claim}"));
        assert!(reply.error().is_none(), "{reply:?}");
    }
    promoted.client().expect_ok(&format!("FARKEEP.PROMOTE {claim}"));
    other.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", promoted.port()));
    back.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", zombie.port()));
    wait::until(
        "it to begin a reign above the one of the promoted, whom the follower has promised to help",
        || zombie.info("farkeep", "farkeep_epoch_shown") == "<2.1",
    );
    // Nor after a restart.
    for restarts in 0..3 {
        if restarts > 0 {
            zombie.kill();
            zombie.restart();
        }
        wait_for_followers(zombie, 1);
        assert!(zombie.client().words("SET acknowledged no").is_error("NOREPLICAS"), "{restarts}");
    }
    let zombie = &*zombie;
    wait_for_link(promoted, other);
    promoted.client().expect_ok("SET acknowledged yes");
    // All the others come back as well: it was not replaced after all.
    for node in [promoted, other] {
        node.client().expect_ok("CONFIG SET replace-dataset yes");
        node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", zombie.port()));
    }
    wait_for_link(zombie, promoted);
    wait_for_link(zombie, other);
}

/// As people do with a replica that they want to write to for once, and then do not.
#[test]
fn a_replica_that_was_promoted_and_has_taken_no_write_follows_again() {
    for choice in ["--sync-followers 0", "--sync-followers 1 --on-follower-loss degrade"] {
        let leader = ServerBuilder::farkeep().args(choice).start();
        let address = format!("127.0.0.1 {}", leader.port());
        let mut replica = ServerBuilder::farkeep().args(choice).directive("replicaof", &address).start();
        expect_link_trouble(&mut replica);
        wait_for_link(&leader, &replica);
        for round in 0..2 {
            leader.client().expect_ok(&format!("SET key {round}"));
            replica.client().expect_ok("REPLICAOF NO ONE");
            replica.client().expect_ok(&format!("REPLICAOF {address}"));
            wait_for_link(&leader, &replica);
        }
        // More than once before it is back, and as what it is restarted as meanwhile.
        leader.client().expect_ok("SET key last");
        for elsewhere in [true, true, false] {
            replica.client().expect_ok("REPLICAOF NO ONE");
            if elsewhere {
                replica.client().expect_ok("REPLICAOF 127.0.0.1 1");
            }
        }
        replica.kill();
        replica.lead();
        replica.restart();
        replica.client().expect_ok(&format!("REPLICAOF {address}"));
        wait_for_link(&leader, &replica);
    }
}

/// Nobody can tell any more whether what it began counts for others, so it is the operator who gives that up, while the node runs.
#[test]
fn who_was_promoted_by_mistake_and_restarted_joins_again_when_it_is_told_to_give_its_reign_up() {
    let mut group = Group::start(2).0;
    group[1].client().expect_ok("REPLICAOF NO ONE");
    group[1].kill();
    group[1].restart();
    wait::until("it to be refused, and told what to do", || {
        let why = group[1].info("farkeep", "farkeep_link_down_reason");
        why.contains("has been superseded") && why.contains("replace-dataset yes")
    });
    group[1].client().expect_ok("CONFIG SET replace-dataset yes");
    wait_for_link(&group[0], &group[1]);
}

#[test]
fn a_promotion_that_fails_leaves_the_follower_that_it_was() {
    let mut pair = Pair::start().expect_link_trouble();
    pair.leader.client().expect_ok("SET k v");
    pair.wait_until_applied();
    assert!(pair.follower.stop().success());
    // Where the keystore says where its tables are.
    let path = pair.follower.pool().join("image");
    let image = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut good = [0; 8];
    image.read_exact_at(&mut good, 64).unwrap();
    image.write_all_at(&good.map(|byte| byte ^ 0x40), 64).unwrap();
    pair.follower.expect_log("this node has nothing to serve");
    pair.follower.restart();
    let why = || pair.follower.info("farkeep", "farkeep_link_down_reason");
    wait::until("the reason", || why().contains("the image is damaged"));
    let refusal = pair.follower.client().words("REPLICAOF NO ONE");
    assert!(refusal.is_error("ERR promotion failed"), "{refusal:?}");
    assert_eq!(role(&pair.follower), "slave");
    wait::until("the scrub", || pair.leader.client().words("FARKEEP SCRUB").error().is_none());
    wait::until("the image to be mended", || {
        pair.follower.client().words("GET k").text().as_deref() == Some("v")
    });
}

/// What a follower remembers of the others belongs to the address that it has for its leader.
#[test]
fn who_came_to_a_promotion_in_vain_goes_back_to_its_leader_by_its_own_address() {
    let mut group = Group::start(3);
    let port = group.0[0].port();
    group.0[2].client().expect_ok(&format!("REPLICAOF localhost {port}"));
    wait_for_link(&group.0[0], &group.0[2]);
    wait::until("everybody to know everybody", || group.0[1..].iter().all(|node| known_peers(node) == 3));
    let peers = group.0[2].info("farkeep", "farkeep_peers");
    group.0[0].kill();
    group.0[3].kill();
    // One of the two others is not enough.
    let replies = promote_in_a_transaction(&group.0[1]);
    let refused = replies.error().is_some() || replies.elements().is_some_and(|all| !all[0].is_ok());
    assert!(refused, "{replies:?}");
    assert!(group.0[2].log().contains(&format!("now following leader=127.0.0.1:{}", group.0[1].port())));
    wait::until("the one that came to be back", || {
        group.0[2].info("replication", "master_host") == "localhost"
    });
    assert_eq!(group.0[2].info("farkeep", "farkeep_peers"), peers);
}

/// What only the other one holds would be lost. Sentinel tells nobody why it fails, so the node does.
#[test]
fn a_promotion_that_could_lose_a_write_is_refused_and_the_node_says_why() {
    let mut group = Group::start(2).0;
    group[0].kill();
    group[2].freeze();
    let refusal = promote_in_a_transaction(&group[1]);
    let absent = format!("127.0.0.1:{}", group[2].port());
    let says_why =
        |text: &str| text.contains("too few of the other followers answer") && text.contains(&absent);
    assert!(refusal.is_error("EXECABORT") && says_why(refusal.error().unwrap_or_default()), "{refusal:?}");
    assert!(group[1].log().lines().any(|line| line.contains("a promotion is refused") && says_why(line)));
    assert_eq!(role(&group[1]), "slave");
    group[2].thaw();
    wait::until("the promotion", || promote_in_a_transaction(&group[1]).error().is_none());
    assert_eq!(role(&group[1]), "master");
}

/// The node that is promoted lacks what a peer was killed with. It fetches that, and takes none of it unless it is whole: else it
/// would lead, and what was acknowledged would be gone.
#[test]
fn what_a_promoted_node_lacks_is_taken_from_a_peer_only_if_it_is_whole() {
    let mut group = Group::start(2).0;
    group[1].freeze();
    let mut client = group[0].client();
    let value = "x".repeat(1000);
    for key in 0..2000 {
        client.expect_ok(&format!("SET key:{key} {value}"));
    }
    let position =
        |node: &Server, which: &str| -> u64 { node.info("farkeep", which).parse().expect("a number") };
    let committed = position(&group[0], "farkeep_committed_lsn");
    wait::until("the checkpoint", || position(&group[2], "farkeep_checkpoint_lsn") >= committed);
    group[0].kill();
    group[2].kill();
    let path = group[2].pool().join("log");
    let log = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let damaged_at = WINDOW_AT + RING_AT + committed / 2;
    let mut good = [0; 8];
    log.read_exact_at(&mut good, damaged_at).unwrap();
    log.write_all_at(&good.map(|byte| !byte), damaged_at).unwrap();
    group[2].restart();
    group[2].expect_log("the log is not whole here");
    group[1].expect_log("a promotion is refused");
    group[1].thaw();
    assert!(position(&group[1], "farkeep_durable_lsn") < committed / 2);
    let refusal = promote_in_a_transaction(&group[1]);
    assert!(refusal.error().is_some_and(|text| text.contains("the log holds LSN")), "{refusal:?}");
    assert_eq!(role(&group[1]), "slave");
    // The damage is gone, as if it had never been.
    group[2].kill();
    log.write_all_at(&good, damaged_at).unwrap();
    group[2].restart();
    wait::until("the promotion", || promote_in_a_transaction(&group[1]).error().is_none());
    assert_eq!(role(&group[1]), "master");
    wait_for_link(&group[1], &group[2]);
    let mut client = group[1].client();
    for key in 0..2000 {
        assert_eq!(client.words(&format!("GET key:{key}")).text().as_deref(), Some(&value[..]), "key:{key}");
    }
}

#[test]
fn a_follower_that_does_not_know_its_peers_is_not_promoted_and_says_so() {
    let nobody = format!("127.0.0.1 {}", free_port());
    let port = free_port();
    let builder = ServerBuilder::farkeep().args(&format!("--sync-followers 1 --http-port {port}"));
    let mut node = builder.directive("replicaof", &nobody).start();
    expect_link_trouble(&mut node);
    node.expect_log("a promotion is refused");
    let refusal = promote_in_a_transaction(&node);
    let why = "the leader has not said yet who else follows it";
    assert!(refusal.error().is_some_and(|text| text.contains(why)), "{refusal:?}");
    let events = http::get(port, "/api/v1/events").json();
    let says_why = |event: &serde_json::Value| {
        event["kind"] == "role" && event["text"].as_str().is_some_and(|text| text.contains(why))
    };
    assert!(events.as_array().is_some_and(|events| events.iter().any(says_why)), "{events}");
    let ask = || http::get(port, "/api/v1/status");
    wait::until("the first look at the node", || ask().status == 200);
    let status = ask().json();
    assert!(status["last_failover"].is_null(), "there was none: {status}");
}

/// Stopped while it is asked, it comes when nobody waits for it any more. Whoever then stays with a node that does not lead knows no peers,
/// and is not promoted itself.
#[test]
fn who_comes_to_a_promotion_too_late_goes_back_to_its_leader() {
    let mut group = Group::start(2);
    let former = group.0[0].port().to_string();
    let peers = group.0[2].info("farkeep", "farkeep_peers");
    group.0[0].kill();
    let [_, asker, late] = &group.0[..] else { unreachable!() };
    late.freeze();
    let refused = promote_in_a_transaction(asker);
    assert!(!refused.elements().is_some_and(|all| all[0].is_ok()), "{refused:?}");
    late.thaw();
    let came = format!("now following leader=127.0.0.1:{}", asker.port());
    wait::until("it to come and to go back", || {
        late.log().contains(&came) && late.info("replication", "master_port") == former
    });
    assert_eq!(late.info("farkeep", "farkeep_peers"), peers);
    wait::until("the promotion", || promote_in_a_transaction(late).error().is_none());
    wait_for_link(late, asker);
}

/// Nobody who came again, and is counted on, may be taken away by what belongs to an earlier time.
#[test]
fn a_dismissal_counts_for_its_own_coming_only() {
    let mut group = Group::start(2);
    let former = group.0[0].port().to_string();
    let peers = group.0[2].info("farkeep", "farkeep_peers");
    group.0[0].kill();
    let successor = group.0[1].port().to_string();
    let mut client = group.0[2].client();
    let follows = || group.0[2].info("replication", "master_port");
    for _ in 0..2 {
        let came = client.words(&format!("FARKEEP.MUSTER 127.0.0.1 {successor} 0 00000000000000ff"));
        assert!(came.error().is_none(), "{came:?}");
    }
    assert_eq!((client.words("FARKEEP.DISMISS 1"), follows()), (Value::Int(0), successor));
    assert_eq!(group.0[2].info("farkeep", "farkeep_peers"), "");
    assert_eq!((client.words("FARKEEP.DISMISS 2"), follows()), (Value::Int(1), former.clone()));
    assert_eq!(group.0[2].info("farkeep", "farkeep_peers"), peers, "as it was before the first time");
    client.words(&format!("FARKEEP.MUSTER 127.0.0.1 {} 0 00000000000000ff", group.0[1].port()));
    client.expect_ok("REPLICAOF 127.0.0.1 1");
    assert_eq!((client.words("FARKEEP.DISMISS 3"), follows()), (Value::Int(0), "1".to_owned()));
    assert!(client.words("FARKEEP.DISMISS x").is_error("ERR value is not an integer"));
}

/// Nobody sends it back then. Whom it follows for as long as a promotion may take is not whom it is configured to follow.
#[test]
fn who_came_to_a_promotion_and_is_restarted_follows_the_leader_that_it_had() {
    let mut group = Group::start(2).0;
    let [former, asker, newcomer] = [0, 1, 2].map(|at| group[at].port().to_string());
    let peers = group[2].info("farkeep", "farkeep_peers");
    group[0].kill();
    let came = group[2].client().words(&format!("FARKEEP.MUSTER 127.0.0.1 {asker} 0 00000000000000ff"));
    assert!(came.error().is_none(), "{came:?}");
    assert_eq!(group[2].info("replication", "master_port"), asker);
    group[2].kill();
    group[2].restart();
    assert_eq!(group[2].info("replication", "master_port"), former);
    assert_eq!(group[2].info("farkeep", "farkeep_peers"), peers);
    wait::until("the promotion", || promote_in_a_transaction(&group[2]).error().is_none());
    // Of the one that it has called the leader is now its own.
    wait::until("the other one's configuration", || {
        config_says(&group[1], &format!("replicaof 127.0.0.1 {newcomer}"))
    });
    wait_for_link(&group[2], &group[1]);
}

/// What came of its promotion nobody asks for any more.
#[test]
fn a_node_whose_promotion_has_failed_comes_to_another_one() {
    let mut group = Group::start(2);
    group.0[0].kill();
    let [_, given_up, next] = &group.0[..] else { unreachable!() };
    next.freeze();
    let mut asked = given_up.client();
    asked.send_raw(b"MULTI\r\nREPLICAOF NO ONE\r\nEXEC\r\n").expect("it can be sent");
    wait::until("the peers to be asked", || given_up.log().contains("fenced: following nobody"));
    drop(asked);
    wait::until("it to fail", || given_up.log().contains("a promotion is refused"));
    next.thaw();
    // It may come to the other one first, and be dismissed.
    wait::until("the promotion", || promote_in_a_transaction(next).error().is_none());
    assert_eq!(role(next), "master");
    wait_for_link(next, given_up);
}

/// Two promotions of the same number must not be taken for one, so all who are counted on have promised the same one.
#[test]
fn who_is_mustered_promises_the_number_that_the_reign_gets() {
    let mut group = Group::start(3);
    let former = group.0[0].port();
    group.0[0].kill();
    let [_, asker, ahead, behind] = &group.0[..] else { unreachable!() };
    // Somebody has tried to promote another node, and come as far as this one.
    let fence = format!("FARKEEP.FENCE {} 00000000000000ab", 5 << 16);
    assert_eq!(ahead.client().words(&fence).elements().expect("an array")[2], Value::Int(5 << 16));
    ahead.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {former}"));
    wait::until("the promotion", || promote_in_a_transaction(asker).error().is_none());
    assert_eq!(asker.info("farkeep", "farkeep_epoch_shown"), "6.1");
    let fenced = behind.log().matches("fenced: following nobody").count();
    assert_eq!(fenced, 2, "once for each number");
    for peer in [ahead, behind] {
        wait_for_link(asker, peer);
    }
    assert!(!asker.log().contains("renewing the reign"));
}

/// A group that Sentinel tries to give a leader for weeks must not run out of numbers.
#[test]
fn a_promotion_that_is_tried_again_has_the_same_number() {
    let mut group = Group::start(3);
    group.0[0].kill();
    group.0[3].kill();
    let [_, asker, peer, _] = &group.0[..] else { unreachable!() };
    let mut tried = 0;
    while tried < 3 {
        let refused = promote_in_a_transaction(asker);
        assert!(refused.error().is_some_and(|text| text.contains("too few")), "{refused:?}");
        tried = peer.log().matches("fenced: following nobody").count();
        assert_eq!(peer.info("farkeep", "farkeep_promised_epoch"), "1.0");
    }
    assert_eq!(asker.info("farkeep", "farkeep_promised_epoch"), "0.1", "it follows its leader as before");
}

#[test]
fn a_promotion_for_which_a_node_was_not_fenced_last_does_not_promote_it() {
    let pair = Pair::start().expect_link_trouble();
    let mut client = pair.follower.client();
    let [mine, other] = ["00000000000000aa", "00000000000000bb"];
    let mut fence = |epoch: u32, claim: &str| {
        let reply = client.words(&format!("FARKEEP.FENCE {epoch} {claim}")).elements().expect("an array");
        reply[2].int().expect("an epoch")
    };
    assert_eq!(fence(0, mine), 1 << 16);
    assert_eq!(fence(0, mine), 1 << 16, "the same promotion");
    assert_eq!(fence(3 << 16, mine), 3 << 16, "which wants more");
    assert_eq!(fence(0, other), 4 << 16, "and another one, which others may follow");
    let refused = client.words(&format!("FARKEEP.PROMOTE {mine}"));
    assert!(refused.error().is_some_and(|text| text.contains("another promotion meanwhile")), "{refused:?}");
    assert_eq!(role(&pair.follower), "slave");
    client.expect_ok(&format!("FARKEEP.PROMOTE {other}"));
    assert_eq!(pair.follower.info("farkeep", "farkeep_epoch_shown"), "4.1");
    client.expect_ok(&format!("FARKEEP.PROMOTE {other}"));
    for wrong in [
        format!("FARKEEP.PROMOTE {mine}"),
        "FARKEEP.PROMOTE x".to_owned(),
        "FARKEEP.FENCE 1".to_owned(),
        format!("FARKEEP.FENCE -1 {mine}"),
        "FARKEEP.FENCE 1 0000000000000000".to_owned(),
        format!("FARKEEP.FENCE {} {mine}", u32::MAX),
        "FARKEEP.MUSTER 127.0.0.1 1 x y".to_owned(),
    ] {
        assert!(client.words(&wrong).is_error("ERR"), "{wrong}");
    }
    // The leader that it had finds out when it asks to follow.
    pair.leader.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", pair.follower.port()));
    wait_for_link(&pair.follower, &pair.leader);
}

/// With three followers and two acknowledgements, two promotions can be made by nodes that know nothing of each other. The first one here comes to
/// nothing; what the second one has acknowledged counts for more, however often the first one's leader was started again.
#[test]
fn of_two_promotions_that_know_nothing_of_each_other_only_one_acknowledges() {
    let mut group = Group::start(3);
    for node in &group.0 {
        node.client().expect_ok("CONFIG SET sync-followers 2");
        node.client().expect_ok("CONFIG REWRITE");
    }
    let [old, first, second, shared] = &mut group.0[..] else { unreachable!() };
    old.client().expect_ok("SET before both");
    old.kill();
    let fence = |node: &Server, claim: &str| {
        let reply = node.client().words(&format!("FARKEEP.FENCE 0 {claim}")).elements().expect("an array");
        (reply[0].int(), reply[1].int(), reply[2].int().expect("a promise"))
    };
    let number = 1 << 16;
    let [a, b] = ["00000000000000aa", "00000000000000bb"];
    assert_eq!([fence(first, a).2, fence(shared, a).2], [number; 2]);
    first.client().expect_ok(&format!("FARKEEP.PROMOTE {a}"));
    first.client().expect_ok("CONFIG REWRITE");
    for _ in 0..2 {
        first.kill();
        first.restart();
    }
    assert_eq!(first.info("farkeep", "farkeep_epoch_shown"), "1.3");
    first.kill();
    old.follow(second.port());
    old.restart();
    assert_eq!([fence(second, b).2, fence(old, b).2], [number; 2]);
    second.client().expect_ok(&format!("FARKEEP.PROMOTE {b}"));
    for node in [&mut *old, &mut *shared] {
        node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", second.port()));
    }
    wait::until("a write that two followers hold", || second.client().words("SET after both").is_ok());
    assert!(
        second.log().contains("renewing the reign"),
        "one of them had promised that number to somebody else"
    );

    second.kill();
    first.follow(second.port());
    first.restart();
    let [nothing, acknowledged] = [fence(first, a), fence(shared, a)];
    assert!((acknowledged.0, acknowledged.1) > (nothing.0, nothing.1), "{acknowledged:?} {nothing:?}");
}
