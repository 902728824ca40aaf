//! Finding the nodes of a group from any one of them.
//!
//! A leader knows its followers; a follower knows its leader and, because the leader tells it, the other followers. So one node
//! that answers is enough, also when the leader is gone.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::client::{Client, field_of};

/// How long a node may be silent before it counts as dead.
const PATIENCE: Duration = Duration::from_millis(500);
/// Redis's port.
const DEFAULT_PORT: u16 = 6379;

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    /// `HOST`, `HOST:PORT` or `[V6]:PORT`.
    fn from_str(text: &str) -> Result<Self> {
        let colons = text.matches(':').count();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if colons == 1 || host.ends_with(']') || colons > 7 => (host, Some(port)),
            // An IPv6 address as INFO shows it: everything before the last colon is the host.
            Some((host, port)) if host.contains(':') => (host, Some(port)),
            _ => (text, None),
        };
        let host = host.trim_matches(['[', ']']);
        let port = port.map_or(Ok(DEFAULT_PORT), str::parse);
        let port = port.map_err(|_| anyhow!("{text} is no HOST:PORT"))?;
        if host.is_empty() {
            bail!("{text} is no HOST:PORT");
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// How to log in.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// The user, if it is not the default one.
    pub user: Option<String>,
    /// The password, if one is needed.
    pub password: Option<String>,
}

impl Login {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// When nobody answers in time, or the password is wrong.
    pub fn connect(&self, address: &Address) -> Result<Client> {
        let mut client =
            Client::connect(&address.host, address.port, PATIENCE).context("cannot be connected to")?;
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => drop(client.must(&["AUTH", user, password])?),
            (None, Some(password)) => drop(client.must(&["AUTH", password])?),
            _ => {}
        }
        Ok(client)
    }
}

/// What a node says of a follower or of itself, by INFO's names.
#[derive(Debug, Clone, Default)]
pub struct Fields(String);

impl Fields {
    /// From the text of an INFO.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// A field's text, or nothing.
    pub fn text(&self, name: &str) -> &str {
        field_of(&self.0, name).unwrap_or_default()
    }

    /// A field's number, or 0.
    pub fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// The values of `name0`, `name1`, ... each a list of `key=value`.
    pub fn lists(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        (0..).map_while(|at| self.list(&format!("{name}{at}"))).collect()
    }

    /// A field that is a list of `key=value`, if there is one.
    pub fn list(&self, name: &str) -> Option<BTreeMap<String, String>> {
        let pairs = field_of(&self.0, name)?.split(',').filter_map(|pair| pair.split_once('='));
        Some(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }
}

/// A node that answers.
#[derive(Debug, Clone)]
pub struct Node {
    /// How it was reached.
    pub address: Address,
    /// How the other nodes know it, if they do.
    pub known_as: Option<Address>,
    /// What it says.
    pub info: Fields,
}

/// A node that another one told of, and that does not answer.
#[derive(Debug, Clone)]
pub struct Silent {
    /// Where it should be.
    pub address: Address,
    /// Why it counts as dead.
    pub why: String,
}

/// All nodes that could be found.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Those that answer.
    pub nodes: Vec<Node>,
    /// Those that do not.
    pub silent: Vec<Silent>,
}

impl Node {
    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        self.info.text("role") == "master"
    }

    /// The number of the last reign in its log.
    pub fn epoch(&self) -> u64 {
        self.info.number("farkeep_epoch")
    }

    /// How far it is: the epoch of the last record of its log that counts, which may be below [`Node::epoch`], and where that ends.
    pub fn position(&self) -> (u64, u64) {
        (self.info.number("farkeep_log_epoch"), self.info.number("farkeep_log_end_lsn"))
    }

    /// Whether it is in the middle of a delta sync: it holds no usable dataset and refuses to be promoted.
    pub fn is_mid_sync(&self) -> bool {
        self.info.number("farkeep_mid_sync") == 1
    }

    /// Up to where its log is durable.
    pub fn durable(&self) -> u64 {
        self.info.number("farkeep_durable_lsn")
    }

    /// Whom it follows; `None` for a leader.
    pub fn leader(&self) -> Option<Address> {
        let (host, port) = (self.info.text("master_host"), self.info.text("master_port"));
        Some(Address { host: host.to_owned(), port: port.parse().ok()? }).filter(|_| !self.is_leader())
    }

    /// Where others find it.
    pub fn announced(&self) -> &Address {
        self.known_as.as_ref().unwrap_or(&self.address)
    }

    /// The other nodes that it knows of.
    fn others(&self) -> Vec<Address> {
        let followers = self.info.lists("farkeep_follower").into_iter();
        let followers = followers.filter_map(|line| line.get("address")?.parse().ok());
        let peers = self.info.text("farkeep_peers").split(',').filter_map(|peer| peer.parse().ok());
        self.leader().into_iter().chain(followers).chain(peers).collect()
    }
}

