//! What is undone of a failover, against nodes that only pretend.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::super::discover::Fields;
use super::*;

/// A node that says so much in INFO and OK to everything else; joined, what it was told besides.
fn pretended(info: String) -> (Address, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let node = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut told, mut buffer) = (Vec::new(), [0; 1024]);
        // A short command that is waited for comes in one piece.
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            let words = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let words: Vec<&str> = words.split("\r\n").skip(2).step_by(2).collect();
            let reply = if words[0] == "INFO" {
                format!("${}\r\n{info}\r\n", info.len())
            } else {
                told.push(words.join(" ").trim().to_owned());
                "+OK\r\n".to_owned()
            };
            stream.write_all(reply.as_bytes()).unwrap();
        }
        told
    });
    (address, node)
}

fn follower_of(port: u16, fenced: u8) -> String {
    format!("role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:{port}\r\nfarkeep_fenced:{fenced}\r\n")
}

#[test]
fn a_release_takes_nobody_away_from_whom_somebody_else_has_told_it_to_follow() {
    for (now, expected) in [
        (follower_of(1, 1), &["REPLICAOF 127.0.0.1 1"][..]),
        ("role:master\r\n".to_owned(), &[]),
        (follower_of(2, 1), &["REPLICAOF 127.0.0.1 2"]),
        (follower_of(2, 0), &[]),
        (follower_of(1, 0), &[]),
    ] {
        let (address, told) = pretended(now.clone());
        let client = Client::connect(&address.host, address.port, PROMOTE_LIMIT).unwrap();
        let node = Node { address, known_as: None, info: Fields::new(follower_of(1, 0)) };
        release(vec![Fenced { node: &node, client, position: (0, 0), promised: 0 }]);
        assert_eq!(told.join().unwrap(), expected, "{now}");
    }
}
