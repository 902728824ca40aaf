//! Where the pages of the other nodes are.
//!
//! The group is known from replication, by the addresses of RESP ports; the HTTP port of a node is in its INFO. So each node is asked now
//! and then, as any client would ask it, on a thread that may wait. Whoever does not answer keeps the address known before: a page of a dead
//! node is of no use, but the page of a node that was restarted is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;

use super::Shared;
use crate::cli::client::{Client, field_of};
use crate::config::Config;

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nodes that are remembered.
const MAX_PEERS: usize = 64;

/// Pages by the address of the node's RESP port.
pub type Pages = Arc<Mutex<BTreeMap<String, String>>>;

/// Asks all nodes that the samples name, for ever.
pub async fn run(shared: Arc<Shared>) {
    while !shared.node.stopping.load(Ordering::Acquire) {
        let sample = Arc::clone(&shared.samples.borrow());
        let status = &sample.status;
        let leader = status.link.iter().map(|link| link.leader.clone());
        let names: Vec<String> = leader.chain(status.followers.iter().map(|f| f.name.clone())).collect();
        let config = shared.node.config();
        for name in names {
            let config = Arc::clone(&config);
            let asked = name.clone();
            let page = tokio::task::spawn_blocking(move || page_of(&asked, &config)).await;
            if let Ok(Ok(Some(page))) = page {
                let mut pages = shared.pages.lock();
                if pages.len() < MAX_PEERS || pages.contains_key(&name) {
                    pages.insert(name, page);
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// The page of the node that serves RESP at `name`; `None` if it has none that others can open.
fn page_of(name: &str, config: &Config) -> Result<Option<String>> {
    let Some((host, port)) = name.rsplit_once(':') else { bail!("{name} is no address") };
    let mut client = Client::connect(host, port.parse()?, PATIENCE)?;
    if let Some(password) = config.masterauth.as_ref().or(config.requirepass.as_ref()) {
        match &config.masteruser {
            Some(user) => client.must(&["AUTH", user, password])?,
            None => client.must(&["AUTH", password])?,
        };
    }
    let text = client.info_text(&["farkeep"])?;
    let (Some(port), Some(bind)) =
        (field_of(&text, "farkeep_http_port"), field_of(&text, "farkeep_http_bind"))
    else {
        return Ok(None);
    };
    Ok(page(host, port, bind))
}

fn page(host: &str, port: &str, bind: &str) -> Option<String> {
    let port = port.parse::<u16>().ok().filter(|&port| port != 0)?;
    let bind = bind.parse::<IpAddr>().ok()?;
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback());
    if bind.is_loopback() && !here {
        return None;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some(format!("http://{host}:{port}/"))
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn only_pages_that_can_be_opened_from_elsewhere_are_linked() {
        assert_eq!(page("127.0.0.1", "80", "127.0.0.1").as_deref(), Some("http://127.0.0.1:80/"));
        assert_eq!(page("10.0.0.1", "80", "0.0.0.0").as_deref(), Some("http://10.0.0.1:80/"));
        assert_eq!(page("fe80::1", "80", "::").as_deref(), Some("http://[fe80::1]:80/"));
        assert_eq!(page("10.0.0.1", "80", "127.0.0.1"), None);
        assert_eq!(page("10.0.0.1", "0", "0.0.0.0"), None);
    }
}
