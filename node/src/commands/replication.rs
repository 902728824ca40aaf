//! ROLE, REPLICAOF, WAIT, WAITAOF, and the two commands by which a follower turns a connection into its own.

use farkeep_core::log::{Claim, Promise};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_proto::number::parse_i64;
use farkeep_proto::resp::Encoder;
use prost::Message as _;

use super::{Call, Flow};
use crate::engine::{Order, new_claim};
use crate::replication::{ControlPeer, LeaderAddress};
use crate::worker::connection::{Blocked, Queued, WaitFor};

const NO_PROMOTION: &str =
    "ERR a promotion is named by its epoch, a number, and its claim, 16 hexadecimal digits";

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
    if call.engine.fails_over() {
        call.error("ERR REPLICAOF not allowed while failing over.");
        return Flow::Continue;
    }
    if argv[1].eq_ignore_ascii_case(b"no") && argv[2].eq_ignore_ascii_case(b"one") {
        match call.engine.promote(call.node, Claim::NONE) {
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

/// FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]
pub fn failover(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    match failover_request(call, argv).and_then(|request| match request {
        None => call.engine.abort_failover(call.node),
        Some(order) => {
            call.engine.fail_over(call.node, call.now, order);
            Ok(())
        }
    }) {
        Ok(()) => call.reply().simple("OK"),
        Err(text) => call.error(text),
    }
    Flow::Continue
}

/// What is asked for, checked in Redis's order and refused in its words; `None` is ABORT.
fn failover_request(call: &Call<'_>, argv: &[&[u8]]) -> Result<Option<Order>, &'static str> {
    const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
    const SYNTAX: &str = "ERR syntax error";
    let (mut target, mut timeout_ms, mut force) = (None, None, false);
    let mut words = argv[1..].iter();
    while let Some(word) = words.next() {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let rest = words.as_slice();
        if is("timeout") && !rest.is_empty() && timeout_ms.is_none() {
            let ms = parse_i64(rest[0]).ok_or(NOT_AN_INTEGER)?;
            if ms <= 0 {
                return Err("ERR FAILOVER timeout must be greater than 0");
            }
            timeout_ms = Some(ms as u64);
            words.next();
        } else if is("to") && rest.len() >= 2 && target.is_none() {
            let port = parse_i64(rest[1]).ok_or(NOT_AN_INTEGER)?;
            target = Some((String::from_utf8_lossy(rest[0]).into_owned(), port));
            words.nth(1);
        } else if is("abort") && argv.len() == 2 {
            return Ok(None);
        } else if is("force") && !force {
            force = true;
        } else {
            return Err(SYNTAX);
        }
    }
    if call.engine.fails_over() {
        return Err("ERR FAILOVER already in progress.");
    }
    let Some(followers) = call.engine.follower_addresses() else {
        return Err("ERR FAILOVER is not valid when server is a replica.");
    };
    if followers.is_empty() {
        return Err("ERR FAILOVER requires connected replicas.");
    }
    if force && (timeout_ms.is_none() || target.is_none()) {
        return Err("ERR FAILOVER with force option requires both a timeout and target HOST and IP.");
    }
    let target = match target {
        None => None,
        Some((host, port)) => {
            let found = followers
                .into_iter()
                .find(|(address, _)| address.host == host && i64::from(address.port) == port);
            match found {
                None => return Err("ERR FAILOVER target HOST and PORT is not a replica."),
                Some((_, false)) => return Err("ERR FAILOVER target replica is not online."),
                Some((address, true)) => Some(address),
            }
        }
    };
    let deadline_ms = timeout_ms.map(|ms| call.now.ms.saturating_add(ms));
    Ok(Some(Order { target, force, deadline_ms }))
}

/// What a promotion asks for: at least this epoch, for whoever has this claim to it.
fn wanted(epoch: &[u8], claim: &[u8]) -> Option<Promise> {
    let epoch = parse_i64(epoch).and_then(|epoch| u32::try_from(epoch).ok()).map(Epoch::new)?;
    let claim = Claim::parse(std::str::from_utf8(claim).ok()?)?;
    Some(Promise { epoch, claim })
}

/// FARKEEP.MUSTER host port epoch claim: a peer is about to be promoted; what this node holds, as
/// [`farkeep_proto::control::Holdings`].
pub fn muster(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let port = parse_i64(argv[2]).and_then(|port| u16::try_from(port).ok());
    let (Ok(host), Some(port)) = (std::str::from_utf8(argv[1]), port) else {
        call.error("ERR Invalid address");
        return Flow::Continue;
    };
    let Some(wanted) = wanted(argv[3], argv[4]) else {
        call.error(NO_PROMOTION);
        return Flow::Continue;
    };
    match call.engine.come_to(call.node, LeaderAddress { host: host.to_owned(), port }, wanted) {
        Ok(holdings) => call.reply().bulk(&holdings.encode_to_vec()),
        Err(error) => call.error(&format!("ERR cannot come: {error:#}")),
    }
    Flow::Continue
}

/// FARKEEP.DISMISS number: whom this node has come to is not promoted. 1 if it goes back to whom it has left.
pub fn dismiss(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let Some(number) = parse_i64(argv[1]).and_then(|number| u64::try_from(number).ok()) else {
        call.error("ERR value is not an integer or out of range");
        return Flow::Continue;
    };
    match call.engine.go_back(call.node, number) {
        Ok(goes_back) => call.reply().int(goes_back.into()),
        Err(error) => call.error(&format!("ERR cannot go back: {error:#}")),
    }
    Flow::Continue
}

/// FARKEEP.RECORDS from to: bytes of the log.
pub fn records(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let lsn = |word: &[u8]| parse_i64(word).and_then(|lsn| u64::try_from(lsn).ok()).map(Lsn::new);
    let (Some(from), Some(to)) = (lsn(argv[1]), lsn(argv[2])) else {
        call.error("ERR value is not an integer or out of range");
        return Flow::Continue;
    };
    let bytes = call.engine.records(from, to).map(|(head, tail)| [head, tail].concat());
    match bytes {
        Ok(bytes) => call.reply().bulk(&bytes),
        Err(error) => call.error(&format!("ERR {error:#}")),
    }
    Flow::Continue
}

/// FARKEEP.FENCE [epoch claim]: epoch and end of the log of a follower that its leader gets nothing out of any more, and the epoch that it has
/// promised. For a promotion that is asked for by nobody else, if none is named.
pub fn fence(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let wanted = match argv {
        [_] => Some(Promise { epoch: Epoch::ZERO, claim: new_claim() }),
        [_, epoch, claim] => wanted(epoch, claim),
        _ => None,
    };
    let Some(wanted) = wanted else {
        call.error(NO_PROMOTION);
        return Flow::Continue;
    };
    match call.engine.fence(call.node, wanted) {
        Ok((promise, (epoch, end))) => {
            let mut reply = call.reply();
            reply.array(3);
            reply.int(i64::from(epoch.get()));
            reply.int(end.get() as i64);
            reply.int(i64::from(promise.epoch.get()));
        }
        Err(error) => call.error(&format!("ERR cannot fence: {error:#}")),
    }
    Flow::Continue
}

/// FARKEEP.PROMOTE claim: REPLICAOF NO ONE, by the promotion for which this node and others have been fenced.
pub fn promote(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let Some(claim) = std::str::from_utf8(argv[1]).ok().and_then(Claim::parse) else {
        call.error(NO_PROMOTION);
        return Flow::Continue;
    };
    if call.engine.fails_over() {
        call.error("ERR FARKEEP.PROMOTE not allowed while failing over.");
        return Flow::Continue;
    }
    match call.engine.promote(call.node, claim) {
        Ok(()) => call.reply().simple("OK"),
        Err(error) => call.error(&format!("ERR promotion failed: {error:#}")),
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
    // Redis waits for this number as a C int: WAIT 9223372036854775807 waits for nobody.
    wait_for(call, (followers as i32).max(0) as usize, None, argv[2])
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

/// FARKEEP SCRUB | RESYNC host port \[FORCE\] | HELP
pub fn farkeep(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if argv[1].eq_ignore_ascii_case(b"scrub") && argv.len() == 2 {
        match call.engine.scrub(call.node, call.now) {
            Some(0) => call.error("ERR no follower is up to date and not in a walk already"),
            Some(_) => call.reply().simple("Scrub started"),
            None => call.error("ERR a scrub is begun on the leader"),
        }
        return Flow::Continue;
    }
    let force = argv.len() == 5 && argv[4].eq_ignore_ascii_case(b"force");
    if argv[1].eq_ignore_ascii_case(b"resync") && (argv.len() == 4 || force) {
        let name = format!("{}:{}", String::from_utf8_lossy(argv[2]), String::from_utf8_lossy(argv[3]));
        match call.engine.resync(call.node, &name, force) {
            Ok(()) => call.reply().simple("Resync started"),
            Err(why) => call.error(&format!("ERR {why:.512}")),
        }
        return Flow::Continue;
    }
    if argv[1].eq_ignore_ascii_case(b"help") && argv.len() == 2 {
        const LINES: [&str; 8] = [
            "FARKEEP <subcommand>. Subcommands are:",
            "RESYNC <host> <port> [FORCE]",
            "    Make a follower's image this leader's by a delta sync, whatever it holds.",
            "    FORCE: also one without which writes are refused until the sync has ended.",
            "SCRUB",
            "    Compare the followers' images with this leader's, and repair what differs.",
            "HELP",
            "    Print this help.",
        ];
        let mut reply = call.reply();
        reply.array(LINES.len());
        for line in LINES {
            reply.simple(line);
        }
        return Flow::Continue;
    }
    let word = String::from_utf8_lossy(argv[1]).into_owned();
    call.error(&format!(
        "ERR unknown subcommand or wrong number of arguments for '{word:.128}'. Try FARKEEP HELP."
    ));
    Flow::Continue
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
