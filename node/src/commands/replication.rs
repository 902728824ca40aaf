//! ROLE, REPLICAOF, WAIT, WAITAOF, and the two commands by which a follower turns a connection into its own.

use farkeep_proto::number::parse_i64;
use farkeep_proto::resp::Encoder;

use super::{Call, Flow};
use crate::replication::{ControlPeer, LeaderAddress};
use crate::worker::connection::{Blocked, Queued, WaitFor};

/// How far a position has spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Whether it is durable here.
    pub local: bool,
    /// Followers that hold it durably.
    pub followers: usize,
}

/// ROLE
pub fn role(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let role = call.engine.role_report(call.node);
    let mut reply = call.reply();
    match role {
        crate::engine::RoleReport::Leader { offset, followers } => {
            reply.array(3);
            reply.bulk(b"master");
            reply.int(offset.get() as i64);
            reply.array(followers.len());
            for (host, port, offset) in followers {
                reply.array(3);
                reply.bulk(host.as_bytes());
                reply.bulk(port.to_string().as_bytes());
                reply.bulk(offset.get().to_string().as_bytes());
            }
        }
        crate::engine::RoleReport::Follower { host, port, state, offset } => {
            reply.array(5);
            reply.bulk(b"slave");
            reply.bulk(host.as_bytes());
            reply.int(i64::from(port));
            reply.bulk(state.as_bytes());
            reply.int(offset);
        }
    }
    Flow::Continue
}

/// REPLICAOF host port | NO ONE
pub fn replicaof(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if argv[1].eq_ignore_ascii_case(b"no") && argv[2].eq_ignore_ascii_case(b"one") {
        match call.engine.promote(call.node) {
            Ok(()) => call.reply().simple("OK"),
            Err(error) => call.error(&format!("ERR promotion failed: {error:#}")),
        }
        return Flow::Continue;
    }
    let Some(port) = parse_i64(argv[2]).filter(|port| (0..=65535).contains(port)) else {
        call.error("ERR Invalid master port");
        return Flow::Continue;
    };
    let Ok(host) = std::str::from_utf8(argv[1]) else {
        call.error("ERR Invalid master host");
        return Flow::Continue;
    };
    let leader = LeaderAddress { host: host.to_owned(), port: port as u16 };
    if call.engine.follows(call.node, &leader) {
        call.reply().simple("OK Already connected to specified master");
        return Flow::Continue;
    }
    match call.engine.follow(call.node, leader) {
        Ok(()) => call.reply().simple("OK"),
        Err(error) => call.error(&format!("ERR cannot follow: {error:#}")),
    }
    Flow::Continue
}

/// Whether a queued command makes this node a leader.
pub fn is_promotion(queued: &Queued) -> bool {
    matches!(queued.entry.spec.name, "replicaof" | "slaveof")
        && queued.argv[1].eq_ignore_ascii_case(b"no")
        && queued.argv[2].eq_ignore_ascii_case(b"one")
}

/// WAIT numreplicas timeout
pub fn wait(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if !call.engine.is_leader() {
        call.error(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica \
             is configured to be writable (which is not the default) writes to replicas are just local and are \
             not propagated.",
        );
        return Flow::Continue;
    }
    let Some(followers) = parse_i64(argv[1]) else {
        call.error("ERR value is not an integer or out of range");
        return Flow::Continue;
    };
    wait_for(call, followers.max(0) as usize, None, argv[2])
}

/// WAITAOF numlocal numreplicas timeout
pub fn waitaof(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let numbers = (parse_i64(argv[1]), parse_i64(argv[2]));
    let (Some(local), Some(followers)) = numbers else {
        call.error("ERR value is not an integer or out of range");
        return Flow::Continue;
    };
    if !(0..=1).contains(&local) {
        call.error("ERR value is out of range, must be between 0 and 1");
        return Flow::Continue;
    }
    if !call.engine.is_leader() {
        call.error("ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.");
        return Flow::Continue;
    }
    wait_for(call, followers.max(0) as usize, Some(local == 1), argv[3])
}

fn wait_for(call: &mut Call<'_>, followers: usize, local: Option<bool>, timeout: &[u8]) -> Flow {
    let deadline_ms = match parse_i64(timeout) {
        None => {
            call.error("ERR timeout is not an integer or out of range");
            return Flow::Continue;
        }
        Some(timeout) if timeout < 0 => {
            call.error("ERR timeout is negative");
            return Flow::Continue;
        }
        Some(0) => None,
        Some(timeout) => Some(call.now.ms.saturating_add(timeout as u64)),
    };
    let wait = WaitFor { lsn: call.session.last_write, followers, local, deadline_ms };
    let reached = call.engine.wait_counts(wait.lsn);
    if is_reached(&wait, reached) {
        reply_wait(&wait, reached, call.out);
        return Flow::Continue;
    }
    Flow::Block(Blocked::Wait(wait))
}

/// Whether a wait is over.
pub fn is_reached(wait: &WaitFor, reached: Reached) -> bool {
    reached.followers >= wait.followers && wait.local.is_none_or(|wanted| !wanted || reached.local)
}

/// The answer of WAIT and WAITAOF: how far the client's last write has truly come.
pub fn reply_wait(wait: &WaitFor, reached: Reached, out: &mut Vec<u8>) {
    let mut reply = Encoder::new(out, false);
    if wait.local.is_some() {
        reply.array(2);
        reply.int(i64::from(reached.local));
    }
    reply.int(reached.followers as i64);
}

/// FARKEEP.REPLICATE: the connection becomes a follower's control channel.
pub fn replicate(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    if call.session.multi.is_some() {
        call.error("ERR FARKEEP.REPLICATE inside MULTI is not allowed");
        return Flow::Continue;
    }
    call.reply().simple("OK");
    Flow::Control(ControlPeer::new(&call.session.client))
}

/// FARKEEP.WINDOW session: the connection becomes the data channel of that session.
pub fn window(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let session = std::str::from_utf8(argv[1]).ok().and_then(|text| text.parse::<u64>().ok());
    match session {
        Some(session) if call.engine.expects_window(session) => {
            call.reply().simple("OK");
            Flow::Window(session)
        }
        _ => {
            call.error("ERR no such replication session");
            Flow::Continue
        }
    }
}
