//! The HTTP server: dashboard, metrics, JSON, probes.
//!
//! One thread with a runtime of its own, which does nothing on the way of a write: it looks at the engine four times a second ([`sample`])
//! and serves everybody from what it saw. Whoever asks, however often and with whatever, costs this thread only: connections are
//! capped and timed ([`serve`]), access is that of the RESP port ([`guard`]).
//!
//! The page is in the binary ([`page`]) and loads nothing from anywhere else. What it can do to the node is in [`actions`] and off
//! unless `http-actions` is `yes`.

mod actions;
mod guard;
mod history;
mod metrics;
mod page;
mod peers;
mod routes;
mod sample;
mod serve;
mod status;
mod verdict;

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::Config;
use crate::node::Node;
use history::History;
use sample::{Sample, Sampler};

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    samples: watch::Receiver<Arc<Sample>>,
    history: Arc<Mutex<History>>,
    pages: peers::Pages,
    /// A page of this server knows it, another site's page cannot.
    csrf_token: String,
}

/// Binds the server's port; `None` if it has none.
///
/// # Errors
/// When that is not possible.
pub fn bind(config: &Config) -> Result<Option<TcpListener>> {
    if config.http_port == 0 {
        return Ok(None);
    }
    let address = (config.http_bind, config.http_port);
    let listener = TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {}:{} (--http-port, --http-bind)", config.http_bind, config.http_port)
    })?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// Starts the server's thread. It ends with the node.
///
/// # Errors
/// When a thread cannot be made.
pub fn start(node: &Arc<Node>, listener: TcpListener) -> Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let node = Arc::clone(node);
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow!("no random numbers from the kernel: {error}"))?;
    let csrf_token = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(thread::Builder::new().name("http".to_owned()).spawn(move || {
        let pages = peers::Pages::default();
        let (sampler, samples) = Sampler::new(Arc::clone(&node), Arc::clone(&pages));
        let history = Arc::default();
        let shared = Arc::new(Shared { node, samples, history: Arc::clone(&history), pages, csrf_token });
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    tokio::spawn(peers::run(Arc::clone(&shared)));
                    tokio::spawn(serve::run(listener, routes::router(shared)));
                }
                Err(error) => tracing::error!(%error, "the HTTP server cannot use its socket"),
            }
            // It ends when the node stops, and everything else with it.
            sampler.run(history).await;
        });
        // Whoever is in the middle of an answer is cut off.
        runtime.shutdown_background();
    })?)
}
