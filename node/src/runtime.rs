//! Starting a node's threads and stopping them again.
//!
//! `io-threads` workers, one replayer, one link thread that is busy only on a follower, one walker that is busy only on a leader
//! with a follower in a delta sync or a scrub, and on a disk one log writer. The role may change at any time; the threads stay.

use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};

use crate::config::Config;
use crate::node::Node;
use crate::worker::{Listener, Worker};
use crate::{link, log_writer, replayer, walk};

/// Stack of an I/O worker: commands recurse little, but a debug build is wasteful.
const WORKER_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Opens the sockets of the configuration.
///
/// # Errors
/// The first address that cannot be bound, with the reason and what to do.
pub fn listen(config: &Config) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    if config.port != 0 {
        for bind in &config.bind {
            let (optional, host) = match bind.strip_prefix('-') {
                Some(host) => (true, host),
                None => (false, bind.as_str()),
            };
            let host = if host == "*" { "0.0.0.0" } else { host };
            match bind_tcp(host, config.port, config.tcp_backlog) {
                Ok(listener) => listeners.push(Listener::Tcp(listener)),
                Err(error) if optional => {
                    tracing::debug!(%host, %error, "an optional address is not available");
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot listen on {host}:{} (--port, --bind)", config.port)
                    });
                }
            }
        }
    }
    if let Some(path) = &config.unixsocket {
        let _ = std::fs::remove_file(path);
        let socket =
            UnixListener::bind(path).with_context(|| format!("cannot listen on {path} (--unixsocket)"))?;
        socket.set_nonblocking(true)?;
        listeners.push(Listener::Unix(socket));
    }
    if listeners.is_empty() {
        bail!("configured to not listen anywhere: set a port, a bind address or a unixsocket");
    }
    Ok(listeners)
}

fn bind_tcp(host: &str, port: u16, backlog: u32) -> Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let address = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("{host} is not an address"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(TcpListener::from(socket))
}

/// The threads of a running node.
#[derive(Debug)]
pub struct Running {
    node: Arc<Node>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts every thread.
    ///
    /// # Errors
    /// When a thread or a poller cannot be made.
    pub fn start(node: &Arc<Node>, listeners: Vec<Listener>, http: Option<TcpListener>) -> Result<Self> {
        let mut threads = Vec::new();
        let mut listeners = Some(listeners);
        for index in 0..node.workers.len() {
            let worker = Worker::new(Arc::clone(node), index, listeners.take().unwrap_or_default())?;
            let node = Arc::clone(node);
            let builder =
                thread::Builder::new().name(format!("worker-{index}")).stack_size(WORKER_STACK_BYTES);
            threads.push(builder.spawn(move || {
                let _stop = StopOnExit(Arc::clone(&node));
                if let Err(error) = worker.run() {
                    tracing::error!(%error, "a worker ends");
                }
            })?);
        }
        threads.push(spawn(node, "replayer", replayer::run)?);
        populate(node)?;
        threads.push(spawn(node, "link", link::run)?);
        threads.push(spawn(node, "walker", walk::run)?);
        if node.engine.lock().needs_log_writer() {
            threads.push(spawn(node, "log-writer", log_writer::run)?);
        }
        if let Some(listener) = http {
            threads.push(crate::http::start(node, listener)?);
        }
        Ok(Self { node: Arc::clone(node), threads })
    }

    /// Waits until every thread has ended; whoever ends first stops the others.
    pub fn join(self) -> bool {
        let mut clean = true;
        for thread in self.threads {
            clean &= thread.join().is_ok();
        }
        debug_assert!(self.node.stopping.load(Ordering::Acquire));
        clean
    }
}

/// Lets the first lap of the ring cost no page faults. Nobody waits for it.
fn populate(node: &Arc<Node>) -> Result<()> {
    let log = Arc::clone(node.engine.lock().pool().log());
    thread::Builder::new().name("populate".to_owned()).spawn(move || {
        if let Err(error) = log.populate() {
            tracing::debug!(%error, "the log could not be brought into memory ahead of use");
        }
    })?;
    Ok(())
}

fn spawn(node: &Arc<Node>, name: &str, body: fn(&Arc<Node>)) -> Result<JoinHandle<()>> {
    let node = Arc::clone(node);
    Ok(thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _stop = StopOnExit(Arc::clone(&node));
        body(&node);
    })?)
}

/// A thread that ends, by panic too, ends the process in an orderly way: half a node is worse than none.
struct StopOnExit(Arc<Node>);

impl Drop for StopOnExit {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a thread of the node has failed an assertion; stopping");
        }
        self.0.stop();
    }
}
