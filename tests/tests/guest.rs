//! On persistent memory and beside an RDMA device: run in the guest by `cargo xtask guest --suite`.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use farkeep_core::pmem::domain::{Domain, Durability, dax_device, detect};
use farkeep_core::pmem::map::Region;
use farkeep_tests::pair::expect_link_trouble;
use farkeep_tests::{Pair, ServerBuilder, guest, wait};

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> Arc<File> {
    Arc::new(File::options().read(true).write(true).open(path).expect("the guest made it"))
}

/// Stores through one mapping, looks through the next.
#[track_caller]
fn assert_keeps_bytes(file: &Arc<File>, len: u64) {
    let persistence = detect(file, Durability::Auto).unwrap();
    assert_eq!(persistence.domain, Domain::Pmem, "{persistence}");
    assert!(persistence.by_instructions(), "{persistence}");
    let region = Region::map(file.clone(), len, persistence.clone(), "guest").unwrap();
    region.store(4090, b"across a page");
    region.persist(4090, 13).unwrap();
    drop(region);
    let again = Region::map_read_only(file.clone(), len, persistence, "guest").unwrap();
    assert_eq!(again.bytes(4090, 13), b"across a page");
}

#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_devdax_is_persistent_memory() {
    for path in guest::devdax() {
        assert!(fs::metadata(&path).unwrap().file_type().is_char_device());
        let device = open(&path);
        let geometry = dax_device(&device).unwrap().expect("a devdax device");
        assert_eq!(geometry.align, 4096);
        assert!(geometry.len >= 100 * MIB, "{geometry:?}");
        assert_keeps_bytes(&device, geometry.len);
    }
}

#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_fsdax_is_persistent_memory() {
    let path = guest::fsdax().join("bytes");
    let file = Arc::new(File::options().read(true).write(true).create_new(true).open(&path).unwrap());
    rustix::fs::fallocate(&*file, rustix::fs::FallocateFlags::empty(), 0, 8 * MIB).unwrap();
    assert_keeps_bytes(&file, 8 * MIB);
    fs::remove_file(path).unwrap();
}

#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_rdma_device_is_up() {
    let port = Path::new("/sys/class/infiniband/rxe0/ports/1");
    assert_eq!(fs::read_to_string(port.join("state")).unwrap().trim(), "4: ACTIVE");
    assert_eq!(fs::read_to_string(port.join("gid_attrs/ndevs/0")).unwrap().trim(), "eth0");
    assert!(Path::new("/dev/infiniband/uverbs0").exists());
}

/// Leader and follower as on real hardware: the images on fsdax, the logs on a devdax device each.
#[test]
#[ignore = "needs the guest: cargo xtask guest --suite"]
fn guest_a_write_survives_its_leader_on_persistent_memory() {
    let pools = tempfile::tempdir_in(guest::fsdax()).unwrap();
    let [leader_log, follower_log] = guest::blank_devdax();
    let node = |name: &str, log: &Path| {
        ServerBuilder::farkeep()
            .pool(&pools.path().join(name))
            .directive("log", log.to_str().unwrap())
            .args("--durability auto")
    };
    let Pair { mut leader, mut follower } =
        Pair::with(node("leader", &leader_log), node("follower", &follower_log));
    for node in [&leader, &follower] {
        assert_eq!(node.info("farkeep", "farkeep_durability"), "pmem");
    }
    let mut client = leader.client();
    for number in 0..200 {
        client.expect_ok(&format!("SET key:{number} value:{number}"));
    }
    expect_link_trouble(&mut follower);
    leader.kill();
    follower.client().expect_ok("REPLICAOF NO ONE");
    follower.client().expect_ok("CONFIG SET sync-followers 0");
    let mut client = follower.client();
    for number in 0..200 {
        let value = client.command(&["GET", &format!("key:{number}")]).text();
        assert_eq!(value, Some(format!("value:{number}")));
    }
    // And it survives the follower's own crash: the log on devdax is read again.
    follower.kill();
    follower.restart();
    wait::until("the restarted node to answer reads", || {
        follower.client().command(&["GET", "key:199"]).text().as_deref() == Some("value:199")
    });
}
