//! Connections to the leader, before they speak a protocol of replication.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::Config;
use crate::replication::LeaderAddress;

/// Longest wait for a connection or for an answer to AUTH and the like.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to a leader's port and authenticates.
pub(super) fn connect(leader: &LeaderAddress, config: &Config) -> Result<TcpStream> {
    let addresses = (leader.host.as_str(), leader.port)
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {}", leader.host))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(mut stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
                stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                if let Some(password) = &config.masterauth {
                    match &config.masteruser {
                        Some(user) => request(&mut stream, &[b"AUTH", user.as_bytes(), password.as_bytes()])?,
                        None => request(&mut stream, &[b"AUTH", password.as_bytes()])?,
                    }
                }
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("cannot connect to {leader}")),
        None => bail!("{} has no address", leader.host),
    }
}

/// Sends one command and expects a simple status.
pub(super) fn request(stream: &mut TcpStream, argv: &[&[u8]]) -> Result<()> {
    let mut bytes = format!("*{}\r\n", argv.len()).into_bytes();
    for arg in argv {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    stream.write_all(&bytes)?;
    // One byte at a time: what follows the status may belong to another protocol.
    let mut line = Vec::new();
    let mut byte = [0u8];
    while line.last() != Some(&b'\n') {
        match stream.read(&mut byte) {
            Ok(1) if line.len() < 512 => line.push(byte[0]),
            Ok(_) => bail!("the leader does not answer {}", String::from_utf8_lossy(argv[0])),
            // A process that was stopped goes on with this where a socket has a timeout.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let text = String::from_utf8_lossy(&line);
    if let Some(error) = text.strip_prefix('-') {
        bail!("the leader answers {}: {}", String::from_utf8_lossy(argv[0]), error.trim_end());
    }
    Ok(())
}