impl Group {
    /// Asks everybody, beginning with these.
    ///
    /// # Errors
    /// When none of them answers as Farkeep does.
    pub fn discover(first: &[Address], login: &Login) -> Result<Self> {
        let mut group = Self::default();
        let mut queue: VecDeque<(Address, bool)> =
            first.iter().map(|address| (address.clone(), false)).collect();
        let mut asked = HashSet::new();
        let mut failure = None;
        while let Some((address, told)) = queue.pop_front() {
            if !asked.insert((address.clone(), told)) {
                continue;
            }
            if told && let Some(node) = group.nodes.iter_mut().find(|node| node.address == address) {
                node.known_as = Some(address);
                continue;
            }
            if group.silent.iter().any(|silent| silent.address == address) {
                continue;
            }
            match ask(&address, login) {
                Ok(info) => group.add(address, told, info, &mut queue),
                Err(error) => {
                    let why = crate::cli::one_line(&error);
                    failure.get_or_insert_with(|| format!("{address}: {why}"));
                    group.silent.push(Silent { address, why });
                }
            }
        }
        if group.nodes.is_empty() {
            bail!("no node answers: {}", failure.unwrap_or_default());
        }
        Ok(group)
    }

    /// A node under another address than the one that it is known by already is still one node.
    fn add(&mut self, address: Address, told: bool, info: Fields, queue: &mut VecDeque<(Address, bool)>) {
        let id = info.text("farkeep_node_id").to_owned();
        let known = self.nodes.iter_mut().find(|node| node.info.text("farkeep_node_id") == id);
        if let Some(node) = known {
            if told {
                node.known_as = Some(address);
            }
            return;
        }
        let node = Node { known_as: told.then(|| address.clone()), address, info };
        queue.extend(node.others().into_iter().map(|other| (other, true)));
        self.nodes.push(node);
    }

    /// All that lead, the one with the highest epoch first.
    pub fn leaders(&self) -> Vec<&Node> {
        let mut leaders: Vec<&Node> = self.nodes.iter().filter(|node| node.is_leader()).collect();
        leaders.sort_by_key(|node| std::cmp::Reverse((node.epoch(), node.durable())));
        leaders
    }

    /// All that answer and follow.
    pub fn followers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_leader())
    }

    /// The node with this address, however it is known.
    pub fn find(&self, address: &Address) -> Option<&Node> {
        self.nodes.iter().find(|node| node.address == *address || node.known_as.as_ref() == Some(address))
    }
}

/// What a node says of itself.
fn ask(address: &Address, login: &Login) -> Result<Fields> {
    let mut client = login.connect(address)?;
    let text = client.info_text(&["clients", "stats", "replication", "farkeep"])?;
    if field_of(&text, "farkeep_version").is_none() {
        bail!("this is not Farkeep");
    }
    Ok(Fields(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_and_info_write_them() {
        for (text, host, port) in [
            ("a", "a", 6379),
            ("a:1", "a", 1),
            ("10.0.0.1:65535", "10.0.0.1", 65535),
            ("[::1]:7", "::1", 7),
            ("fe80::2:6380", "fe80::2", 6380),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), Address { host: host.to_owned(), port }, "{text}");
        }
        for text in ["", ":1", "a:b", "a:70000"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn followers_are_read_out_of_info() {
        let info = Fields(
            "role:master\r\nfarkeep_follower0:address=a:1,lag_bytes=7\r\nfarkeep_follower1:address=b:2\r\n"
                .into(),
        );
        let node = Node { address: "l:9".parse().unwrap(), known_as: None, info };
        let others: Vec<String> = node.others().iter().map(Address::to_string).collect();
        assert_eq!(others, ["a:1", "b:2"]);
        assert_eq!(node.info.lists("farkeep_follower")[0]["lag_bytes"], "7");
        assert!(node.is_leader() && node.leader().is_none());
    }
}
