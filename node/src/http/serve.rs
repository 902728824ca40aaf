//! Connections: accepted up to a number, given up when they are slow.
//!
//! A client may send its request a byte at a time, or never read its answer: it holds one of [`MAX_CONNECTIONS`] places until its time is
//! up, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time. Whoever comes when they are all taken is told so at once.
const MAX_CONNECTIONS: usize = 128;
/// Longest time that a request's head may take, and that a connection may wait for its next request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Longest head of a request: its first line and its headers, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// How long what was sent may stay unacknowledged before the peer is given up, in ms.
const UNREAD_LIMIT_MS: u32 = 30_000;
/// Pause after a failure to accept: mostly there are no file descriptors left, and some will be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 21\r\nretry-after: 5\r\n\
connection: close\r\n\r\ntoo many connections\n";

/// The peer of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Accepts connections for ever.
pub async fn run(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // Best effort: what does not fit into the socket's buffer at once is not sent.
            let _ = stream.try_write(FULL);
            continue;
        };
        let router = router.clone().layer(Extension(Peer(peer)));
        tokio::spawn(async move {
            if let Err(error) = connection(stream, router).await {
                tracing::debug!(%error, %peer, "an HTTP connection ends");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, router: Router) -> Result<(), hyper::Error> {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_LIMIT_MS);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
}
