//! One connection as CLIENT LIST and CLIENT INFO show it.

use std::io::Write;
use std::sync::atomic::Ordering;

use crate::clients::{Client, ClientKind};
use crate::pubsub::Topic;

/// The line, without its end. `command` is what the connection is executing just now, if the caller knows.
pub fn line(client: &Client, now_ms: u64, command: Option<&str>) -> Vec<u8> {
    let names = client.names.lock().clone();
    let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
    let command = command.or(names.last_command.map(|command| command.name)).unwrap_or("NULL");
    let input = client.query_len_bytes.load(Ordering::Relaxed);
    let output = client.output_len_bytes.load(Ordering::Relaxed);
    let mut line = Vec::with_capacity(320);
    // Writing into a Vec cannot fail.
    let _ =
        write!(line, "id={} addr={} laddr={} fd={} name=", client.id, client.peer, client.local, client.fd);
    line.extend_from_slice(&names.name);
    let _ = write!(
        line,
        " age={} idle={} flags={} db={} sub={} psub={} ssub={} multi={} qbuf={input} qbuf-free=0 argv-mem=0 \
         multi-mem=0 rbs=0 rbp=0 obl={output} oll=0 omem={output} tot-mem={} events={} cmd={command} \
         user=default redir=-1 resp={}",
        seconds(client.connected_at_ms),
        seconds(client.active_at_ms.load(Ordering::Relaxed)),
        flags(client),
        client.db.load(Ordering::Relaxed),
        client.subscribed(Topic::Channel),
        client.subscribed(Topic::Pattern),
        client.subscribed(Topic::Shard),
        client.multi.load(Ordering::Relaxed),
        input + output,
        if output > 0 { "rw" } else { "r" },
        client.resp.load(Ordering::Relaxed),
    );
    line
}

/// One letter for each thing that is special, in Redis's order.
fn flags(client: &Client) -> String {
    let letters = [
        ('S', client.kind() == ClientKind::Replica),
        ('P', client.subscribes()),
        ('x', client.multi.load(Ordering::Relaxed) >= 0),
        ('b', client.blocked.load(Ordering::Relaxed)),
        ('d', client.watch_broken.load(Ordering::Relaxed)),
        ('A', client.killed.load(Ordering::Relaxed)),
        ('U', client.peer.starts_with('/')),
        ('e', client.no_evict.load(Ordering::Relaxed)),
    ];
    let flags: String = letters.iter().filter(|(_, is)| *is).map(|(letter, _)| letter).collect();
    if flags.is_empty() { "N".to_owned() } else { flags }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Clients;

    #[test]
    fn line_has_redis_fields_in_redis_order() {
        let clients = Clients::default();
        let client = clients.add("127.0.0.1:1".to_owned(), "127.0.0.1:9".to_owned(), 8, 0, 1_000);
        client.names.lock().name = b"app".to_vec();
        let line = String::from_utf8(line(&client, 4_500, Some("client|list"))).unwrap();
        assert_eq!(
            line,
            "id=1 addr=127.0.0.1:1 laddr=127.0.0.1:9 fd=8 name=app age=3 idle=3 flags=N db=0 sub=0 psub=0 ssub=0 \
             multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r \
             cmd=client|list user=default redir=-1 resp=2"
        );
    }

    #[test]
    fn flags_stand_in_redis_order() {
        let clients = Clients::default();
        let client = clients.add("/tmp/s:0".to_owned(), "/tmp/s:0".to_owned(), 8, 0, 0);
        assert_eq!(flags(&client), "U");
        client.multi.store(2, Ordering::Relaxed);
        client.watch_broken.store(true, Ordering::Relaxed);
        client.subscriptions[1].store(1, Ordering::Relaxed);
        assert_eq!(flags(&client), "PxdU");
    }
}
