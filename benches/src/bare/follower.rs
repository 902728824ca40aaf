//! The follower: receive into the ring, persist, say how far.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use farkeep_core::pmem::map::Region;
use rustix::net::{RecvFlags, recv};

use crate::ring::RING_LEN;

/// Serves one leader until it goes away.
pub fn run(ring: &Region, address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let (mut leader, _) = listener.accept()?;
    leader.set_nodelay(true)?;
    let mut received: u64 = 0;
    loop {
        let at = received % RING_LEN;
        let room = (RING_LEN - at) as usize;
        let len = ring.with_mut(at, room, |bytes| recv(&leader, bytes, RecvFlags::empty()))?.0;
        if len == 0 {
            return Ok(());
        }
        ring.flush(at, len);
        ring.fence();
        received += len as u64;
        leader.write_all(&received.to_le_bytes())?;
    }
}
