//! Publish and subscribe: who subscribes to what, and messages on their way to connections.
//!
//! All of it is the engine's, so that subscribing, unsubscribing and publishing have one order over all workers, and a count
//! of receivers is exact. A message is not written to its receivers by who publishes it: it waits in the list of the worker
//! that owns the connection, as one shared copy however many receive it. A worker empties its list each time it has taken the
//! engine and after each connection that it has executed, so nothing overtakes a message that was published before it; other
//! workers are woken at the end of the turn ([`PubSub::wake_others`]). A publisher never waits: a subscriber that reads too
//! slowly is closed by the limit of its class.
//!
//! A message may speak of a write of its publisher that is not committed yet. It then carries that position, and waits for it
//! in the subscriber's output as a reply does.
//!
//! Nothing here outlives the process: none of it is in the log or in the image.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farkeep_core::lsn::Lsn;
use farkeep_proto::glob;
use farkeep_proto::resp::Encoder;

use crate::clients::Client;
use crate::node::Node;

/// A channel's name, or a pattern.
pub type Name = Arc<[u8]>;

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// A channel.
    Channel = 0,
    /// All channels whose name matches a pattern.
    Pattern = 1,
    /// A shard channel: a name space of its own. Without a cluster there is one shard.
    Shard = 2,
}

/// How many kinds of topics there are.
pub const TOPICS: usize = 3;

/// One published message.
#[derive(Debug)]
pub struct Message {
    /// Published by SPUBLISH.
    pub sharded: bool,
    /// Where to.
    pub channel: Box<[u8]>,
    /// What.
    pub payload: Box<[u8]>,
    /// Nobody may see it before this position is committed; zero where it already was.
    pub until: Lsn,
    /// The reign in which it was published: under another one `until` means nothing.
    pub reign: u64,
}

/// A message for one connection.
#[derive(Debug)]
pub struct Delivery {
    /// The connection.
    pub client: Arc<Client>,
    /// What to tell it.
    pub message: Arc<Message>,
    /// By which pattern it receives it, if by one.
    pub pattern: Option<Name>,
}

impl Message {
    /// Appends what a subscriber is told.
    pub fn push(&self, pattern: Option<&[u8]>, out: &mut Encoder<'_>) {
        match pattern {
            Some(pattern) => {
                out.push(4);
                out.bulk(b"pmessage");
                out.bulk(pattern);
            }
            None => {
                out.push(3);
                out.bulk(if self.sharded { b"smessage" } else { b"message" });
            }
        }
        out.bulk(&self.channel);
        out.bulk(&self.payload);
    }
}

/// Who receives a message.
#[derive(Debug, Default)]
pub struct Receivers {
    /// How many subscriptions it has reached, the publisher's own included.
    pub count: usize,
    /// The publisher's own, which it gets at once: the pattern, or `None` for the channel.
    pub own: Vec<Option<Name>>,
}

/// One subscription: the connection, and when it came among all subscriptions of that connection.
#[derive(Debug)]
struct Subscriber {
    client: Arc<Client>,
    order: u64,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: Vec<Delivery>,
    woken: bool,
}

/// Subscriptions of all connections, and what is under way to them.
#[derive(Debug, Default)]
pub struct PubSub {
    /// For each topic, by name and by the client's id.
    subscribers: [HashMap<Name, BTreeMap<u64, Subscriber>>; TOPICS],
    /// For each topic, a client's subscriptions in their order.
    names: [HashMap<u64, BTreeMap<u64, Name>>; TOPICS],
    order: u64,
    /// One for each worker that was ever addressed.
    queues: Vec<Queue>,
    waiting: usize,
}

