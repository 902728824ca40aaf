//! Two machines that lose their power and their wire: booted by these tests, which `cargo xtask guest --suite` runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use xtask::guest::{Image, Pair, Request, shell};

const PATIENCE: Duration = Duration::from_secs(60);

/// Succeeds as soon as one answer arrives. The first may be late: the peer's address has to be found first.
const PING: &str = "busybox ping -c 1 -W 5 $FARKEEP_GUEST_PEER";

fn boot_deadline() -> Instant {
    Instant::now() + xtask::guest::BOOT_LIMIT
}

fn new_pair() -> Pair {
    Pair::new(Arc::new(Image::get().unwrap())).unwrap()
}

#[test]
#[ignore = "boots guests: cargo xtask guest --suite"]
fn pair_a_machine_without_power_finds_its_persistent_memory_again() {
    let pair = new_pair();
    let (mut a, b) = pair.power_on(boot_deadline()).unwrap();
    let stored = a.shell("echo on fsdax > $FARKEEP_GUEST_FSDAX/note && sync $FARKEEP_GUEST_FSDAX/note && echo lost > /tmp/note", PATIENCE);
    assert_eq!(stored.unwrap().code, 0);
    let namespaces = a.shell("ndctl list", PATIENCE).unwrap().output;
    assert_eq!(namespaces.matches("devdax").count(), 2, "{namespaces}");
    assert_eq!(b.shell(PING, PATIENCE).unwrap().code, 0);

    let waiting = a.start(&shell("sleep 1000")).unwrap();
    a.kill();
    assert!(waiting.wait(PATIENCE).is_err(), "a command ends with its guest");
    assert!(a.shell("true", PATIENCE).is_err(), "nothing runs without power");
    assert_ne!(b.shell(PING, PATIENCE).unwrap().code, 0);

    let a = pair.a.power_on(boot_deadline()).unwrap();
    let found = a.shell("cat $FARKEEP_GUEST_FSDAX/note; cat /tmp/note", PATIENCE).unwrap();
    assert_eq!(found.output.lines().next(), Some("on fsdax"));
    assert_ne!(found.code, 0, "/tmp is lost: {}", found.output);
    assert_eq!(a.shell("ndctl list", PATIENCE).unwrap().output, namespaces, "uuids and all");
    assert_eq!(b.shell(PING, PATIENCE).unwrap().code, 0);
}

#[test]
#[ignore = "boots guests: cargo xtask guest --suite"]
fn pair_a_cut_wire_loses_what_is_sent_and_keeps_the_carrier() {
    let pair = new_pair();
    let (a, b) = pair.power_on(boot_deadline()).unwrap();
    let mut server =
        a.start(&shell("exec stdbuf -oL rping -s -a $FARKEEP_GUEST_ADDRESS -C 3 -v -d")).unwrap();
    server.wait_for_line("rdma_listen", PATIENCE).unwrap();
    let pinged = b.shell("rping -c -a $FARKEEP_GUEST_PEER -C 3 -v", PATIENCE).unwrap();
    assert!(pinged.code == 0 && pinged.output.contains("rdma-ping-2"), "{}", pinged.output);
    let served = server.wait(PATIENCE).unwrap();
    assert!(served.output.contains("rdma-ping-2"), "{}", served.output);

    pair.cut_wire().unwrap();
    assert_ne!(a.shell(PING, PATIENCE).unwrap().code, 0);
    assert_ne!(b.shell(PING, PATIENCE).unwrap().code, 0);
    assert_eq!(b.shell("cat /sys/class/net/eth0/carrier", PATIENCE).unwrap().output, "1\n");
    pair.mend_wire().unwrap();
    assert_eq!(b.shell(PING, PATIENCE).unwrap().code, 0);
}

/// What a service without `LimitMEMLOCK=infinity` meets.
#[test]
#[ignore = "boots guests: cargo xtask guest --suite"]
fn pair_a_limit_on_locked_memory_binds_in_the_guest() {
    let pair = new_pair();
    let b = pair.b.power_on(boot_deadline()).unwrap();
    // A server that registers 64 MiB, and if that is allowed waits for a client.
    let server = |memlock_kib| {
        let script = "ulimit -l; exec stdbuf -oL ibv_rc_pingpong -g 1 -s 67108864 2>&1";
        b.start(&Request { memlock_kib, ..shell(script) }).unwrap()
    };
    let mut limited = server(Some(64));
    limited.wait_for_line("64", PATIENCE).unwrap();
    limited.wait_for_line("Couldn't register MR", PATIENCE).unwrap();
    let mut free = server(None);
    free.wait_for_line("unlimited", PATIENCE).unwrap();
    free.wait_for_line("local address", PATIENCE).unwrap();
    free.signal("TERM").unwrap();
    assert_eq!(free.wait(PATIENCE).unwrap().code, 128 + 15);
}
