//! A real log, mapped twice: by the follower that owns it and by a leader on the same host.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use farkeep_core::log::ring::{LogIdentity, file_len};
use farkeep_core::log::{Geometry, LogMap};
use farkeep_core::pmem::domain::{Domain, Durability, detect};
use farkeep_core::pmem::map::Region;
use farkeep_fabric::shm::{self, MapError, SharedWindow};
use farkeep_fabric::{LogBytes, LogMemory, LogWindow, RemoteWindow, Window};
use farkeep_proto::window::{RING_AT, TailCell};

const DURABILITY: Durability = Durability::Forced(Domain::Volatile);
const NODE: [u8; 16] = [3; 16];

fn log_at(path: &Path) -> Arc<LogMap> {
    let geometry = Geometry::new(1 << 20, 1 << 16).unwrap();
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.set_len(file_len(geometry.ring_len())).unwrap();
    let persistence = detect(&file, DURABILITY).unwrap();
    let region = Region::map(Arc::new(file), file_len(geometry.ring_len()), persistence, "log").unwrap();
    let identity = LogIdentity { node_id: NODE, geometry };
    LogMap::format(&region, identity).unwrap();
    Arc::new(LogMap::open(region, identity).unwrap())
}

#[test]
fn what_the_leader_stores_is_in_the_followers_log_and_counts_until_the_gate_closes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let follower = log_at(&path);
    let leader = log_at(&dir.path().join("leaders-log"));
    leader.with_window_mut(RING_AT + 500, 1000, |bytes| bytes.fill(7));
    let memory: Arc<dyn LogMemory> = leader;

    let offer = shm::offer(&path, &follower).unwrap();
    follower.set_gate(5);
    let mut remote = shm::Remote::new(SharedWindow::map(&offer, &NODE, DURABILITY).unwrap(), 5);
    remote.write(RING_AT + 500, LogBytes::new(memory, 500, 1000));
    let ticket = remote.flush();
    let cell = TailCell { epoch: 1, appended_lsn: 1500, committed_lsn: 500 };
    remote.write_tail(cell);
    remote.kick().unwrap();
    let mut done = Vec::new();
    remote.poll(&mut done).unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].ticket, ticket);
    assert_eq!(follower.ring_bytes(499, 1002), [&[0][..], &[7; 1000], &[0]].concat());
    assert_eq!(follower.tail_cell(), Some(cell));
    // The follower fences itself: what is stored from now on is no use to the leader.
    follower.set_gate(0);
    remote.flush();
    assert!(remote.kick().is_err());
    assert!(remote.poll(&mut done).is_err());
    assert_eq!(done.len(), 1);
    let mut read = [0; 3];
    LogWindow::new(follower).read(RING_AT + 1498, &mut read);
    assert_eq!(read, [7, 7, 0]);
}

#[test]
fn another_nodes_log_another_host_and_no_log_at_all_are_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let offer = shm::offer(&path, &log_at(&path)).unwrap();
    assert!(matches!(SharedWindow::map(&offer, &[4; 16], DURABILITY), Err(MapError::AnotherLog)));
    let mut elsewhere = offer.clone();
    elsewhere.host = "another".into();
    assert!(matches!(SharedWindow::map(&elsewhere, &NODE, DURABILITY), Err(MapError::AnotherHost)));
    let mut long = offer.clone();
    long.window_len += 1 << 20;
    assert!(matches!(SharedWindow::map(&long, &NODE, DURABILITY), Err(MapError::AnotherLog)));
    let other = dir.path().join("something");
    std::fs::write(&other, vec![b'x'; 8 << 20]).unwrap();
    let mut offer = offer;
    offer.address = other.to_str().unwrap().into();
    assert!(matches!(SharedWindow::map(&offer, &NODE, DURABILITY), Err(MapError::NotALog(_))));
    assert_eq!(std::fs::read(&other).unwrap(), vec![b'x'; 8 << 20]);
}