impl PubSub {
    /// Subscribes a connection. Nothing changes if it subscribes already.
    pub fn subscribe(&mut self, client: &Arc<Client>, topic: Topic, name: &[u8]) {
        let by_name = &mut self.subscribers[topic as usize];
        if by_name.get(name).is_some_and(|subscribers| subscribers.contains_key(&client.id)) {
            return;
        }
        let name =
            by_name.get_key_value(name).map_or_else(|| Name::from(name), |(known, _)| Arc::clone(known));
        self.order += 1;
        let subscriber = Subscriber { client: Arc::clone(client), order: self.order };
        by_name.entry(Arc::clone(&name)).or_default().insert(client.id, subscriber);
        self.names[topic as usize].entry(client.id).or_default().insert(self.order, name);
        client.subscriptions[topic as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a subscription, if there is one.
    pub fn unsubscribe(&mut self, client: &Client, topic: Topic, name: &[u8]) {
        let by_name = &mut self.subscribers[topic as usize];
        let Some(subscribers) = by_name.get_mut(name) else { return };
        let Some(subscriber) = subscribers.remove(&client.id) else { return };
        if subscribers.is_empty() {
            by_name.remove(name);
        }
        let of_client = &mut self.names[topic as usize];
        if let Some(names) = of_client.get_mut(&client.id) {
            names.remove(&subscriber.order);
            if names.is_empty() {
                of_client.remove(&client.id);
            }
        }
        client.subscriptions[topic as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// What a connection subscribes to, oldest first.
    pub fn names_of(&self, client: &Client, topic: Topic) -> Vec<Name> {
        let names = self.names[topic as usize].get(&client.id);
        names.into_iter().flat_map(|names| names.values().cloned()).collect()
    }

    /// Ends all subscriptions of a connection.
    pub fn forget(&mut self, client: &Client) {
        for topic in [Topic::Channel, Topic::Pattern, Topic::Shard] {
            for name in self.names_of(client, topic) {
                self.unsubscribe(client, topic, &name);
            }
        }
    }

    /// How many channels or patterns have subscribers.
    pub fn len(&self, topic: Topic) -> usize {
        self.subscribers[topic as usize].len()
    }

    /// Every channel or pattern that has subscribers, in no particular order.
    pub fn active(&self, topic: Topic) -> impl Iterator<Item = &[u8]> {
        self.subscribers[topic as usize].keys().map(|name| &**name)
    }

    /// How many connections subscribe to just this name.
    pub fn subscribers(&self, topic: Topic, name: &[u8]) -> usize {
        self.subscribers[topic as usize].get(name).map_or(0, BTreeMap::len)
    }

    /// Sends a message on its way to everybody but its publisher, the client with the id `from`.
    pub fn publish(&mut self, message: &Arc<Message>, from: Option<u64>) -> Receivers {
        let topic = if message.sharded { Topic::Shard } else { Topic::Channel };
        let mut receivers = Receivers::default();
        let Self { subscribers, queues, waiting, .. } = self;
        let mut send = |subscriber: &Subscriber, pattern: Option<&Name>| {
            receivers.count += 1;
            let client = &subscriber.client;
            if Some(client.id) == from {
                receivers.own.push(pattern.cloned());
                return;
            }
            if queues.len() <= client.worker {
                queues.resize_with(client.worker + 1, Queue::default);
            }
            queues[client.worker].deliveries.push(Delivery {
                client: Arc::clone(client),
                message: Arc::clone(message),
                pattern: pattern.cloned(),
            });
            *waiting += 1;
        };
        let by_name = subscribers[topic as usize].get(&*message.channel);
        by_name.into_iter().flat_map(BTreeMap::values).for_each(|subscriber| send(subscriber, None));
        if topic == Topic::Channel {
            for (pattern, subscribers) in &subscribers[Topic::Pattern as usize] {
                if glob::matches(pattern, &message.channel) {
                    subscribers.values().for_each(|subscriber| send(subscriber, Some(pattern)));
                }
            }
        }
        receivers
    }

    /// Takes what is under way to the connections of a worker.
    #[inline]
    pub fn take(&mut self, worker: usize) -> Vec<Delivery> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let Some(queue) = self.queues.get_mut(worker) else { return Vec::new() };
        queue.woken = false;
        self.waiting -= queue.deliveries.len();
        std::mem::take(&mut queue.deliveries)
    }

    /// Wakes the workers that have something to deliver; `own` is awake.
    pub fn wake_others(&mut self, node: &Node, own: Option<usize>) {
        if self.waiting == 0 {
            return;
        }
        for (worker, queue) in self.queues.iter_mut().enumerate() {
            if !queue.deliveries.is_empty() && !queue.woken && Some(worker) != own {
                queue.woken = true;
                node.workers[worker].waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Clients;

    fn message(channel: &str, sharded: bool) -> Arc<Message> {
        Arc::new(Message {
            sharded,
            channel: channel.as_bytes().into(),
            payload: b"hello".as_slice().into(),
            until: Lsn::ZERO,
            reign: 0,
        })
    }

    fn client(clients: &Clients, worker: usize) -> Arc<Client> {
        clients.add("127.0.0.1:1".to_owned(), "127.0.0.1:9".to_owned(), 5, worker, 0)
    }

    #[test]
    fn a_message_reaches_each_subscription_once_on_the_worker_of_its_connection() {
        let (clients, mut pubsub) = (Clients::default(), PubSub::default());
        let (one, two) = (client(&clients, 0), client(&clients, 3));
        for _ in 0..2 {
            pubsub.subscribe(&one, Topic::Channel, b"news");
        }
        pubsub.subscribe(&two, Topic::Channel, b"news");
        pubsub.subscribe(&two, Topic::Pattern, b"n*");
        pubsub.subscribe(&two, Topic::Pattern, b"x*");
        pubsub.subscribe(&two, Topic::Shard, b"news");
        let receivers = pubsub.publish(&message("news", false), Some(one.id));
        assert_eq!((receivers.count, receivers.own.as_slice()), (3, [None].as_slice()));
        assert!(pubsub.take(0).is_empty(), "the publisher has got it already");
        let patterns: Vec<_> = pubsub.take(3).into_iter().map(|delivery| delivery.pattern).collect();
        assert_eq!(patterns, [None, Some(Name::from(b"n*".as_slice()))]);
        assert!(pubsub.take(3).is_empty());
        assert_eq!(pubsub.publish(&message("news", true), None).count, 1);
    }

    #[test]
    fn what_nobody_subscribes_to_any_more_leaves_nothing_behind() {
        let (clients, mut pubsub) = (Clients::default(), PubSub::default());
        let one = client(&clients, 0);
        for name in ["b", "a", "c"] {
            pubsub.subscribe(&one, Topic::Pattern, name.as_bytes());
        }
        pubsub.unsubscribe(&one, Topic::Pattern, b"nosuch");
        pubsub.unsubscribe(&one, Topic::Pattern, b"a");
        let names: Vec<_> = pubsub.names_of(&one, Topic::Pattern);
        assert_eq!(names, [Name::from(b"b".as_slice()), Name::from(b"c".as_slice())], "in their order");
        pubsub.subscribe(&one, Topic::Channel, b"a");
        pubsub.forget(&one);
        assert!(
            pubsub.subscribers.iter().all(HashMap::is_empty) && pubsub.names.iter().all(HashMap::is_empty)
        );
        assert!(one.subscriptions.iter().all(|count| count.load(Ordering::Relaxed) == 0));
        assert_eq!(pubsub.publish(&message("a", false), None).count, 0);
    }
}
