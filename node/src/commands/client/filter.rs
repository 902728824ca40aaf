//! Which connections a CLIENT KILL or CLIENT LIST means.

use farkeep_proto::number::parse_i64;

use crate::clients::{Client, ClientKind};

/// A class of connections by its name in CLIENT LIST TYPE and CLIENT KILL TYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ordinary clients.
    Normal,
    /// Followers.
    Replica,
    /// Subscribers.
    Pubsub,
    /// The link to the leader, which is no client connection here.
    Master,
}

impl Kind {
    /// Reads a class's name.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is("normal") {
            Some(Self::Normal)
        } else if is("slave") || is("replica") {
            Some(Self::Replica)
        } else if is("pubsub") {
            Some(Self::Pubsub)
        } else if is("master") {
            Some(Self::Master)
        } else {
            None
        }
    }

    /// Whether a connection is of this class.
    pub fn includes(self, client: &Client) -> bool {
        match client.kind() {
            ClientKind::Normal => self == Self::Normal,
            ClientKind::Replica => self == Self::Replica,
            ClientKind::Pubsub => self == Self::Pubsub,
        }
    }
}

/// The error for a class that does not exist.
pub fn unknown_kind(name: &[u8]) -> String {
    format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name))
}

/// What CLIENT KILL was asked to kill.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `CLIENT KILL addr`: answers OK or an error instead of a number.
    pub old_form: bool,
    addr: Option<Vec<u8>>,
    laddr: Option<Vec<u8>>,
    id: Option<u64>,
    kind: Option<Kind>,
    keep_self: bool,
}

impl Filter {
    /// Reads the words behind CLIENT KILL.
    ///
    /// # Errors
    /// The reply for words that make no sense.
    pub fn parse(words: &[&[u8]]) -> Result<Self, String> {
        if let [addr] = words {
            return Ok(Self { old_form: true, addr: Some(addr.to_vec()), ..Self::default() });
        }
        let mut filter = Self { keep_self: true, ..Self::default() };
        for pair in words.chunks(2) {
            let [option, value] = pair else { return Err(super::SYNTAX.to_owned()) };
            filter.option(option, value)?;
        }
        Ok(filter)
    }

    fn option(&mut self, option: &[u8], value: &[u8]) -> Result<(), String> {
        let is = |wanted: &str| option.eq_ignore_ascii_case(wanted.as_bytes());
        if is("id") {
            let id = parse_i64(value).filter(|id| *id > 0);
            self.id = Some(id.ok_or("ERR client-id should be greater than 0")? as u64);
        } else if is("type") {
            self.kind = Some(Kind::parse(value).ok_or_else(|| unknown_kind(value))?);
        } else if is("addr") {
            self.addr = Some(value.to_vec());
        } else if is("laddr") {
            self.laddr = Some(value.to_vec());
        } else if is("user") {
            // There is one user, and every connection is its.
            if value != b"default" {
                return Err(format!("ERR No such user '{}'", String::from_utf8_lossy(value)));
            }
        } else if is("skipme") && value.eq_ignore_ascii_case(b"yes") {
            self.keep_self = true;
        } else if is("skipme") && value.eq_ignore_ascii_case(b"no") {
            self.keep_self = false;
        } else {
            return Err(super::SYNTAX.to_owned());
        }
        Ok(())
    }

    /// Whether the filter means this connection, when asked by the one with the id `own`.
    pub fn matches(&self, client: &Client, own: u64) -> bool {
        self.addr.as_ref().is_none_or(|addr| addr == client.peer.as_bytes())
            && self.laddr.as_ref().is_none_or(|addr| addr == client.local.as_bytes())
            && self.id.is_none_or(|id| id == client.id)
            && self.kind.is_none_or(|kind| kind.includes(client))
            && !(self.keep_self && client.id == own)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::clients::Clients;

    fn parse(words: &[&str]) -> Result<Filter, String> {
        Filter::parse(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn senseless_words_get_redis_errors() {
        for (words, error) in [
            (&["a", "b"][..], "ERR syntax error"),
            (&["a", "b", "c"], "ERR syntax error"),
            (&["TYPE", "foo"], "ERR Unknown client type 'foo'"),
            (&["ID", "x"], "ERR client-id should be greater than 0"),
            (&["ID", "0"], "ERR client-id should be greater than 0"),
            (&["SKIPME", "x"], "ERR syntax error"),
            (&["USER", "nosuch"], "ERR No such user 'nosuch'"),
            (&["MAXAGE", "10"], "ERR syntax error"),
            (&["ADDR", "1:2", "ID"], "ERR syntax error"),
        ] {
            assert_eq!(parse(words).unwrap_err(), error, "{words:?}");
        }
    }

    #[test]
    fn filters_are_combined_and_spare_their_sender_unless_told_not_to() {
        let clients = Clients::default();
        let own = clients.add("127.0.0.1:1".to_owned(), "127.0.0.1:9".to_owned(), 5, 0, 0);
        let other = clients.add("127.0.0.1:2".to_owned(), "127.0.0.1:9".to_owned(), 6, 0, 0);
        let follower = clients.add("127.0.0.1:3".to_owned(), "127.0.0.1:9".to_owned(), 7, 0, 0);
        follower.kind.store(ClientKind::Replica as u32, Ordering::Relaxed);
        let killed = |words: &[&str]| -> Vec<u64> {
            let filter = parse(words).unwrap();
            clients
                .all()
                .iter()
                .filter(|client| filter.matches(client, own.id))
                .map(|client| client.id)
                .collect()
        };
        assert_eq!(killed(&["TYPE", "normal"]), [other.id]);
        assert_eq!(killed(&["type", "normal", "skipme", "no"]), [own.id, other.id]);
        assert_eq!(killed(&["type", "replica"]), [follower.id]);
        assert!(killed(&["type", "pubsub"]).is_empty());
        other.subscriptions[0].store(1, Ordering::Relaxed);
        assert_eq!(killed(&["TYPE", "pubsub"]), [other.id]);
        assert!(killed(&["TYPE", "normal"]).is_empty());
        assert_eq!(killed(&["LADDR", "127.0.0.1:9", "ID", "2"]), [other.id]);
        assert!(killed(&["ADDR", "127.0.0.1:2", "ID", "3"]).is_empty());
        assert_eq!(killed(&["127.0.0.1:1"]), [own.id], "the old form does not spare its sender");
        assert_eq!(killed(&["USER", "default"]), [other.id, follower.id]);
    }
}
